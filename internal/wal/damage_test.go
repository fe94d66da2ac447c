package wal

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/vfs"
)

// Damage that no crash makes is refused, named, and not touched.
func TestDamageIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, m *vfs.Mem)
		file string // in the error
		text string
	}{
		{"segment missing in the middle", func(t *testing.T, m *vfs.Mem) {
			ok(t, m.Remove(segmentPath(t, m, 2)))
		}, "/wal", "segment 0000000000000002-….wal is missing between 0000000000000001-000000000000000b.wal and 0000000000000003-000000000000001f.wal"},
		{"oldest segment missing", func(t *testing.T, m *vfs.Mem) {
			ok(t, m.Remove(segmentPath(t, m, 0)))
		}, "/wal", "no valid snapshot record"},
		{"bit rot in an older segment", func(t *testing.T, m *vfs.Mem) {
			edit(t, m, segmentPath(t, m, 1), func(b []byte) []byte { b[300] ^= 4; return b })
		}, "0000000000000001-", "CRC of the entry record"},
		{"older segment cut", func(t *testing.T, m *vfs.Mem) {
			edit(t, m, segmentPath(t, m, 1), func(b []byte) []byte { return b[:len(b)-3] })
		}, "0000000000000001-", "past the end of the file"},
		{"older segment cut at a frame", func(t *testing.T, m *vfs.Mem) {
			path := segmentPath(t, m, 1)
			at := frames(t, m, path)
			edit(t, m, path, func(b []byte) []byte { return b[:at[len(at)-2]] })
		}, "0000000000000002-", "records are missing"},
		{"last segment empty", func(t *testing.T, m *vfs.Mem) {
			edit(t, m, segmentPath(t, m, -1), func([]byte) []byte { return nil })
		}, "0000000000000004-", "no intact record"},
		{"segment of another log", func(t *testing.T, m *vfs.Mem) {
			rewrite(t, m, segmentPath(t, m, 1), func(e *encoder, r Record) {
				if r.Kind == KindMetadata {
					r.Identity.Cluster++
				}
				e.put(t, r)
			})
		}, "0000000000000001-", "another member or cluster"},
		{"unknown record", func(t *testing.T, m *vfs.Mem) {
			rewrite(t, m, segmentPath(t, m, -1), func(e *encoder, r Record) {
				e.put(t, r)
				if r.Kind == KindMetadata {
					e.add(9, []byte("from the future"), nil)
				}
			})
		}, "0000000000000004-", "unknown kind 9"},
		{"gap between entries", func(t *testing.T, m *vfs.Mem) {
			rewrite(t, m, segmentPath(t, m, -1), func(e *encoder, r Record) {
				if r.Kind == KindEntry {
					r.Entry.Index = new(r.Entry.GetIndex() + 1)
				}
				e.put(t, r)
			})
		}, "0000000000000004-", "are missing"},
		{"commit index without its entries", func(t *testing.T, m *vfs.Mem) {
			rewrite(t, m, segmentPath(t, m, -1), func(e *encoder, r Record) {
				if r.Kind == KindState {
					r.State.Commit += 100
				}
				e.put(t, r)
			})
		}, "/wal", "were committed"},
		{"snapshot of another term", func(t *testing.T, m *vfs.Mem) {
			rewrite(t, m, segmentPath(t, m, -1), func(e *encoder, r Record) {
				e.put(t, r)
				if r.Kind == KindMetadata {
					ok(t, e.snapshot(Snapshot{30, 1, testConf}))
					ok(t, e.snapshot(Snapshot{30, 2, testConf}))
				}
			})
		}, "0000000000000004-", "has term 1, not 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, o := long(t)
			c.make(t, m)
			before := m.Ops()
			_, err := Open("/wal", o)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(corrupt.File, c.file) || !strings.Contains(corrupt.Reason, c.text) || corrupt.Remedy == "" {
				t.Errorf("error %v", err)
			}
			if m.Ops() != before {
				t.Errorf("the log was changed: %v", m.Journal()[before:])
			}
		})
	}
}

// rewrite makes a segment anew, record by record, with CRCs that fit.
func rewrite(t *testing.T, m *vfs.Mem, path string, put func(e *encoder, r Record)) {
	t.Helper()
	e := &encoder{}
	f := must(m.Open(path, 0, 0))(t)
	in := must(newReader(f, path, nil))(t)
	for {
		rec, err := in.next()
		if err != nil {
			break
		}
		r := must(rec.show(path))(t)
		if r.Kind == KindCRC {
			e.crc = r.CRC
		}
		put(e, r)
	}
	ok(t, f.Close())
	edit(t, m, path, func(b []byte) []byte { clear(b); return append(e.buf, b[min(len(e.buf), len(b)):]...) })
}

func (e *encoder) put(t *testing.T, r Record) {
	switch r.Kind {
	case KindCRC:
		e.seed()
	case KindMetadata:
		e.identity(r.Identity)
	case KindEntry:
		e.entry(r.Entry)
	case KindState:
		e.state(r.State)
	case KindSnapshot:
		ok(t, e.snapshot(r.Snapshot))
	}
}

// One flipped bit anywhere: either it does not matter, or Open refuses. It
// never cuts away what had been synced before the last batch.
func TestFlippedBitNeverLosesEntries(t *testing.T) {
	m, o := sample(t)
	path := segmentPath(t, m, 0)
	whole := readFile(t, m, path)
	at := frames(t, m, path)
	refused := 0
	for i := range at[len(at)-1] {
		for _, bit := range []int64{i % 8, (i*5 + 3) % 8} {
			b := slices.Clone(whole)
			b[i] ^= 1 << bit
			writeFile(t, m, path, b)
			l, err := Open("/wal", o)
			var corrupt *CorruptError
			if errors.As(err, &corrupt) {
				refused++
				continue
			}
			if err != nil {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
			if last, _ := l.LastIndex(); last != 12 {
				t.Fatalf("bit %d of byte %d: the log ends at %d", bit, i, last)
			}
			ok(t, l.Close())
		}
	}
	if flips := int(at[len(at)-1]) * 2; refused < flips*9/10 {
		t.Errorf("refused %d of %d", refused, flips)
	}
}

// A value full of zeroes looks like lost sectors. If bits rot in it, and more
// was appended since, it must not pass for a torn tail.
func TestRotInZeroesIsNotTakenForTorn(t *testing.T) {
	m, o := memory(1 << 16)
	l := must(Create("/wal", testID, o))(t)
	for i := uint64(1); i <= 4; i++ {
		ok(t, l.Append(hard(1, 1, i-1), []*raftpb.Entry{entry(1, i, strings.Repeat("\x00", 4000))}, true))
	}
	ok(t, l.Close())
	path := segmentPath(t, m, 0)
	at := frames(t, m, path)
	whole := readFile(t, m, path)
	for i := 3; i < len(at)-5; i++ { // not the last batches
		if at[i+1]-at[i] < 4000 {
			continue
		}
		for name, change := range map[string]func(b []byte){
			"rot":                func(b []byte) { b[at[i]+600] = 1 },
			"rotten length":      func(b []byte) { b[at[i]+2]++ },
			"sector lost inside": func(b []byte) { clear(b[at[i]&^511 : at[i]&^511+1024]) },
		} {
			b := slices.Clone(whole)
			change(b)
			writeFile(t, m, path, b)
			_, err := Open("/wal", o)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Errorf("%s in the frame at %d: %v", name, at[i], err)
			}
		}
	}
}
