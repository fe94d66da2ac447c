package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A transaction of a copy ends after this much, so that its dirty pages do not
// fill the memory. One that is made beside a log that is written is synced each
// syncBytes: an fdatasync of the log waits for what the disk was given before it,
// and must not find more of it than that. Then it rests for twice as long as that took,
// at most longestRest: most of a processor, and of the disk, is for others.
const (
	chunkRows   = 10_000
	chunkBytes  = 16 << 20
	syncBytes   = 256 << 10
	restFactor  = 2
	longestRest = 50 * time.Millisecond
)

// Defragment rewrites the file without its free pages, as fast as it can. It is the
// committer who calls it, so that the file stands still; reads go on throughout.
// Rewrite does the same while commits go on, too.
func (f *File) Defragment(ctx context.Context) (err error) {
	w, err := f.Rewrite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.copy(ctx, false); err != nil {
		return w.wrap(err)
	}
	return w.Finish(ctx)
}

// copying is one copy of a moment into a new file.
type copying struct {
	ctx     context.Context
	to      *bolt.DB
	from    *moment
	without []Bucket // made, but their rows are left out
	visit   func(bucket Bucket, key, value []byte) error
	told    func(done, total int64)
	sync    bool // after each transaction, and rest

	done, total int64 // bytes of rows
	dropped     int64 // done, when memory was let go of
}

// run copies all of the moment in the first round, and in others what has changed.
func (c *copying) run(r round) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.from.file.corrupt(p)
		}
	}()
	for _, name := range c.from.names() {
		bucket := Bucket(name)
		if err := errors.Join(c.again(bucket, r.changed[bucket]), c.behind(bucket, r.ends[bucket], r.first)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// again copies rows of the moment over what was copied of them before, and removes
// those that are gone.
func (c *copying) again(name Bucket, changed notes) error {
	rows := c.from.tx.Bucket([]byte(name))
	keys := changed.keys()
	for len(keys) > 0 {
		err := c.piece(name, func(b *bolt.Bucket, full func() bool) error {
			for len(keys) > 0 && !full() {
				key := keys[0]
				keys = keys[1:]
				value := rows.Get(key)
				if value == nil {
					c.done += int64(len(key))
					if err := b.Delete(key); err != nil {
						return err
					}
					continue
				}
				if err := c.row(b, name, key, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// behind copies the rows of a bucket behind a key, in order. The bucket is made
// though it be empty.
func (c *copying) behind(name Bucket, last end, first bool) error {
	rows := c.from.tx.Bucket([]byte(name)).Cursor()
	key, value := rows.Seek(last)
	if last != nil && string(key) == string(last) {
		key, value = rows.Next()
	}
	if slices.Contains(c.without, name) {
		key = nil
	}
	for ; first || key != nil; first = false {
		err := c.piece(name, func(b *bolt.Bucket, full func() bool) error {
			for key != nil && !full() {
				if err := c.row(b, name, key, value); err != nil {
					return err
				}
				key, value = rows.Next()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// piece is one transaction, and what follows it.
func (c *copying) piece(name Bucket, fill func(to *bolt.Bucket, full func() bool) error) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	began, before, most, n := time.Now(), c.done, int64(chunkBytes), 0
	if c.sync {
		most = syncBytes
	}
	full := func() bool {
		n++
		return n > chunkRows || c.done-before >= most
	}
	err := c.to.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		b.FillPercent = keyFill // the rows come in order, whatever the bucket
		return fill(b, full)
	})
	if err != nil {
		return err
	}
	return c.pause(began)
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
	c.done += int64(len(key) + len(value))
	return to.Put(key, value)
}

// pause hands the pages that were written to the disk, lets go of those that were
// read, tells how far it is, and rests.
func (c *copying) pause(began time.Time) error {
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
	if !c.sync {
		return nil
	}
	rest := time.NewTimer(min(restFactor*time.Since(began), longestRest))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}
