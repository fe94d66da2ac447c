// Package vfs is the few file operations that the log needs, so that tests can
// fail and crash them. OS is the real thing; Mem is its twin in memory, which
// remembers what was synced and can show the disk as a crash would leave it.
// It is not a general file system: no seeking, no permissions beyond creation,
// no links.
package vfs

import (
	"errors"
	"io"
	"os"
)

// ErrLocked is returned by File.Lock when somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Names are paths; errors for missing and existing files
// satisfy errors.Is with os.ErrNotExist and os.ErrExist. Safe for concurrent
// use.
type FS interface {
	// Open opens a file with os.O_… flags; perm is used when it is created.
	Open(name string, flag int, perm os.FileMode) (File, error)
	// Mkdir makes one directory; its parent must exist.
	Mkdir(dir string, perm os.FileMode) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename replaces what to names. Both are in the same directory.
	Rename(from, to string) error
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
}

// File is an open file. One goroutine uses it at a time.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer // gives up the lock
	Size() (int64, error)
	Truncate(size int64) error
	// Allocate reserves space for size bytes and makes the file at least that
	// long, with zeroes; it never shortens it.
	Allocate(size int64) error
	// Datasync makes content and length durable.
	Datasync() error
	// Sync makes content, length and metadata durable.
	Sync() error
	// Lock takes the file for this File alone, without waiting: ErrLocked when
	// another File, of any process, has it. The file must be open for writing.
	Lock() error
}
