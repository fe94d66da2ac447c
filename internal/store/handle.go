package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// lockRetry is the pause between two attempts at a lock that is taken.
const lockRetry = 50 * time.Millisecond

// handle is an open bbolt file with a count of those who use it: the File, for
// as long as the handle is live, and every reader. The last one closes it, so
// a file that was replaced lives as long as somebody reads it.
type handle struct {
	db    *bolt.DB
	file  *os.File // bbolt's own
	users atomic.Int64
	of    *File // whose name it had, for sure; nil: it may have it still
}

func (h *handle) release() error {
	if h.users.Add(-1) > 0 {
		return nil
	}
	if h.of == nil {
		return h.db.Close()
	}
	return h.of.shrink(h)
}

// nameless says that the name of the file is another's, on disk, too. Its owner
// releases it next.
func (h *handle) nameless(of *File) { h.of = of }

// trim cuts off what lies behind the last page in use. A commit that needs more
// extends the file again.
func (h *handle) trim() error {
	tx, err := h.db.Begin(false)
	if err != nil {
		return err
	}
	size := tx.Size()
	return errors.Join(tx.Rollback(), h.file.Truncate(size), h.file.Sync())
}

// list writes the list of free pages, which commits leave out. The next commit
// leaves it out again.
func (h *handle) list() (err error) {
	h.db.NoFreelistSync = false
	tx, err := h.db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
			abandon(tx)
		}
	}()
	return tx.Commit()
}

// swap makes fresh the live handle and returns the one before.
func (f *File) swap(fresh *handle) (old *handle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, f.live = f.live, fresh
	return old
}

// acquire returns the live handle with a user more. The lock keeps the handle
// from being closed between the two.
func (f *File) acquire() (*handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == nil {
		return nil, ErrClosed
	}
	f.live.users.Add(1)
	return f.live, nil
}

// open locks and opens the file at f.path, and checks it first unless that has been
// done.
func (f *File) open(checked bool) (h *handle, err error) {
	flag := os.O_RDWR | os.O_CREATE
	if f.options.ReadOnly {
		flag = os.O_RDONLY
	}
	file, err := os.OpenFile(f.path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	err = f.lock(file)
	if err == nil && !checked {
		err = checkFile(context.Background(), file, f.path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f.attach(file)
}

// lock takes the file for this process. The advice to the kernel spares a cold
// start from reading page by page.
func (f *File) lock(file *os.File) error {
	if err := lock(file, f.options.ReadOnly, f.options.Timeout); err != nil {
		return fmt.Errorf("%s: %w; another server or tool has it open (fuser -v names it): stop that first", f.path, err)
	}
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_WILLNEED); err != nil {
		return fmt.Errorf("%s: fadvise: %w", f.path, err)
	}
	return nil
}

// attach gives the open, locked file to bbolt. On error the file is closed.
func (f *File) attach(file *os.File) (h *handle, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(f.corrupt(p), file.Close())
		}
	}()
	o := *bolt.DefaultOptions
	o.Timeout = f.options.Timeout
	o.NoSync = f.options.NoSync
	o.NoFreelistSync = true
	o.FreelistType = bolt.FreelistMapType
	if f.options.FreelistArray {
		o.FreelistType = bolt.FreelistArrayType
	}
	o.InitialMmapSize = f.options.InitialMmapBytes
	o.ReadOnly = f.options.ReadOnly
	o.Mlock = f.options.Resident
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return file, nil }
	db, err := bolt.Open(file.Name(), 0o600, &o)
	if f.options.Resident && (errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN)) {
		return nil, fmt.Errorf("%s: %w (%s); raise the limit (LimitMEMLOCK= of the unit, ulimit -l) to twice the size of the file and what it will grow by",
			f.path, ErrMemoryLimit, err.Error()) // not the number: nothing else is to be made of it
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	h = &handle{db: db, file: file}
	h.users.Store(1)
	return h, nil
}

// lock takes the lock that bbolt takes too. It belongs to the open file, so
// bbolt's own attempt on the same one succeeds at once.
func lock(file *os.File, shared bool, wait time.Duration) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	end := time.Now().Add(wait)
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("lock: %w", err)
		case time.Now().After(end):
			return ErrLocked
		}
		time.Sleep(lockRetry)
	}
}

// scratch is the pattern of the files that Defragment writes beside path.
func scratch(path string) string { return path + ".tmp.*" }

// removeLeftovers removes what a defragmentation that died left behind.
func removeLeftovers(path string) error {
	names, err := filepath.Glob(scratch(path))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
