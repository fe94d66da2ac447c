package wal

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/vfs"
)

// sample makes a closed log of a few batches in one segment: entries 1..12 of
// term 1, each batch with a commit index, snapshot record at 4. The last batch
// is of several sectors.
func sample(t testing.TB) (*vfs.Mem, Options) {
	t.Helper()
	m, o := memory(1 << 14)
	l := must(Create("/wal", testID, o))(t)
	for at := uint64(1); at <= 10; at += 3 {
		entries := row(1, at, at+2)
		if at == 10 {
			for _, e := range entries {
				e.Data = bytes.Repeat([]byte("abc"), 250)
			}
		}
		ok(t, l.Append(hard(1, 1, at-1), entries, true))
		if at == 4 {
			ok(t, l.MarkSnapshot(Snapshot{4, 1, testConf}))
		}
	}
	ok(t, l.Close())
	return m, o
}

// long makes a closed log of five segments of ten entries each, but six in the
// last: entries 1..46.
func long(t testing.TB) (*vfs.Mem, Options) {
	t.Helper()
	m, o := memory(1024)
	l := must(Create("/wal", testID, o))(t)
	for at := uint64(1); at <= 46; at += 2 {
		ok(t, l.Append(hard(1, 1, at-1), []*raftpb.Entry{
			entry(1, at, strings.Repeat("x", 100)), entry(1, at+1, strings.Repeat("y", 30)),
		}, true))
	}
	ok(t, l.Close())
	return m, o
}

func segmentPath(t testing.TB, m *vfs.Mem, i int) string {
	t.Helper()
	segments, _, err := listSegments(m, "/wal")
	ok(t, err)
	if i < 0 {
		i += len(segments)
	}
	return segments[i].path
}

// edit changes a file's bytes.
func edit(t testing.TB, m *vfs.Mem, path string, change func(b []byte) []byte) {
	t.Helper()
	writeFile(t, m, path, change(readFile(t, m, path)))
}

// States that a crash leaves: Open copes, and says what the log holds.
func TestStatesAfterCrashAreOpened(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, m *vfs.Mem, path string)
		want uint64 // last entry
	}{
		{"as closed", func(*testing.T, *vfs.Mem, string) {}, 12},
		{"left-over files", func(t *testing.T, m *vfs.Mem, _ string) {
			writeFile(t, m, "/wal/0.tmp", []byte("headers of a segment that never was"))
			writeFile(t, m, "/wal/1.tmp", nil)
			ok(t, m.Mkdir("/wal.tmp", 0o700))
			writeFile(t, m, "/wal.tmp/"+segmentName(0, 0), []byte("x"))
		}, 12},
		{"foreign files", func(t *testing.T, m *vfs.Mem, _ string) {
			writeFile(t, m, "/wal/README", []byte("hello"))
			writeFile(t, m, "/wal/"+segmentName(7, 7)+".broken", []byte("x"))
		}, 12},
		{"no space behind the data", func(t *testing.T, m *vfs.Mem, path string) {
			n := used(t, m, path)
			edit(t, m, path, func(b []byte) []byte { return b[:n] })
		}, 12},
		{"file ends in a length word", func(t *testing.T, m *vfs.Mem, path string) {
			at := frames(t, m, path)
			edit(t, m, path, func(b []byte) []byte { return b[:at[len(at)-2]+3] })
		}, 12}, // the last frame is a state
		{"file ends in a record", func(t *testing.T, m *vfs.Mem, path string) {
			at := frames(t, m, path)
			edit(t, m, path, func(b []byte) []byte { return b[:at[len(at)-3]+20] })
		}, 11},
		{"sector of a record lost", func(t *testing.T, m *vfs.Mem, path string) {
			n := used(t, m, path)
			lost := (n - 1) &^ 511
			edit(t, m, path, func(b []byte) []byte { clear(b[lost:]); return b })
		}, 11},
		{"first sector of a batch lost, a later one not", func(t *testing.T, m *vfs.Mem, path string) {
			n := (used(t, m, path) + 511) &^ 511
			edit(t, m, path, func(b []byte) []byte { copy(b[n+512:], bytes.Repeat([]byte{7}, 512)); return b })
		}, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, o := sample(t)
			c.make(t, m, segmentPath(t, m, -1))
			before := readFile(t, m, segmentPath(t, m, -1))
			l := must(Open("/wal", o))(t).settle()
			if last, _ := l.LastIndex(); last != c.want || l.Start().Index != 4 {
				t.Errorf("starts at %d, ends at %d", l.Start().Index, last)
			}
			if err := l.Append(nil, row(1, c.want+1, c.want+2), true); err != nil {
				t.Error(err)
			}
			ok(t, l.Close())
			path := segmentPath(t, m, -1)
			if after := readFile(t, m, path); int64(len(after)) != o.SegmentBytes || !zero(after[used(t, m, path):]) {
				t.Errorf("%d bytes, or debris behind the data", len(after))
			}
			names := must(m.List("/wal"))(t)
			if i := slices.IndexFunc(names, isTemp); i >= 0 {
				t.Errorf("%s is still there", names[i])
			}
			if slices.Contains(names, filepath.Base(path)+brokenSuffix) && !bytes.Equal(readFile(t, m, path+brokenSuffix), before) {
				t.Error("the copy made before the repair differs from the file")
			}
			l = must(Open("/wal", o))(t)
			if last, _ := l.LastIndex(); last != c.want+2 {
				t.Errorf("ends at %d after two more", last)
			}
			ok(t, l.Close())
		})
	}
}

