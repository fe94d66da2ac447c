package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OS is the file system of the machine.
type OS struct{}

// Open opens a file.
func (OS) Open(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

// Mkdir makes a directory.
func (OS) Mkdir(dir string, perm os.FileMode) error { return os.Mkdir(dir, perm) }

// Remove removes a file or an empty directory.
func (OS) Remove(name string) error { return os.Remove(name) }

// Rename replaces what to names.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// List returns the names in dir, sorted.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// SyncDir makes changes of the directory durable.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

type osFile struct {
	*os.File
	fd int // valid until Close
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *osFile) Allocate(size int64) error {
	if size <= 0 {
		return nil
	}
	err := uninterrupted(func() error { return unix.Fallocate(f.fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.extend(size) // tmpfs of old, NFS: the zeroes without the promise
	}
	return f.fault("allocate", err)
}

func (f *osFile) extend(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	return f.Truncate(size)
}

func (f *osFile) Datasync() error {
	return f.fault("fdatasync", uninterrupted(func() error { return unix.Fdatasync(f.fd) }))
}

// Lock takes an open-file-description lock, the kind etcd takes: flock(2)
// would not see it, and the other way round.
func (f *osFile) Lock() error {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := uninterrupted(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &whole) })
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	}
	return f.fault("lock", err)
}

func (f *osFile) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

func uninterrupted(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR { //nolint:errorlint // system calls return it bare
			return err
		}
	}
}
