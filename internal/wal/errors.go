package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")
	// ErrNotFound is returned by Open for a directory without a log.
	ErrNotFound = errors.New("no log")
	// ErrExists is returned by Create for a directory with a log.
	ErrExists = errors.New("there is a log already")
)

// CorruptError says that the log is damaged where a crash cannot have damaged
// it. Nothing has been changed on disk.
type CorruptError struct {
	File   string // path of the segment
	Offset int64  // of the first bad byte's frame; -1 when it is about the file as a whole
	Reason string
	Remedy string // what the operator can do
}

const remedyReplace = "this member cannot vouch for its log any more: keep a copy of its data directory, " +
	"then restore it from a backup (kvd snapshot restore), or, in a cluster whose other members are sound, " +
	"remove this member, empty its data directory and add it again"

// Error names place, reason and remedy.
func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("log is corrupt: %s%s: %s; %s", e.File, at, e.Reason, e.Remedy)
}

func corrupt(file string, offset int64, format string, args ...any) *CorruptError {
	return &CorruptError{File: file, Offset: offset, Reason: fmt.Sprintf(format, args...), Remedy: remedyReplace}
}
