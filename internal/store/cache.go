package store

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// DropCache takes the file's pages out of the process's resident memory, where
// a start's full read has put all of them. The kernel's page cache keeps what it
// likes, and pages that are read again come back. A Resident file keeps them.
func (f *File) DropCache() error {
	if f.options.Resident {
		return nil
	}
	m, err := f.moment() // keeps the mapping where it is
	if err != nil {
		return err
	}
	return errors.Join(m.dropCache(), m.Close())
}

func (m *moment) dropCache() error {
	if m.file.options.Resident {
		return nil
	}
	info := m.handle.db.Info()
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, info.Data, uintptr(m.tx.Size()), unix.MADV_DONTNEED)
	if errno != 0 {
		return fmt.Errorf("drop the cache of %s: %w", m.file.path, errno)
	}
	return nil
}
