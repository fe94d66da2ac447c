package wal

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// Any bytes for a last segment: Open refuses them as corrupt, changing
// nothing, or the log it makes can be appended to and opened again.
func FuzzOpen(f *testing.F) {
	m, _ := sample(f)
	whole := readFile(f, m, segmentPath(f, m, 0))
	at := frames(f, m, segmentPath(f, m, 0))
	end := at[len(at)-1]
	f.Add(whole[:end])
	f.Add(whole[:end-5])
	f.Add(append(append([]byte{}, whole[:at[12]]...), make([]byte, 700)...))
	f.Add(append(append([]byte{}, whole[:at[10]]...), whole[at[11]:end]...))
	f.Add(whole[:at[3]])
	f.Fuzz(func(t *testing.T, b []byte) { opensOrRefuses(t, b) })
}

// The same with records that are whole: four bytes make one of any kind.
func FuzzOpenRecords(f *testing.F) {
	f.Add([]byte{2, 1, 1, 0, 2, 1, 2, 0, 3, 1, 2, 0, 5, 1, 2, 0, 2, 1, 3, 0})
	f.Add([]byte{2, 1, 1, 0, 2, 1, 2, 0, 5, 2, 9, 0, 3, 2, 9, 0, 2, 2, 10, 7, 2, 3, 10, 0})
	f.Add([]byte{2, 1, 1, 0, 3, 1, 1, 0, 5, 1, 7, 0, 2, 1, 2, 0, 4, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &encoder{}
		e.seed()
		e.identity(testID)
		ok(t, e.snapshot(Snapshot{}))
		for ; len(b) >= 4; b = b[4:] {
			term, index := uint64(b[1]), uint64(b[2])
			switch Kind(b[0] % 8) {
			case KindMetadata:
				e.identity(Identity{testID.Member + term, testID.Cluster})
			case KindEntry:
				e.entry(entry(term, index, strings.Repeat(string(b[3:4]), int(b[3])*3)))
			case KindState:
				e.state(State{term, uint64(b[3]), index})
			case KindCRC:
				e.seed()
			case KindSnapshot:
				ok(t, e.snapshot(Snapshot{index, term, testConf}))
			case 6: // a lost sector
				e.buf = append(e.buf, make([]byte, -len(e.buf)&(sectorSize-1))...)
				at := int(b[1]) * sectorSize % len(e.buf)
				clear(e.buf[at:min(at+sectorSize, len(e.buf))])
			case 7:
				e.add(Kind(b[1]), b[2:4], nil)
			}
		}
		opensOrRefuses(t, e.buf)
	})
}

func opensOrRefuses(t *testing.T, b []byte) {
	m, o := memory(1 << 12)
	ok(t, m.Mkdir("/wal", 0o700))
	path := "/wal/" + segmentName(0, 0)
	writeFile(t, m, path, b)
	before := m.Ops()
	l, err := Open("/wal", o)
	if err != nil {
		if m.Ops() != before {
			t.Errorf("refused with %v, but changed: %v", err, m.Journal()[before:])
		}
		return
	}
	last, _ := l.LastIndex()
	if last == 1<<64-1 {
		return // nothing can follow
	}
	had, start := content(t, l), l.Start()
	more := entry(1, last+1, "more")
	ok(t, l.Append(nil, []*raftpb.Entry{more}, true))
	ok(t, l.Close())
	l, err = Open("/wal", o)
	if err != nil {
		t.Fatalf("opened, appended to, and then refused: %v", err)
	}
	if got := content(t, l); l.Start().Index != start.Index || !sameEntries(got, append(had, more)) {
		t.Errorf("start %d, entries %s; before start %d, %s", l.Start().Index, brief(got), start.Index, brief(had))
	}
	ok(t, l.Close())
}
