package offline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kvd/internal/bootstrap"
	"kvd/internal/store"
)

func TestRestoreClearsWhatOneThatDiedHasLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	left := filepath.Join(dir, "member.restoring", "snap")
	must(t, os.MkdirAll(left, 0o700))
	must(t, os.WriteFile(filepath.Join(left, "db"), []byte("half"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "member.bad-1"), 0o700)) // set aside by a rejoin
	r := Restore{Snapshot: snapshot(t), Member: options(dir)}
	made, err := r.Run(t.Context(), Options{})
	must(t, err)
	if made.From != 55 || made.Revision != 55 || made.Alarms != 1 {
		t.Errorf("%+v", made)
	}
	starts(t, dir)
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
}

func TestRestoreKeepsAnotherOneOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	building := filepath.Join(dir, "member.restoring")
	must(t, os.MkdirAll(building, 0o700))
	other, err := os.Open(building)
	must(t, err)
	defer other.Close()
	must(t, unix.Flock(int(other.Fd()), unix.LOCK_EX))
	r := Restore{Snapshot: snapshot(t), Member: options(dir)}
	if _, err := r.Run(t.Context(), Options{}); !errors.Is(err, bootstrap.ErrHeld) {
		t.Errorf("error %v", err)
	}
}

// A restore that ends early leaves the world as it was, at whatever row.
func TestRestoreThatIsCutShortLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "data")
	ctx, cancel := context.WithCancel(t.Context())
	o := Options{Progress: func(what string, _, _ int64) {
		if strings.HasPrefix(what, "copying") {
			cancel()
		}
	}}
	r := Restore{Snapshot: snapshot(t), Member: options(dir)}
	if _, err := r.Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, os.Mkdir(dir, 0o700)) // as systemd makes it
	r.Member.Name = "nobody"
	if _, err := r.Run(t.Context(), Options{}); !errors.Is(err, bootstrap.ErrCluster) {
		t.Errorf("error %v", err)
	}
	r.Member = options(dir)
	r.Bump = 1 << 63
	if _, err := r.Run(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "cannot be raised") {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestRestoredFilesBelongToTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chown(dir, 12345, 12346))
	r := Restore{Snapshot: snapshot(t), Member: options(dir)}
	_, err := r.Run(t.Context(), Options{})
	must(t, err)
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		must(t, err)
		if s := info.Sys().(*syscall.Stat_t); s.Uid != 12345 || s.Gid != 12346 {
			t.Errorf("%s belongs to %d:%d", path, s.Uid, s.Gid)
		}
		return nil
	}))
}

func TestADatabaseOfSomebodyElseIsNotRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	from, err := store.Open(sample(t, "etcd-3.7.3.db"), store.Options{InitialMmapBytes: 1 << 20})
	must(t, err)
	later := &store.Batch{}
	later.Put(store.Meta, []byte("storageVersion"), []byte("9.9.0"))
	must(t, from.CopyInto(t.Context(), path, store.Alter{Rows: later}))
	must(t, from.Close())
	r := Restore{Snapshot: path, Member: options(filepath.Join(t.TempDir(), "data")), Unverified: true}
	if _, err := r.Run(t.Context(), Options{}); !errors.Is(err, bootstrap.ErrVersion) {
		t.Errorf("a layout of version 9.9: %v", err)
	}
	report, err := CheckFile(t.Context(), path, Options{})
	must(t, err)
	if report.Sound() {
		t.Errorf("a layout of version 9.9 is sound: %+v", report)
	}
}
