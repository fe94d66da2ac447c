package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A transaction of a defragmentation ends after this much, so that its dirty
// pages do not fill the memory.
const (
	chunkRows  = 10_000
	chunkBytes = 16 << 20
)

// Defragment rewrites the file without its free pages. It is the committer who
// calls it, so that the file stands still; reads go on throughout, and a reader
// that is open keeps the old file until it closes. Whatever fails before the
// new file has taken the name leaves the old one in service and removes the
// new one.
func (f *File) Defragment(ctx context.Context) error {
	if f.options.ReadOnly {
		return fmt.Errorf("defragment %s: %w", f.path, ErrReadOnly)
	}
	if f.dead != nil {
		return f.dead
	}
	start := time.Now()
	fresh, err := f.rewrite(ctx)
	if err != nil {
		return fmt.Errorf("defragment %s: %w", f.path, err)
	}
	old := f.swap(fresh)
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		// An outage may bring the old file back, without what would be
		// committed to the new one. So nothing may be.
		f.dead = fmt.Errorf("defragment %s: the new file is in place but maybe not on disk: %w", f.path, err)
		return errors.Join(f.dead, old.release())
	}
	if err := errors.Join(f.measure(fresh), old.release()); err != nil {
		return fmt.Errorf("defragment %s: %w", f.path, err)
	}
	if f.options.OnDefragment != nil {
		f.options.OnDefragment(time.Since(start))
	}
	return nil
}

// swap makes fresh the live handle and returns the one before.
func (f *File) swap(fresh *handle) (old *handle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, f.live = f.live, fresh
	return old
}

// rewrite copies the present moment into a new file, which is locked from its
// first byte, and gives it the name.
func (f *File) rewrite(ctx context.Context) (fresh *handle, err error) {
	from, err := f.moment()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	file, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(scratch(f.path)))
	if err != nil {
		return nil, err
	}
	name := file.Name()
	fresh, err = f.attach(file)
	if err != nil {
		return nil, errors.Join(err, os.Remove(name))
	}
	if err := f.fill(ctx, fresh, from); err != nil {
		return nil, errors.Join(err, fresh.release(), os.Remove(name))
	}
	if err := os.Rename(name, f.path); err != nil {
		return nil, errors.Join(err, fresh.release(), os.Remove(name))
	}
	return fresh, nil
}

// fill copies every bucket and syncs once, at the end.
func (f *File) fill(ctx context.Context, to *handle, from *moment) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = f.corrupt(p)
		}
	}()
	to.db.NoSync = true
	c := from.tx.Cursor()
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		if err := copyBucket(ctx, to.db, from.tx, name); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	to.db.NoSync = f.options.NoSync
	if f.options.NoSync {
		return nil
	}
	return to.db.Sync()
}

// copyBucket copies one bucket in as many transactions as its size asks for.
func copyBucket(ctx context.Context, to *bolt.DB, from *bolt.Tx, name []byte) error {
	source := from.Bucket(name)
	if source == nil {
		return errors.New("not a bucket")
	}
	c := source.Cursor()
	key, value := c.First()
	for first := true; first || key != nil; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := to.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			b.FillPercent = keyFill // the rows come in order, whatever the bucket
			for rows, size := 0, 0; key != nil && rows < chunkRows && size < chunkBytes; rows++ {
				if value == nil {
					return fmt.Errorf("row %x is a bucket", key)
				}
				if err := b.Put(key, value); err != nil {
					return err
				}
				size += len(key) + len(value)
				key, value = c.Next()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