// A file cut anywhere is a torn tail: what is whole before the cut is kept.
func TestTornTailIsRepairedAtEveryLength(t *testing.T) {
	m, o := sample(t)
	path := segmentPath(t, m, 0)
	whole := readFile(t, m, path)
	at := frames(t, m, path)
	header := at[3] // CRC, metadata, snapshot 0
	for n := header; n <= at[len(at)-1]; n++ {
		writeFile(t, m, path, whole[:n])
		l, err := Open("/wal", o)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		ok(t, l.Close())
		kept := at[0]
		for _, end := range at {
			if end <= n {
				kept = end
			}
		}
		if after := readFile(t, m, path); !bytes.Equal(after[:kept], whole[:kept]) || !zero(after[kept:]) {
			t.Fatalf("cut at %d: not what was whole up to %d", n, kept)
		}
	}
}

func TestSnapshotBeyondCommitIsIgnored(t *testing.T) {
	m, o := long(t)
	rewrite(t, m, segmentPath(t, m, -1), func(e *encoder, r Record) {
		e.put(t, r)
		if r.Kind == KindMetadata {
			ok(t, e.snapshot(Snapshot{20, 1, testConf}))
			ok(t, e.snapshot(Snapshot{99, 1, testConf}))
		}
	})
	l := must(Open("/wal", o))(t)
	defer l.Close()
	if l.Start().Index != 20 {
		t.Errorf("starts at %d", l.Start().Index)
	}
}

func TestOpenAtPosition(t *testing.T) {
	_, o := long(t)
	for _, index := range []uint64{0, 1, 7, 20, 46} {
		o.At = &Snapshot{Index: index, Term: min(index, 1)}
		l := must(Open("/wal", o))(t)
		last, _ := l.LastIndex()
		term, _ := l.Term(index)
		hs, _, _ := l.InitialState()
		if got := len(content(t, l)); last != 46 || got != int(46-index) || term != min(index, 1) || hs.GetCommit() < index {
			t.Errorf("at %d: %d entries, last %d, term %d, state %v", index, got, last, term, hs)
		}
		ok(t, l.Close())
	}
	for _, at := range []Snapshot{{Index: 47, Term: 1}, {Index: 20, Term: 2}} {
		o.At = &at
		if _, err := Open("/wal", o); err == nil || !strings.Contains(err.Error(), "vouches") {
			t.Errorf("at %+v: %v", at, err)
		}
	}
}

