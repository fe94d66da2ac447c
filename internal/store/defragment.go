package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A transaction of a copy ends after this much, so that its dirty pages do not
// fill the memory. One that is made beside a log that is written is synced each
// syncBytes: an fdatasync of the log waits for what the disk was given before it,
// and must not find more of it than that.
const (
	chunkRows  = 10_000
	chunkBytes = 16 << 20
	syncBytes  = 512 << 10
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
	if err := f.fill(ctx, fresh, from, f.options.OnRewrite); err != nil {
		return nil, errors.Join(err, fresh.release(), os.Remove(name))
	}
	if f.options.Trim {
		if err := fresh.trim(); err != nil {
			return nil, errors.Join(err, fresh.release(), os.Remove(name))
		}
	}
	if err := os.Rename(name, f.path); err != nil {
		return nil, errors.Join(err, fresh.release(), os.Remove(name))
	}
	return fresh, nil
}

// fill copies every bucket and syncs.
func (f *File) fill(ctx context.Context, to *handle, from *moment, told func(done, total int64)) error {
	c := copying{ctx: ctx, to: to.db, from: from, total: f.InUse(), told: told, sync: !f.options.NoSync && !f.options.Trim}
	to.db.NoSync = true
	if err := c.run(); err != nil {
		return err
	}
	to.db.NoSync = f.options.NoSync
	if f.options.NoSync {
		return nil
	}
	return to.db.Sync()
}

// copying is one copy of a moment into a new file.
type copying struct {
	ctx     context.Context
	to      *bolt.DB
	from    *moment
	without []Bucket // made, but their rows are left out
	visit   func(bucket Bucket, key, value []byte) error
	told    func(done, total int64)
	sync    bool // after each transaction

	done, total int64 // bytes of rows
	dropped     int64 // done, when memory was let go of
}

func (c *copying) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.from.file.corrupt(p)
		}
	}()
	for _, name := range c.from.names() {
		if err := c.bucket(Bucket(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// bucket copies one bucket in as many transactions as its size asks for.
func (c *copying) bucket(name Bucket) error {
	rows := c.from.tx.Bucket([]byte(name)).Cursor()
	key, value := rows.First()
	if slices.Contains(c.without, name) {
		key = nil
	}
	most := chunkBytes
	if c.sync {
		most = syncBytes
	}
	for first := true; first || key != nil; first = false {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		err := c.to.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			b.FillPercent = keyFill // the rows come in order, whatever the bucket
			for n, size := 0, 0; key != nil && n < chunkRows && size < most; n++ {
				if err := c.row(b, name, key, value); err != nil {
					return err
				}
				size += len(key) + len(value)
				c.done += int64(len(key) + len(value))
				key, value = rows.Next()
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := c.pause(); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) row(to *bolt.Bucket, name Bucket, key, value []byte) error {
	if value == nil {
		return fmt.Errorf("row %x is a bucket", key)
	}
	if c.visit != nil {
		if err := c.visit(name, key, value); err != nil {
			return err
		}
	}
	return to.Put(key, value)
}

// pause hands the pages that were written to the disk, lets go of those that were
// read, and tells how far it is.
func (c *copying) pause() error {
	if c.sync {
		if err := c.to.Sync(); err != nil {
			return err
		}
	}
	if c.done-c.dropped >= letGo*1024 {
		c.dropped = c.done
		if err := c.from.dropCache(); err != nil {
			return err
		}
	}
	if c.told != nil {
		c.told(min(c.done, c.total), c.total)
	}
	return nil
}
