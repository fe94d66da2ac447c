package mvcc_test

import (
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// A piece of the hash that a compaction takes is bounded by bytes, too: a thousand rows
// of the largest size would hold up the writer for a second.
func TestAPieceOfACompactionsHashReadsLittle(t *testing.T) {
	disk := store.NewMem()
	reader, err := disk.Read()
	if err != nil {
		t.Fatal(err)
	}
	k, err := mvcc.Load(mvcc.Options{CacheBytes: 500}, disk.Read, reader, nil)
	reader.Close()
	if err != nil {
		t.Fatal(err)
	}
	const rows, each, piece = 20, 300 << 10, 1 << 20
	for range rows {
		tx := k.Begin()
		tx.Put([]byte("k"), make([]byte, each), 0)
		tx.End()
	}
	if err := k.Compact(k.Revision()); err != nil {
		t.Fatal(err)
	}
	if err := disk.Commit(store.Stamp{Index: 1, Term: 1}, k.Batch()); err != nil {
		t.Fatal(err)
	}
	k.Use(&store.Batch{})
	k.Stored(k.Revision())
	pieces := 0
	for more := true; more; pieces++ {
		if more, err = k.Sweep(1000); err != nil {
			t.Fatal(err)
		}
		if k.Removed() > 0 {
			break
		}
	}
	if least := rows * each / (piece + each + 1000); pieces < least {
		t.Errorf("the hash of %d KiB was taken in %d pieces, want at least %d", rows*each>>10, pieces, least)
	}
}