// Entries that a leader's snapshot made void do not come back, though they
// have higher indexes.
func TestResetDropsWhatWasThere(t *testing.T) {
	_, o := memory(1 << 14)
	l := must(Create("/wal", testID, o))(t)
	ok(t, l.Append(hard(1, 0, 3), row(1, 1, 20), true))
	ok(t, l.Reset(Snapshot{15, 2, testConf}, hard(2, 0, 15)))
	check := func(when string, first, last uint64) {
		t.Helper()
		gotFirst, _ := l.FirstIndex()
		gotLast, _ := l.LastIndex()
		term, _ := l.Term(15)
		s, err := l.view.Snapshot()
		if gotFirst != first || gotLast != last || term != 2 || err != nil || s.GetMetadata().GetIndex() != 15 {
			t.Errorf("%s: entries %d to %d, term %d, snapshot %v, %v", when, gotFirst, gotLast, term, s, err)
		}
	}
	check("after reset", 16, 15)
	ok(t, l.Close())
	l = must(Open("/wal", o))(t)
	check("opened", 16, 15)
	ok(t, l.Append(hard(2, 0, 16), row(2, 16, 17), true))
	ok(t, l.Close())
	l = must(Open("/wal", o))(t)
	check("with more", 16, 17)
	ok(t, l.Close())
}

// The store may ask for a mark just when a leader's snapshot has taken the log
// further. The simulator found a log that could not be opened any more.
func TestMarkBehindALeadersSnapshotIsLeftOut(t *testing.T) {
	_, o := memory(1 << 14)
	l := must(Create("/wal", testID, o))(t)
	ok(t, l.Append(hard(1, 0, 17), row(1, 1, 17), true))
	ok(t, l.Reset(Snapshot{27, 2, testConf}, hard(2, 0, 27)))
	ok(t, l.MarkSnapshot(Snapshot{17, 1, testConf}))
	ok(t, l.Append(hard(2, 0, 28), row(2, 28, 28), true))
	ok(t, l.Close())
	l = must(Open("/wal", o))(t)
	if start := l.Start().Index; start != 27 {
		t.Errorf("starts at %d, want 27", start)
	}
	if last, _ := l.LastIndex(); last != 28 {
		t.Errorf("ends at %d, want 28", last)
	}
	ok(t, l.Close())
}

func TestSecondProcessIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		o   Options
		dir string
	}{
		"os":  {Options{SegmentBytes: 4096}, filepath.Join(t.TempDir(), "wal")},
		"mem": {Options{SegmentBytes: 4096, Files: vfs.NewMem()}, "/wal"},
	} {
		t.Run(name, func(t *testing.T) {
			l := must(Create(c.dir, testID, c.o))(t)
			if _, err := Open(c.dir, c.o); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("created and opened again: %v", err)
			}
			ok(t, l.Close())
			l = must(Open(c.dir, c.o))(t)
			if _, err := Open(c.dir, c.o); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("opened again: %v", err)
			}
			ok(t, l.Close())
		})
	}
}

func TestCreateLeavesAloneWhatIsNotALog(t *testing.T) {
	m, o := memory(4096)
	ok(t, m.Mkdir("/wal", 0o700))
	writeFile(t, m, "/wal/precious", []byte("x"))
	if _, err := Create("/wal", testID, o); err == nil || !strings.Contains(err.Error(), "precious") {
		t.Errorf("error %v", err)
	}
	ok(t, m.Remove("/wal/precious"))
	ok(t, must(Create("/wal", testID, o))(t).Close())
	if _, err := Create("/wal", testID, o); !errors.Is(err, ErrExists) {
		t.Errorf("over a log: %v", err)
	}
	if _, err := Open("/nothing", o); err == nil {
		t.Error("opened nothing")
	}
	ok(t, m.Mkdir("/empty", 0o700))
	if _, err := Open("/empty", o); !errors.Is(err, ErrNotFound) {
		t.Errorf("opened an empty directory: %v", err)
	}
}

