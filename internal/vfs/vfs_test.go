package vfs_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"syscall"
	"testing"

	"kvd/internal/vfs"
)

// Both file systems must tell the log the same.
func TestConformance(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.Mkdir("/tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fs  vfs.FS
		dir string
	}{"os": {vfs.OS{}, t.TempDir()}, "mem": {mem, "/tmp"}} {
		t.Run(name, func(t *testing.T) { conform(t, c.fs, c.dir) })
	}
}

func conform(t *testing.T, fs vfs.FS, dir string) {
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
	}
	at := func(name string) string { return path.Join(dir, name) }
	_, err := fs.Open(at("a"), os.O_RDWR, 0)
	check("open what is not there", err, os.ErrNotExist)
	check("mkdir in what is not there", fs.Mkdir(at("x/y"), 0o700), os.ErrNotExist)
	check("mkdir", fs.Mkdir(at("d"), 0o700), nil)
	check("mkdir again", fs.Mkdir(at("d"), 0o700), os.ErrExist)

	a, err := fs.Open(at("a"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	check("create", err, nil)
	_, err = fs.Open(at("a"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	check("create again", err, os.ErrExist)
	check("lock", a.Lock(), nil)
	other, err := fs.Open(at("a"), os.O_RDWR, 0)
	check("open again", err, nil)
	check("lock what is locked", other.Lock(), vfs.ErrLocked)

	check("allocate", a.Allocate(100), nil)
	check("allocate less", a.Allocate(10), nil)
	_, err = a.WriteAt([]byte("xyz"), 99)
	check("write", err, nil)
	if size, err := a.Size(); size != 102 || err != nil {
		t.Fatalf("size %d, %v", size, err)
	}
	got := make([]byte, 8)
	if n, _ := other.ReadAt(got, 97); n != 5 || !bytes.Equal(got[:n], []byte("\x00\x00xyz")) {
		t.Fatalf("read %q", got[:n])
	}
	check("truncate", a.Truncate(100), nil)
	check("truncate up", a.Truncate(102), nil)
	if n, _ := a.ReadAt(got, 99); n != 3 || !bytes.Equal(got[:n], []byte("x\x00\x00")) {
		t.Fatalf("truncation left %q", got[:n])
	}
	check("datasync", a.Datasync(), nil)
	check("sync", a.Sync(), nil)
	check("rename", fs.Rename(at("a"), at("b")), nil)
	check("syncdir", fs.SyncDir(dir), nil)
	if names, _ := fs.List(dir); !slices.Equal(names, []string{"b", "d"}) {
		t.Fatalf("names %q", names)
	}
	check("close", a.Close(), nil)
	check("lock what was closed", other.Lock(), nil)
	check("close", other.Close(), nil)

	f, err := fs.Open(at("d/f"), os.O_RDWR|os.O_CREATE, 0o600)
	check("create in directory", err, nil)
	check("close", f.Close(), nil)
	if err := fs.Remove(at("d")); err == nil {
		t.Fatal("a directory with a file in it was removed")
	}
	check("remove", fs.Remove(at("d/f")), nil)
	check("remove directory", fs.Remove(at("d")), nil)
	check("remove what is not there", fs.Remove(at("d")), os.ErrNotExist)
	_, err = fs.List(at("d"))
	check("list what is not there", err, os.ErrNotExist)
}

func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	m := vfs.NewMem()
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	f, err := m.Open("/f", os.O_CREATE, 0)
	do(err, m.SyncDir("/"), f.Allocate(2048), f.Sync())
	_, err = f.WriteAt(bytes.Repeat([]byte{1}, 2048), 0)
	do(err, m.Rename("/f", "/g"))

	content := func(m *vfs.Mem, name string) []byte {
		f, err := m.Open(name, 0, 0)
		if err != nil {
			return nil
		}
		size, _ := f.Size()
		b := make([]byte, size)
		_, _ = f.ReadAt(b, 0)
		return b
	}
	if b := content(m.Crash(m.Ops(), vfs.Lost, nil), "/f"); !bytes.Equal(b, make([]byte, 2048)) {
		t.Errorf("lost: %v", b)
	}
	if b := content(m.Crash(m.Ops(), vfs.Kept, nil), "/g"); !bytes.Equal(b, bytes.Repeat([]byte{1}, 2048)) {
		t.Errorf("kept: %v", b)
	}
	if b := content(m.Crash(2, vfs.Kept, nil), "/f"); len(b) != 0 {
		t.Errorf("before the allocation: %v", b)
	}
	torn := 0
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		disk := m.Crash(m.Ops(), vfs.Torn, rng)
		b := append(content(disk, "/f"), content(disk, "/g")...)
		if len(b) != 2048 {
			t.Fatalf("torn: %d bytes", len(b))
		}
		ones := 0
		for at := 0; at < len(b); at += 512 {
			n := bytes.Count(b[at:at+512], []byte{1})
			if n != 0 && n != 512 {
				t.Fatalf("a sector is torn: %d", n)
			}
			ones += n
		}
		if ones != 0 && ones != 2048 {
			torn++
		}
	}
	if torn == 0 {
		t.Error("no write was torn in 100 crashes")
	}
}

func TestFaultStopsChange(t *testing.T) {
	m := vfs.NewMem()
	f, err := m.Open("/f", os.O_CREATE, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.Fault = func(_ int, op *vfs.Op) error {
		op.Land = 2
		return syscall.ENOSPC
	}
	if _, err := f.WriteAt([]byte("abc"), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("sync: %v", err)
	}
	if size, _ := f.Size(); size != 2 {
		t.Errorf("%d bytes landed", size)
	}
}
