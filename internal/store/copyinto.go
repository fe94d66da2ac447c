package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Alter says in what a copy differs from its original.
type Alter struct {
	Without []Bucket // buckets whose rows are left out
	Rows    *Batch   // added at the end; nil: none
	Stamp   Stamp
	// Visit sees every row before it is copied, and ends the copy by an error.
	// The slices are valid until it returns. May be nil.
	Visit func(bucket Bucket, key, value []byte) error
}

// CopyInto writes the rows of the present moment into a new file, in order and
// without free pages, and returns when it is on disk. There must be no file at
// path; after an error there is none.
func (f *File) CopyInto(ctx context.Context, path string, a Alter) error {
	if err := f.copyInto(ctx, path, a); err != nil {
		return fmt.Errorf("copy %s: %w", f.path, err)
	}
	return nil
}

func (f *File) copyInto(ctx context.Context, path string, a Alter) (err error) {
	from, err := f.moment()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := lock(file, false, f.options.Timeout); err != nil {
		return errors.Join(err, file.Close())
	}
	c := copying{ctx: ctx, from: from, without: a.Without, visit: a.Visit, total: from.tx.Size(), told: f.options.OnRewrite}
	if err := errors.Join(c.whole(file), ctx.Err()); err != nil {
		return errors.Join(err, file.Close())
	}
	to := &File{path: path, options: Options{NoSync: true}.complete(), closed: make(chan struct{})}
	if to.live, err = to.attach(file); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	rows := a.Rows
	if rows == nil {
		rows = &Batch{}
	}
	if err := makeBuckets(to.live.db); err != nil {
		return err
	}
	if err := to.Commit(a.Stamp, rows); err != nil {
		return err
	}
	return errors.Join(to.live.trim(), syncDir(filepath.Dir(path)))
}