func TestPurgeKeepsWhatIsNeeded(t *testing.T) {
	m, o := long(t)
	l := must(Open("/wal", o))(t).settle()
	count := func() int {
		segments, _, err := listSegments(m, "/wal")
		ok(t, err)
		return len(segments)
	}
	all := count()
	ok(t, l.Purge(1))
	if count() != all {
		t.Errorf("%d of %d segments left, none was released", count(), all)
	}
	ok(t, l.MarkSnapshot(Snapshot{Index: 20, Term: 1, ConfState: testConf}))
	ok(t, l.Purge(4))
	if count() != 4 {
		t.Errorf("%d segments left, 4 to be kept", count())
	}
	ok(t, l.MarkSnapshot(Snapshot{Index: 25, Term: 1, ConfState: testConf}))
	ok(t, l.Purge(1))
	if segmentPath(t, m, 0) != "/wal/"+segmentName(2, 0x15) {
		t.Errorf("oldest segment is %s", segmentPath(t, m, 0))
	}
	ok(t, l.Close())
	l = must(Open("/wal", o))(t)
	if got := content(t, l); len(got) != 21 || got[0].GetIndex() != 26 {
		t.Errorf("entries %s", brief(got))
	}
	ok(t, l.Close())
}

func TestCommitAloneIsNotWritten(t *testing.T) {
	m, o := memory(1 << 14)
	l := must(Create("/wal", testID, o))(t).settle()
	ok(t, l.Append(hard(1, 1, 0), row(1, 1, 5), false))
	before := m.Ops()
	for i := range uint64(5) {
		ok(t, l.Append(hard(1, 1, i+1), nil, false))
	}
	if m.Ops() != before {
		t.Errorf("a commit index was written: %v", m.Journal()[before:])
	}
	ok(t, l.Append(hard(2, 1, 5), nil, false))
	if ops := m.Journal()[before:]; len(ops) != 2 || ops[1].Kind != vfs.Sync {
		t.Errorf("a new term is to be written and synced at once: %v", ops)
	}
	before = m.Ops()
	ok(t, l.Append(hard(2, 1, 5), row(2, 6, 69), false))
	if ops := m.Journal()[before:]; len(ops) != 2 || ops[0].Kind != vfs.Write || ops[1].Kind != vfs.Sync {
		t.Errorf("a batch is one write and one sync, not %v", ops)
	}
	ok(t, l.Append(hard(2, 1, 60), nil, false))
	ok(t, l.Close())
	l = must(Open("/wal", o))(t)
	if hs, _, _ := l.InitialState(); hs.GetCommit() != 60 {
		t.Errorf("Close lost the commit index: %v", hs)
	}
	ok(t, l.Close())
}

func TestBrokenPromisesPanic(t *testing.T) {
	_, o := memory(1 << 14)
	l := must(Create("/wal", testID, o))(t)
	defer l.Close()
	ok(t, l.Append(hard(1, 1, 5), row(1, 1, 5), true))
	ok(t, l.Compact(3))
	for name, entries := range map[string][]*raftpb.Entry{
		"gap before": row(1, 7, 8), "compacted": row(1, 3, 6), "gap inside": append(row(1, 6, 6), row(1, 8, 8)...),
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			_ = l.Append(nil, entries, true)
		}()
	}
	for name, err := range map[string]error{
		"snapshot beyond the end":     l.MarkSnapshot(Snapshot{6, 1, testConf}),
		"snapshot without membership": l.MarkSnapshot(Snapshot{Index: 4, Term: 1}),
		"compact beyond the end":      l.Compact(6),
		"reset to nothing":            l.Reset(Snapshot{}, nil),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := l.Append(nil, row(1, 6, 6), true); err != nil {
		t.Errorf("the log suffered: %v", err)
	}
}
