package mvcc_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// TestViewsStayWholeWhileTheWriterGoesOn writes the same value to all keys in
// each transaction, now and then deletes them all, compacts, sweeps, flushes
// and evicts, while readers check that what they see is of one moment.
func TestViewsStayWholeWhileTheWriterGoesOn(t *testing.T) {
	const keys, rounds = 40, 400
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
	var shown atomic.Pointer[mvcc.View]
	shown.Store(k.View())
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := readWhole(shown.Load(), keys); err != nil && !errors.Is(err, mvcc.ErrCollected) && !errors.Is(err, mvcc.ErrCompacted) {
					t.Error(err)
					return
				}
			}
		})
	}
	w := writer{t: t, keys: k, disk: disk}
	for round := range rounds {
		w.round(round, keys)
		shown.Store(k.View())
	}
	close(done)
	readers.Wait()
	if err := readWhole(shown.Load(), keys); err != nil {
		t.Error(err)
	}
}

// readWhole reads all keys of the view, at its revision and at an older one,
// and the newest events.
func readWhole(v *mvcc.View, keys int) error {
	all := mvcc.Span{Key: []byte("k"), End: []byte("l")}
	for _, back := range []int64{0, 3} {
		rev := v.Revision() - back
		if rev < 2 || rev < v.Compacted() {
			continue
		}
		page, err := v.Range(mvcc.Query{Span: all, Revision: rev})
		if err != nil {
			return err
		}
		if len(page.KVs) != 0 && len(page.KVs) != keys {
			return fmt.Errorf("view of %d at %d shows %d of %d keys", v.Revision(), rev, len(page.KVs), keys)
		}
		for _, wire := range page.KVs {
			kv, err := mvcc.Parse(wire)
			if err != nil {
				return err
			}
			if string(kv.Value) != fmt.Sprint(kv.Mod) || kv.Mod > rev {
				return fmt.Errorf("view at %d shows %s = %s of %d", rev, kv.Key, kv.Value, kv.Mod)
			}
		}
	}
	from := max(v.Revision()-5, v.Compacted(), 1)
	groups, _, err := v.Events(all, from, 100, 1<<20)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.Revision > v.Compacted() && len(g.Events) != keys {
			return fmt.Errorf("revision %d has %d of %d events", g.Revision, len(g.Events), keys)
		}
	}
	return nil
}

type writer struct {
	t     *testing.T
	keys  *mvcc.Keyspace
	disk  *store.Mem
	index uint64
}

func (w *writer) round(round, keys int) {
	tx := w.keys.Begin()
	if round%7 == 6 {
		tx.Delete(mvcc.Span{Key: []byte("k"), End: []byte("l")}, func(string, mvcc.Item) {})
	} else {
		for i := range keys {
			tx.Put(fmt.Appendf(nil, "k/%02d", i), fmt.Append(nil, w.keys.Revision()+1), 0)
		}
	}
	tx.End()
	if round%11 == 10 {
		if err := w.keys.Compact(w.keys.Revision() - 2); err != nil {
			w.t.Error(err)
		}
	}
	if round%5 == 4 {
		batch := w.keys.Batch()
		w.keys.Use(&store.Batch{})
		w.index++
		if err := w.disk.Commit(store.Stamp{Index: w.index, Term: 1}, batch); err != nil {
			w.t.Error(err)
		}
		w.keys.Stored(w.keys.Revision())
	}
	if _, err := w.keys.Sweep(50); err != nil {
		w.t.Error(err)
	}
	w.keys.Tidy()
}
