package store

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A large file that is given back at once holds up every fdatasync beside it for a
// second or more: the file system frees all of it in one transaction, which tells
// the disk of each piece. So it goes bit by bit.
const (
	shrinkBytes = 8 << 20
	shrinkRest  = 20 * time.Millisecond
)

// shrink closes a file that has no name any more, nor a reader. Its space comes
// back in a while, or at once if the File is closed.
func (f *File) shrink(h *handle) error {
	fd, err := unix.FcntlInt(h.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("keep %s: %w", f.path, err), h.db.Close())
	}
	left := os.NewFile(uintptr(fd), h.file.Name())
	if err := h.db.Close(); err != nil {
		return errors.Join(err, left.Close())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == nil {
		return left.Close()
	}
	f.shrinking.Go(func() {
		defer left.Close()
		f.shrinkFile(left)
	})
	return nil
}

func (f *File) shrinkFile(file *os.File) {
	var stat unix.Stat_t
	if unix.Fstat(int(file.Fd()), &stat) != nil || stat.Nlink > 0 {
		return // somebody has given it another name
	}
	pace := time.NewTicker(shrinkRest)
	defer pace.Stop()
	for size := stat.Size; size > 0; {
		size = max(0, size-shrinkBytes)
		if file.Truncate(size) != nil {
			return // closing it does the rest
		}
		select {
		case <-pace.C:
		case <-f.closed:
			return
		}
	}
}
