package mvcc

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkSort sorts half a million rows, as a start has them: written by callers
// beside each other in about the order of keys, or in no order.
func BenchmarkSort(b *testing.B) {
	const n = 500_000
	key := func(i int) string { return fmt.Sprintf("/registry/secrets/namespace-%d/secret-%08d", i%1000, i) }
	near, any := make([]loaded, n), make([]loaded, n)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range near {
		near[i].key = fmt.Sprintf("/registry/secrets/learner/secret-%08d", i)
		any[i].key = key(i)
	}
	for at := 0; at < n; at += 64 {
		some := near[at:min(n, at+64)]
		r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	}
	r.Shuffle(n, func(i, j int) { any[i], any[j] = any[j], any[i] })
	for name, all := range map[string][]loaded{"near": near, "any": any} {
		var rows chunks
		for _, row := range all {
			rows.add(row)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				rows.byKey()
			}
		})
	}
}
