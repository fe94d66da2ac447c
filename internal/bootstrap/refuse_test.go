package bootstrap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kvd/internal/store"
	"kvd/internal/wal"
)

func TestAMissingDatabaseBehindASnapshotIsRefused(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 2)
	mark(t, o, 2)
	must(t, os.Remove(o.storePath()))
	refused(t, o, ErrInconsistent, o.storePath(), "missing", "behind entry 2", "restore")
}

func TestADatabaseOlderThanTheLogIsRefused(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 1)
	old, err := os.ReadFile(o.storePath())
	must(t, err)
	live(t, o, 0, 3)
	mark(t, o, 3)
	must(t, os.WriteFile(o.storePath(), old, 0o600))
	refused(t, o, ErrInconsistent, o.storePath(), "ends at 1", "behind entry 3", "put the newer database")
}

func TestADatabaseNewerThanTheLogIsRefused(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 0, 7)
	refused(t, o, ErrInconsistent, o.storePath(), "up to 7", "ends at 1", "acknowledged entries are missing")
}

func TestAMissingLogIsNotMadeAgain(t *testing.T) {
	t.Run("the database knows", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 3, 2)
		must(t, os.RemoveAll(o.walDir()))
		refused(t, o, ErrInconsistent, o.storePath(), "up to 2", "put the log back")
	})
	t.Run("a snapshot knows", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 0, 0)
		must(t, os.RemoveAll(o.walDir()))
		must(t, os.WriteFile(filepath.Join(o.snapDir(), "0000000000000002-0000000000000003.snap"), nil, 0o600))
		refused(t, o, ErrInconsistent, "0000000000000003.snap", "put the log back")
	})
}

func TestCorruptFilesAreRefusedUntouched(t *testing.T) {
	spoil := func(t *testing.T, path string, at int64, with string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte(with), at)
		must(t, errors.Join(err, f.Close()))
	}
	t.Run("database", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 3, 2)
		spoil(t, o.storePath(), 0, strings.Repeat("x", 3*os.Getpagesize()))
		var corrupt *store.CorruptError
		_, err := Open(t.Context(), o)
		if !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
		refused(t, o, nil, o.storePath(), "corrupt", "restore this member from a snapshot")
	})
	t.Run("database cut short", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 3, 2)
		must(t, os.Truncate(o.storePath(), int64(os.Getpagesize())))
		refused(t, o, nil, o.storePath(), "corrupt", "cut short")
	})
	t.Run("log", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 5, 2)
		segments, err := filepath.Glob(filepath.Join(o.walDir(), "*.wal"))
		must(t, err)
		spoil(t, segments[0], 150, "xxxx")
		var corrupt *wal.CorruptError
		_, err = Open(t.Context(), o)
		if !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
		refused(t, o, nil, segments[0], "corrupt", "at offset", "restore")
	})
	t.Run("no segment is whole", func(t *testing.T) {
		o := alone(t.TempDir())
		live(t, o, 5, 2)
		segments, err := filepath.Glob(filepath.Join(o.walDir(), "*.wal"))
		must(t, err)
		must(t, os.Truncate(segments[0], 0))
		refused(t, o, nil, segments[0], "corrupt")
	})
}

func TestStorageVersionsThatAreKnown(t *testing.T) {
	for version, ok := range map[string]bool{
		"": true, "3.5.0": true, "3.6.0": true, "3.7.0": true,
		"3.4.0": false, "3.8.0": false, "4.0.0": false, "new": false,
	} {
		t.Run(version, func(t *testing.T) {
			o := alone(t.TempDir())
			live(t, o, 2, 2)
			if version != "" {
				put(t, o, store.Meta, "storageVersion", version)
			}
			if !ok {
				refused(t, o, ErrVersion, o.storePath(), `version "`+version+`" is not supported`, "start the version that wrote it")
				return
			}
			m, err := Open(t.Context(), o)
			must(t, err)
			must(t, m.Close())
		})
	}
}

func TestWhatIsNoMemberIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(dir string) error
		kind error
		part string
	}{
		{"proxy", func(dir string) error { return os.Mkdir(filepath.Join(dir, "proxy"), 0o700) }, ErrNotAMember, "proxy"},
		{"both", func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "proxy"), 0o700), os.Mkdir(filepath.Join(dir, "member"), 0o700))
		}, nil, "both member and proxy directories exist"},
		{"file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "member"), nil, 0o600) }, nil, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := alone(t.TempDir())
			must(t, c.make(o.DataDir))
			refused(t, o, c.kind, o.DataDir, c.part)
		})
	}
	t.Run("the data directory is a file", func(t *testing.T) {
		o := alone(filepath.Join(t.TempDir(), "data"))
		must(t, os.WriteFile(o.DataDir, nil, 0o600))
		_, err := Open(t.Context(), o)
		if !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), o.DataDir) {
			t.Error(err)
		}
	})
}
