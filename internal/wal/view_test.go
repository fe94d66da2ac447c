package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// raft's own storage is the slow, obvious twin.
func TestAnswersRaftLikeMemoryStorage(t *testing.T) {
	for _, seed := range seeds(t, 5) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			_, o := memory(1 << 16)
			l := must(Create("/wal", testID, o))(t)
			defer l.Close()
			twin := raft.NewMemoryStorage()
			term := uint64(1)
			for range 300 {
				last, _ := l.LastIndex()
				first, _ := l.FirstIndex()
				switch rng.IntN(8) {
				case 0:
					if last >= first {
						at := first + rng.Uint64N(last-first+1)
						ok(t, errors.Join(l.Compact(at), twin.Compact(at)))
					}
				case 1:
					term++
					s := Snapshot{last + 1 + rng.Uint64N(5), term, testConf}
					ok(t, errors.Join(l.Reset(s, nil), twin.ApplySnapshot(s.memory())))
				default:
					from := last + 1
					if rng.IntN(3) == 0 && last >= first {
						term++
						from = first + rng.Uint64N(last-first+1)
					}
					entries := row(term, from, from+rng.Uint64N(5))
					ok(t, errors.Join(l.Append(hard(term, 0, 0), entries, true), twin.Append(entries)))
				}
				sameAnswers(t, rng, l, twin)
			}
		})
	}
}

func sameAnswers(t *testing.T, rng *rand.Rand, l *Log, twin *raft.MemoryStorage) {
	t.Helper()
	type answer struct {
		value any
		err   error
	}
	ask := func(s raft.Storage, at, lo, hi, size uint64) (list []answer) {
		add := func(v any, err error) { list = append(list, answer{v, err}) }
		first, err := s.FirstIndex()
		add(first, err)
		last, err := s.LastIndex()
		add(last, err)
		term, err := s.Term(at)
		add(term, err)
		if hi <= last+1 && lo < hi { // beyond, raft's own panics
			entries, err := s.Entries(lo, hi, size)
			add(brief(entries), err)
		}
		return list
	}
	last, _ := l.LastIndex()
	for range 5 {
		at, lo := rng.Uint64N(last+3), rng.Uint64N(last+2)
		hi, size := lo+rng.Uint64N(6), rng.Uint64N(200)
		got, want := ask(l, at, lo, hi, size), ask(twin, at, lo, hi, size)
		if !slices.Equal(got, want) {
			t.Fatalf("term of %d, entries [%d,%d) of %d bytes: %v, want %v", at, lo, hi, size, got, want)
		}
	}
}

// raft's loop reads while the appender writes and somebody compacts; what it
// was given does not change under it.
func TestReadersSeeWholeEntriesWhileWriting(t *testing.T) {
	_, o := memory(1 << 16)
	l := must(Create("/wal", testID, o))(t)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			var kept [][]*raftpb.Entry
			for {
				select {
				case <-done:
					for _, entries := range kept {
						for i, e := range entries[1:] {
							if e.GetIndex() != entries[i].GetIndex()+1 {
								t.Errorf("a slice changed after it was read: %s", brief(entries))
							}
						}
					}
					return
				default:
				}
				first, _ := l.FirstIndex()
				last, _ := l.LastIndex()
				entries, err := l.Entries(first, last+1, 1000)
				if err == nil {
					kept = append(kept[max(0, len(kept)-20):], entries)
				}
				_, _ = l.Term(last)
				_, _ = l.view.Snapshot()
			}
		})
	}
	term := uint64(1)
	for i := range uint64(400) {
		last, _ := l.LastIndex()
		first, _ := l.FirstIndex()
		from := last + 1
		if i%7 == 0 && last > first {
			term++
			from = last
		}
		ok(t, l.Append(hard(term, 1, 0), row(term, from, from+3), true))
		if i%5 == 0 {
			ok(t, l.Compact(first+1))
			l.SetMemorySnapshot(Snapshot{first, 1, testConf}.memory())
		}
	}
	close(done)
	readers.Wait()
	ok(t, l.Close())
}

func TestCompactionLetsEntriesGo(t *testing.T) {
	_, o := memory(1 << 20)
	l := must(Create("/wal", testID, o))(t)
	defer l.Close()
	for i := uint64(1); i < 2000; i++ {
		ok(t, l.Append(nil, row(1, i, i), true))
		if i > 50 {
			ok(t, l.Compact(i-50))
		}
		if dead := l.dropped; dead > 100 {
			t.Fatalf("%d dropped entries are still held with 50 alive", dead)
		}
	}
}

func TestMemorySnapshotAndConfState(t *testing.T) {
	_, o := memory(1 << 16)
	l := must(Create("/wal", testID, o))(t)
	defer l.Close()
	if _, err := l.view.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("without a snapshot: %v", err)
	}
	if hs, conf, err := l.InitialState(); hs != nil || conf == nil || err != nil {
		t.Errorf("a new log has state %v, %v, %v", hs, conf, err)
	}
	l.SetConfState(testConf)
	s := Snapshot{5, 2, testConf}.memory()
	s.Data = []byte("membership")
	l.SetMemorySnapshot(s)
	if got, err := l.view.Snapshot(); err != nil || !proto.Equal(got, s) {
		t.Errorf("snapshot %v, %v", got, err)
	}
	if _, conf, _ := l.InitialState(); !proto.Equal(conf, testConf) {
		t.Errorf("conf state %v", conf)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 64} {
		for _, sync := range []bool{false, true} {
			b.Run(fmt.Sprintf("batch=%d/sync=%v", batch, sync), func(b *testing.B) {
				l := must(Create(filepath.Join(b.TempDir(), "wal"), testID, Options{NoSync: !sync}))(b)
				defer l.Close()
				data := make([]byte, 300)
				entries := make([]*raftpb.Entry, batch)
				for i := range entries {
					entries[i] = &raftpb.Entry{Term: new(uint64(1)), Index: new(uint64(0)), Data: data}
				}
				hs := hard(1, 1, 0)
				b.ReportAllocs()
				b.SetBytes(int64(batch * len(data)))
				next := uint64(1)
				for b.Loop() {
					for _, e := range entries {
						*e.Index = next
						next++
					}
					*hs.Commit = next - uint64(batch) - 1
					if err := l.Append(hs, entries, true); err != nil {
						b.Fatal(err)
					}
					if err := l.Compact(next - 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "wal")
	l := must(Create(dir, testID, Options{NoSync: true}))(b)
	data := make([]byte, 300)
	for i := uint64(1); i <= 300_000; {
		var batch []*raftpb.Entry
		for range 64 {
			batch = append(batch, &raftpb.Entry{Term: new(uint64(1)), Index: new(i), Data: data})
			i++
		}
		ok(b, l.Append(hard(1, 1, i-65), batch, true))
	}
	ok(b, l.Close())
	b.ReportAllocs()
	for b.Loop() {
		ok(b, must(Open(dir, Options{}))(b).Close())
	}
}
