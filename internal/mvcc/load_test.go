package mvcc_test

import (
	"fmt"
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

func TestBoundsShareOutRowsNotRevisions(t *testing.T) {
	disk, rows := store.NewMem(), &store.Batch{}
	row := func(main, sub int64) {
		rows.Put(store.Key, mvcc.Revision{Main: main, Sub: sub}.Append(nil), fmt.Appendf(nil, "\x0a\x04%04d", main%1000))
	}
	for main := range int64(300) { // large transactions first
		for sub := range int64(100) {
			row(main+2, sub)
		}
	}
	for main := range int64(9000) {
		row(main+302, 0)
	}
	if err := disk.Commit(store.Stamp{Index: 1, Term: 1}, rows); err != nil {
		t.Fatal(err)
	}
	reader, err := disk.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	bounds, err := mvcc.Bounds(reader, 2)
	if err != nil || len(bounds) != 3 {
		t.Fatalf("bounds %v, %v", bounds, err)
	}
	first, all := 0, 0
	reader.Scan(store.Key, nil, nil, func(k, _ []byte) bool {
		rev, _, _ := mvcc.ParseKey(k)
		if all++; rev.Main < bounds[1] {
			first++
		}
		return true
	})
	if share := float64(first) / float64(all); share < 0.3 || share > 0.8 {
		t.Errorf("the first of two parts has %.0f %% of the rows (bounds %v)", share*100, bounds)
	}
}
