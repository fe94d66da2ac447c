package mvcc

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRowsAreSortedByKey(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		rows := make([]loaded, r.IntN(400))
		want := make([]string, 0, len(rows))
		for i := range rows {
			key := make([]byte, r.IntN(30))
			for j := range key {
				key[j] = byte(r.IntN(3)) // zero bytes, and many that share a beginning
			}
			rows[i].key = string(key)
			want = append(want, string(key))
		}
		slices.Sort(want)
		last := uint32(0)
		for i, p := range inKeyOrder(rows) {
			if got := rows[p.row].key; got != want[i] {
				t.Fatalf("row %d of %d is %q, want %q", i, len(rows), got, want[i])
			}
			if i > 0 && want[i-1] == want[i] && p.row < last {
				t.Fatalf("rows %d and %d, of one key, are in this order", last, p.row)
			}
			last = p.row
		}
	}
}
