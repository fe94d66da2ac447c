package bootstrap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"kvd/internal/store"
	"kvd/internal/vfs"
	"kvd/internal/wal"
)

func appendEmpty(t testing.TB, l *wal.Log) {
	t.Helper()
	last, err := l.LastIndex()
	must(t, err)
	index, term := last+1, uint64(1)
	must(t, l.Append(&raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &index},
		[]*raftpb.Entry{{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum()}}, true))
}

func TestAnEmptyDirectoryBecomesAMember(t *testing.T) {
	o := alone(filepath.Join(t.TempDir(), "not", "there", "yet"))
	m, err := Open(t.Context(), o)
	must(t, err)
	if !m.New {
		t.Error("it is not new")
	}
	last, err := m.Log.LastIndex()
	must(t, err)
	if last != 1 {
		t.Errorf("the log has %d entries, want 1: the addition of the member", last)
	}
	id := m.ID
	must(t, m.Close())
	for _, dir := range []string{o.DataDir, o.memberDir(), o.snapDir(), o.own(), o.walDir()} {
		info, err := os.Stat(dir)
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %s", dir, info.Mode())
		}
	}
	o.Cluster, o.Name = nil, "other" // of no effect any more
	m, err = Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if m.New || m.ID != id {
		t.Errorf("reopened: new %v, member %s, want %s", m.New, m.ID, id)
	}
}

// TestAFirstStartThatDiedIsAFirstStartAgain makes what is left by a start that
// died at each of its steps.
func TestAFirstStartThatDiedIsAFirstStartAgain(t *testing.T) {
	want := func() *Member {
		m, err := Open(t.Context(), alone(t.TempDir()))
		must(t, err)
		must(t, m.Close())
		return m
	}()
	mkdirs := func(t *testing.T, o Options) {
		for _, dir := range []string{o.snapDir(), o.own()} {
			must(t, os.MkdirAll(dir, 0o700))
		}
	}
	write := func(t *testing.T, path, text string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
	makeStore := func(t *testing.T, o Options) {
		f, err := store.Open(o.storePath(), o.Store)
		must(t, err)
		must(t, f.Close())
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, o Options)
	}{
		{"data directory", func(t *testing.T, o Options) { must(t, os.MkdirAll(o.DataDir, 0o700)) }},
		{"member directory", func(t *testing.T, o Options) { must(t, os.MkdirAll(o.memberDir(), 0o700)) }},
		{"all directories", mkdirs},
		{"lock", func(t *testing.T, o Options) {
			mkdirs(t, o)
			l, err := Hold(o.own())
			must(t, err)
			must(t, l.Release())
		}},
		{"half a database", func(t *testing.T, o Options) {
			mkdirs(t, o)
			write(t, filepath.Join(o.snapDir(), "tmp.db"), strings.Repeat("x", 5000))
		}},
		{"an empty database, as etcd leaves it", func(t *testing.T, o Options) { mkdirs(t, o); write(t, o.storePath(), "") }},
		{"a database", func(t *testing.T, o Options) { mkdirs(t, o); makeStore(t, o) }},
		{"half a log", func(t *testing.T, o Options) {
			mkdirs(t, o)
			makeStore(t, o)
			must(t, os.Mkdir(o.walDir()+".tmp", 0o700))
			write(t, filepath.Join(o.walDir()+".tmp", "0000000000000000-0000000000000000.wal"), strings.Repeat("x", 5000))
		}},
		{"an empty log directory", func(t *testing.T, o Options) { mkdirs(t, o); must(t, os.Mkdir(o.walDir(), 0o700)) }},
		{"a log without entries", func(t *testing.T, o Options) {
			mkdirs(t, o)
			makeStore(t, o)
			l, err := wal.Create(o.walDir(), wal.Identity{Member: uint64(want.ID), Cluster: uint64(want.Cluster)}, o.Log)
			must(t, err)
			must(t, l.Close())
		}},
		{"a log without entries and half of the next segment", func(t *testing.T, o Options) {
			mkdirs(t, o)
			makeStore(t, o)
			l, err := wal.Create(o.walDir(), wal.Identity{Member: uint64(want.ID), Cluster: uint64(want.Cluster)}, o.Log)
			must(t, err)
			must(t, l.Close())
			write(t, filepath.Join(o.walDir(), "0.tmp"), "x")
		}},
		{"half of the first entries", func(t *testing.T, o Options) {
			o.Name = strings.Repeat("n", 1000) // they take more than a sector
			o.Cluster = []Seed{{o.Name, []string{peerURL}}}
			live(t, o, 0, 0)
			tear(t, o)
		}},
		{"everything", func(t *testing.T, o Options) { live(t, o, 0, 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := alone(filepath.Join(t.TempDir(), "data"))
			c.make(t, o)
			m, err := Open(t.Context(), o)
			must(t, err)
			last, err := m.Log.LastIndex()
			must(t, err)
			if m.ID != want.ID || m.Cluster != want.Cluster || last != 1 {
				t.Errorf("member %s of cluster %s with %d entries, want %s of %s with 1", m.ID, m.Cluster, last, want.ID, want.Cluster)
			}
			must(t, m.Close())
			left, err := filepath.Glob(filepath.Join(o.snapDir(), "tmp*"))
			must(t, err)
			if _, err := os.Stat(o.walDir() + ".tmp"); err == nil || len(left) > 0 {
				t.Errorf("left over: %v, %v", left, err)
			}
			m, err = Open(t.Context(), o)
			must(t, err)
			must(t, m.Close())
		})
	}
}

// tear makes the last batch of a log one that was cut by an outage: its last
// sector is missing.
func tear(t *testing.T, o Options) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(o.walDir(), "*.wal"))
	must(t, err)
	b, err := os.ReadFile(segments[0])
	must(t, err)
	end := len(strings.TrimRight(string(b), "\x00"))
	clear(b[end&^511:])
	must(t, os.WriteFile(segments[0], b, 0o600))
}

