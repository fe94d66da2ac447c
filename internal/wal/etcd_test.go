package wal

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kvd/internal/vfs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The logs in testdata/etcd-3.7.3 were written by a real etcd 3.7.3: "fresh"
// was killed after six puts, "snapshots" is the same member later, with a disk
// snapshot every ten entries, "segments" goes on past 64 MB.
func TestOpensLogsOfEtcd(t *testing.T) {
	for _, c := range []struct {
		name               string
		start, first, last uint64
		term, commit       uint64
	}{
		{"fresh", 0, 1, 11, 2, 10},
		{"snapshots", 46, 47, 46, 3, 46},
		{"segments", 101, 102, 103, 4, 103},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := must(Open(unpack(t, c.name), Options{}))(t)
			defer l.Close()
			hs, _, _ := l.InitialState()
			first, _ := l.FirstIndex()
			last, _ := l.LastIndex()
			if l.Start().Index != c.start || first != c.first || last != c.last || hs.GetTerm() != c.term || hs.GetCommit() != c.commit {
				t.Errorf("start %d, entries %d to %d, state %v; want %+v", l.Start().Index, first, last, hs, c)
			}
			if l.Identity().Member == 0 || l.Identity().Cluster == 0 || hs.GetVote() != l.Identity().Member {
				t.Errorf("identity %x, vote %x", l.Identity(), hs.GetVote())
			}
			if c.start > 0 && len(l.Start().ConfState.GetVoters()) != 1 {
				t.Errorf("conf state %v", l.Start().ConfState)
			}
		})
	}
}

// Every byte that etcd wrote is what we would have written.
func TestWritesEtcdsBytes(t *testing.T) {
	for _, name := range []string{"fresh", "snapshots", "segments"} {
		dir := unpack(t, name)
		segments, _, err := listSegments(vfs.OS{}, dir)
		ok(t, err)
		enc := &encoder{}
		for _, s := range segments {
			want := must(os.ReadFile(s.path))(t)
			enc.buf = enc.buf[:0]
			err := Dump(dir, func(r Record) error {
				if r.File != filepath.Base(s.path) {
					return nil
				}
				enc.put(t, r)
				return nil
			})
			ok(t, err)
			if !bytes.Equal(enc.buf, want) {
				t.Errorf("%s: %s differs", name, filepath.Base(s.path))
			}
		}
	}
}

func TestNewLogBeginsLikeEtcds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	etcd := unpack(t, "fresh")
	theirs := must(Open(etcd, Options{}))(t)
	id := theirs.Identity()
	ok(t, theirs.Close())
	l := must(Create(dir, id, Options{}))(t)
	ok(t, l.Close())
	name := segmentName(0, 0)
	ours := must(os.ReadFile(filepath.Join(dir, name)))(t)
	if len(ours) != 64_000_000 {
		t.Errorf("the segment has %d bytes", len(ours))
	}
	first := []byte{4, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 0x04, 0x10, 0, 0, 0, 0, 0}
	if !bytes.HasPrefix(ours, first) {
		t.Errorf("first frame % x", ours[:16])
	}
	n := used(t, vfs.OS{}, filepath.Join(dir, name))
	if want := must(os.ReadFile(filepath.Join(etcd, name)))(t); !bytes.Equal(ours[:n], want[:n]) {
		t.Errorf("headers differ:\n% x\n% x", ours[:n], want[:n])
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, name): 0o600} {
		if info := must(os.Stat(path))(t); info.Mode() != mode {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestDumpTellsTheLog(t *testing.T) {
	var b strings.Builder
	dir := unpack(t, "snapshots")
	ok(t, Dump(dir, func(r Record) error {
		fmt.Fprintf(&b, "%5d %08x %v", r.Offset, r.CRC, r.Kind)
		switch r.Kind {
		case KindMetadata:
			fmt.Fprintf(&b, " member %x cluster %x", r.Identity.Member, r.Identity.Cluster)
		case KindEntry:
			fmt.Fprintf(&b, " %d/%d %v %q", r.Entry.GetIndex(), r.Entry.GetTerm(), r.Entry.GetType(), r.Entry.GetData())
		case KindState:
			fmt.Fprintf(&b, " term %d vote %x commit %d", r.State.Term, r.State.Vote, r.State.Commit)
		case KindSnapshot:
			fmt.Fprintf(&b, " %d/%d voters %x", r.Snapshot.Index, r.Snapshot.Term, r.Snapshot.ConfState.GetVoters())
		}
		b.WriteByte('\n')
		return nil
	}))
	golden := filepath.Join("testdata", "etcd-3.7.3", "snapshots", "dump.golden")
	if *update {
		ok(t, os.WriteFile(golden, []byte(b.String()), 0o600))
	}
	if want := must(os.ReadFile(golden))(t); b.String() != string(want) {
		t.Errorf("the dump differs from %s:\n%s", golden, b.String())
	}
}

// A log of etcd that we went on with is still one log.
func TestGoesOnWithLogOfEtcd(t *testing.T) {
	dir := unpack(t, "segments")
	l := must(Open(dir, Options{}))(t)
	last, _ := l.LastIndex()
	term := must(l.Term(last))(t)
	more := row(term, last+1, last+5)
	ok(t, l.Append(hard(term, 1, last+5), more, true))
	ok(t, l.MarkSnapshot(Snapshot{Index: last + 3, Term: term, ConfState: testConf}))
	ok(t, l.Close())
	l = must(Open(dir, Options{}))(t)
	defer l.Close()
	if l.Start().Index != last+3 || !sameEntries(content(t, l), more[3:]) {
		t.Errorf("start %+v, entries %s", l.Start(), brief(content(t, l)))
	}
}

func TestSnapFileIsEtcds(t *testing.T) {
	const name = "0000000000000003-000000000000002e.snap"
	want := must(os.ReadFile(filepath.Join("testdata", "etcd-3.7.3", name)))(t)
	_, _, n := protowire.ConsumeField(want)
	_, _, tag := protowire.ConsumeTag(want[n:])
	data, _ := protowire.ConsumeBytes(want[n+tag:])
	s := &raftpb.Snapshot{}
	ok(t, proto.Unmarshal(data, s))
	dir := t.TempDir()
	ok(t, WriteSnap(dir, s))
	got := must(os.ReadFile(filepath.Join(dir, name)))(t)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes differ from etcd's %d", len(got), len(want))
	}
	if names := must(vfs.OS{}.List(dir))(t); len(names) != 1 {
		t.Errorf("left behind: %q", names)
	}
}

func TestPurgeSnapsKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	for i := range 4 {
		for _, name := range []string{"0000000000000002-%016x.snap", "%016x.snap.db"} {
			ok(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf(name, i*9)), nil, 0o600))
		}
	}
	ok(t, os.WriteFile(filepath.Join(dir, "db"), nil, 0o600))
	ok(t, PurgeSnaps(dir, 2))
	want := "0000000000000002-0000000000000012.snap 0000000000000002-000000000000001b.snap " +
		"0000000000000012.snap.db 000000000000001b.snap.db db"
	if names := must(vfs.OS{}.List(dir))(t); strings.Join(names, " ") != want {
		t.Errorf("left: %q", names)
	}
}
