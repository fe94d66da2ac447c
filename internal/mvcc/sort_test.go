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
		var rows chunks
		n := r.IntN(400)
		want := make([]string, 0, n)
		for range n {
			key := make([]byte, r.IntN(30))
			for j := range key {
				key[j] = byte(r.IntN(3)) // zero bytes, and many that share a beginning
			}
			rows.add(loaded{key: string(key)})
			want = append(want, string(key))
		}
		slices.Sort(want)
		places := rows.byKey()
		for i, p := range places {
			if key := rows.at(p.row).key; key != want[i] {
				t.Fatalf("row %d of %d is %q, want %q", i, n, key, want[i])
			}
			if i > 0 && want[i] == want[i-1] && p.row < places[i-1].row {
				t.Fatalf("rows %d and %d have the key %q and changed places", p.row, places[i-1].row, want[i])
			}
		}
	}
}