func TestAnotherConfigurationDoesNotFinishAFirstStart(t *testing.T) {
	o := alone(t.TempDir())
	must(t, os.MkdirAll(o.snapDir(), 0o700))
	l, err := wal.Create(o.walDir(), wal.Identity{Member: 1, Cluster: 2}, o.Log)
	must(t, err)
	must(t, l.Close())
	// The database that the start makes meanwhile is an empty one.
	m, err := Open(t.Context(), o)
	if !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "died before it was complete") {
		t.Errorf("%v, %v", m, err)
	}
}

func TestARestoredDirectoryIsServed(t *testing.T) {
	o := alone(t.TempDir())
	o.Name = "m1"
	unpack(t, o.DataDir)
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if got := m.ID.String(); m.New || got != "fa52afcbfa8a8338" {
		t.Errorf("new %v, member %s", m.New, got)
	}
	if rev := m.Machine.Revision(); rev != 6 {
		t.Errorf("revision %d, want 6", rev)
	}
	for key, want := range map[string]string{"a": "3", "b": "(none)", "c": "4"} {
		if got := value(t, m, key); !strings.Contains(got, want) {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	if n := m.Machine.View().Leases.Len(); n != 1 {
		t.Errorf("%d leases, want 1", n)
	}
	if index, term := m.Machine.Applied(); index != 1 || term != 1 {
		t.Errorf("at entry %d of term %d, want 1 of 1", index, term)
	}
	if members := m.Machine.Members().Members(); len(members) != 1 || members[0].ID != m.ID {
		t.Errorf("members %v", members)
	}
}

func TestTheLogMayHaveAPlaceOfItsOwn(t *testing.T) {
	o := alone(t.TempDir())
	o.WALDir = filepath.Join(t.TempDir(), "fast", "disk", "wal")
	live(t, o, 3, 2)
	if !wal.Exists(o.WALDir) || wal.Exists(o.usualWAL()) {
		t.Error("the log is not where it should be")
	}
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	o.WALDir = ""
	refused(t, o, ErrInconsistent, o.storePath(), "no log in "+o.usualWAL())
}

func TestALogThatIsElsewhereIsNotMadeAgain(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 0) // the database knows of nothing yet
	o.WALDir = filepath.Join(t.TempDir(), "wal")
	refused(t, o, ErrInconsistent, "wal-dir", o.usualWAL())
}

func TestAMissingDatabaseIsMadeOfAWholeLog(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 2)
	must(t, os.Remove(o.storePath()))
	out := &logged{}
	o.Logger = out.logger()
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if index, _ := m.Machine.Applied(); index != 0 || m.New {
		t.Errorf("at entry %d, new %v", index, m.New)
	}
	if last, err := m.Log.LastIndex(); last != 4 || err != nil {
		t.Errorf("the log ends at %d: %v", last, err)
	}
	if !strings.Contains(out.String(), "the database is missing") {
		t.Error(out.String())
	}
}

func TestOddDirectoriesAreWarnedOf(t *testing.T) {
	o := alone(t.TempDir())
	must(t, os.Chmod(o.DataDir, 0o755))
	must(t, os.WriteFile(filepath.Join(o.DataDir, "notes"), nil, 0o600))
	out := &logged{}
	o.Logger = out.logger()
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	for _, part := range []string{"check file permission", "rwxr-xr-x", "found invalid file under data directory", "notes"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%s\nlacks %q", out, part)
		}
	}
}

func TestTheHolderOfTheDirectoryIsNamed(t *testing.T) {
	o := alone(t.TempDir())
	m, err := Open(t.Context(), o)
	must(t, err)
	self := "process " + pid() + " ("
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), self) {
		t.Errorf("%v\nis not ErrHeld by %q", err, self)
	}
	must(t, m.Close())

	// etcd knows nothing of kvd's lock and locks the database.
	db, err := os.OpenFile(o.storePath(), os.O_RDWR, 0)
	must(t, err)
	defer db.Close()
	must(t, unix.Flock(int(db.Fd()), unix.LOCK_EX))
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), self) {
		t.Errorf("%v\nis not ErrHeld by %q", err, self)
	}
}

func TestALogInUseIsRefused(t *testing.T) {
	o := alone(t.TempDir())
	o.WALDir = filepath.Join(t.TempDir(), "wal")
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	other := alone(t.TempDir())
	other.WALDir = o.WALDir
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), o.WALDir) {
		t.Errorf("%v", err)
	}
}

// full is a file system without space.
type full struct{ vfs.OS }

func (f full) Open(name string, flag int, perm os.FileMode) (vfs.File, error) {
	file, err := f.OS.Open(name, flag, perm)
	return noSpace{file, name}, err
}

type noSpace struct {
	vfs.File
	name string
}

func (f noSpace) Allocate(int64) error {
	return &os.PathError{Op: "fallocate", Path: f.name, Err: syscall.ENOSPC}
}

func TestAFullDiskIsNamedAndLeavesAFirstStart(t *testing.T) {
	o := alone(t.TempDir())
	o.Log.Files = full{}
	_, err := Open(t.Context(), o)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), o.walDir()) || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("%v", err)
	}
	m, err := Open(t.Context(), alone(o.DataDir))
	must(t, err)
	if !m.New {
		t.Error("not a first start")
	}
	must(t, m.Close())
}

func TestOpenGivesUpWhenToldTo(t *testing.T) {
	o := alone(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(string) { cancel() }
	if _, err := Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	m, err := Open(t.Context(), alone(o.DataDir))
	must(t, err)
	must(t, m.Close())
}
