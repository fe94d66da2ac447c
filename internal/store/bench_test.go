package store

import (
	"path/filepath"
	"testing"
)

// BenchmarkCommit commits 5000 rows of 100 bytes that append to bucket key.
func BenchmarkCommit(b *testing.B) {
	f, err := Open(filepath.Join(b.TempDir(), "db"), Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		fill(b, f, n, 5000)
		n += 5000
	}
}
