package bootstrap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
	"kvd/internal/wal"
)

const sentAt = 40 // the leader's snapshot is of this entry

// behind makes a member that has fallen behind: five entries, three of them in
// the database.
func behind(t *testing.T) Options {
	t.Helper()
	o := alone(t.TempDir())
	live(t, o, 4, 3)
	return o
}

// send puts the leader's database where Receive does, holding entries up to at.
func send(t *testing.T, o Options, name string, at uint64) {
	t.Helper()
	from := alone(t.TempDir())
	live(t, from, 0, 0)
	f, err := store.Open(from.storePath(), from.Store)
	must(t, err)
	b := &store.Batch{}
	b.Put(store.Members, []byte("1234"), []byte(`{"id":4660,"peerURLs":["http://127.0.0.1:9"],"name":"sent"}`))
	must(t, errors.Join(f.Commit(store.Stamp{Index: at, Term: 5}, b), f.Close()))
	must(t, os.Rename(from.storePath(), filepath.Join(o.snapDir(), name)))
}

// reset makes the log begin behind the leader's snapshot, as the appender does.
func reset(t *testing.T, o Options) {
	t.Helper()
	l, err := wal.Open(o.walDir(), o.Log)
	must(t, err)
	s := wal.Snapshot{Index: sentAt, Term: 5, ConfState: &raftpb.ConfState{Voters: []uint64{4660}}}
	must(t, errors.Join(l.Reset(s, &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64), Commit: new(uint64(sentAt))}), l.Close()))
}

func imageName(index uint64) string { return filepath.Base((&Options{}).imagePath(index)) }

// TestASnapshotInterruptedAnywhereIsRecovered leaves what a crash leaves at each
// step of taking a snapshot from the leader.
func TestASnapshotInterruptedAnywhereIsRecovered(t *testing.T) {
	for _, c := range []struct {
		name    string
		crash   func(t *testing.T, o Options)
		applied uint64
		members string
		left    []string // of what was received
	}{
		{"the image is half written", func(t *testing.T, o Options) {
			must(t, os.WriteFile(filepath.Join(o.snapDir(), "tmp123"), []byte(strings.Repeat("x", 5000)), 0o600))
		}, 3, "", nil},
		{"the image has its name", func(t *testing.T, o Options) {
			send(t, o, imageName(sentAt), sentAt)
		}, 3, "", []string{"0000000000000028.snap.db"}},
		{"the log begins behind it", func(t *testing.T, o Options) {
			send(t, o, imageName(sentAt), sentAt)
			reset(t, o)
		}, sentAt, "sent", nil},
		{"the log begins behind it and there was no database", func(t *testing.T, o Options) {
			send(t, o, imageName(sentAt), sentAt)
			reset(t, o)
			must(t, os.Remove(o.storePath()))
		}, sentAt, "sent", nil},
		{"it is the database", func(t *testing.T, o Options) {
			send(t, o, "db", sentAt)
			reset(t, o)
		}, sentAt, "sent", nil},
		{"an older one was never used", func(t *testing.T, o Options) {
			send(t, o, imageName(2), 2)
			send(t, o, imageName(3), 3)
		}, 3, "", nil},
		{"older and newer ones are there", func(t *testing.T, o Options) {
			send(t, o, imageName(2), 2)
			send(t, o, imageName(sentAt), sentAt)
			send(t, o, imageName(sentAt+9), sentAt+9)
			send(t, o, "nothing.snap.db", 1)
			reset(t, o)
		}, sentAt, "sent", []string{imageName(sentAt + 9), "nothing.snap.db"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := behind(t)
			c.crash(t, o)
			for range 2 { // it stays so
				m, err := Open(t.Context(), o)
				must(t, err)
				index, _ := m.Machine.Applied()
				if members := m.Machine.Members().Members(); index != c.applied || c.members == "" && len(members) > 0 || c.members != "" && (len(members) != 1 || members[0].Name != c.members) {
					t.Errorf("applied %d, want %d; members %v, want %q", index, c.applied, members, c.members)
				}
				if m.New {
					t.Error("it is new")
				}
				must(t, m.Close())
				images, err := filepath.Glob(filepath.Join(o.snapDir(), "*.snap.db"))
				must(t, err)
				temps, err := filepath.Glob(filepath.Join(o.snapDir(), "tmp*"))
				must(t, err)
				var left []string
				for _, path := range append(images, temps...) {
					left = append(left, filepath.Base(path))
				}
				if strings.Join(left, " ") != strings.Join(c.left, " ") {
					t.Errorf("left over: %q, want %q", left, c.left)
				}
			}
		})
	}
}

// TestAJoinerRecoversItsFirstSnapshot: its log has nothing but that.
func TestAJoinerRecoversItsFirstSnapshot(t *testing.T) {
	o := joiner(t.TempDir(), running())
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	send(t, o, imageName(sentAt), sentAt)
	reset(t, o)
	o.Peers = nil
	m, err = Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if index, _ := m.Machine.Applied(); index != sentAt || m.ID != 0x33 {
		t.Errorf("applied %d, member %s", index, m.ID)
	}
}

func TestASnapshotThatCannotBeRecoveredIsRefused(t *testing.T) {
	const remedy = "remove this member from its cluster and add it again with an empty directory"
	t.Run("it is not there", func(t *testing.T) {
		o := behind(t)
		reset(t, o)
		refused(t, o, ErrInconsistent, "begins behind entry 40", "ends at 3", imageName(sentAt)+" is not there", remedy)
	})
	t.Run("it is cut short", func(t *testing.T) {
		o := behind(t)
		send(t, o, imageName(sentAt), sentAt)
		must(t, os.Truncate(o.imagePath(sentAt), int64(os.Getpagesize())))
		reset(t, o)
		refused(t, o, nil, imageName(sentAt), "cut short", remedy)
	})
	t.Run("it is of another entry", func(t *testing.T) {
		o := behind(t)
		send(t, o, imageName(sentAt), sentAt-1)
		reset(t, o)
		refused(t, o, ErrInconsistent, imageName(sentAt), "ends at entry 39", remedy)
	})
	t.Run("the log is gone", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 0, 0)
		send(t, o, imageName(sentAt), sentAt)
		must(t, os.RemoveAll(o.walDir()))
		refused(t, o, ErrInconsistent, imageName(sentAt), "put the log back")
	})
}
