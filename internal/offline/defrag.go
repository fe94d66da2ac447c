package offline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"kvd/internal/bootstrap"
	"kvd/internal/store"
)

// Defragmented is what a defragmentation has gained.
type Defragmented struct {
	Before, After int64 // size in bytes
}

// Defrag rewrites the database of a member that does not run, without its free
// pages. The new file is written beside and takes the name when it is on disk;
// whatever fails before leaves the old one.
func Defrag(ctx context.Context, at bootstrap.Options, o Options) (d Defragmented, err error) {
	defer func() { err = bootstrap.Explain(err) }()
	paths := at.Paths()
	if _, err := os.Stat(paths.Database); err != nil { // or it would be made
		return d, err
	}
	remains, err := hold(at, o.Timeout)
	if err != nil {
		return d, err
	}
	remains.Release() // of the shared locks; what follows excludes everybody
	if _, err := os.Stat(paths.Own); err == nil {
		lock, err := bootstrap.Hold(paths.Own)
		if err != nil {
			return d, err
		}
		defer lock.Release() //nolint:errcheck // it ends with the process
	}
	wait := o.Timeout
	if wait == 0 {
		wait = math.MaxInt64
	}
	file, err := store.Open(paths.Database, store.Options{Timeout: wait, Trim: true, OnRewrite: func(done, total int64) {
		o.progress("rewriting the database", done, total)
	}})
	if errors.Is(err, store.ErrLocked) {
		return d, fmt.Errorf("%w: %s has %s open; stop it first", bootstrap.ErrHeld, bootstrap.HolderOf(paths.Database), paths.Database)
	}
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	d.Before = file.Size()
	if err := file.Defragment(ctx); err != nil {
		return d, err
	}
	d.After = file.Size()
	return d, nil
}
