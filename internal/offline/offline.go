// Package offline is what can be done to the files of a member that does not
// run: tell what a snapshot holds, hash its keys, check log and database,
// rewrite the database, show the log. It begins no member and serves nobody;
// that is bootstrap's and daemon's.
//
// Files come from anywhere, so nothing in them is trusted: whatever they hold,
// the answer is a result or a diagnosis. A file that a process has open is
// refused.
package offline

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"kvd/internal/bootstrap"
	"kvd/internal/store"
)

// Options are common to all that opens files.
type Options struct {
	// Timeout is how long to wait for another process to let go of a file. 0:
	// for ever.
	Timeout time.Duration
	// Progress is told how far a long work is: done of total, in the unit that
	// what names. May be nil.
	Progress func(what string, done, total int64)
}

func (o *Options) progress(what string, done, total int64) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

// dropEvery is how many bytes are read of a database before its pages are let
// go of: a file of any size is read within a bounded part of the memory.
const dropEvery = 64 << 20

var errEmpty = errors.New("is empty")

// open opens a database to be read. A file that is not there is not made.
func (o *Options) open(path string) (*store.File, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case info.Size() == 0:
		return nil, fmt.Errorf("%s %w; nothing can be had from it: take another one, or see whether the disk was full", path, errEmpty)
	}
	wait := o.Timeout
	if wait == 0 {
		wait = math.MaxInt64
	}
	file, err := store.Open(path, store.Options{ReadOnly: true, Timeout: wait, OnRewrite: func(done, total int64) {
		o.progress("copying the database", done, total)
	}})
	if errors.Is(err, store.ErrLocked) {
		return nil, fmt.Errorf("%w: %s has %s open; stop it first, or work on a snapshot (kvctl snapshot save)",
			bootstrap.ErrHeld, bootstrap.HolderOf(path), path)
	}
	return file, err
}
