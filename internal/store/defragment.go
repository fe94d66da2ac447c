package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A transaction of a copy ends after this much, so that its dirty pages do not
// fill the memory, and a write of whole after writeBytes. One that is made beside a log that is written is synced each
// syncBytes: an fdatasync of the log waits for what the disk was given before it,
// and must not find more of it than that. Then it rests for twice as long as that took,
// at most longestRest: most of a processor, and of the disk, is for others.
const (
	chunkRows   = 10_000
	chunkBytes  = 16 << 20
	writeBytes  = 1 << 20
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

// copying is one copy of a moment into a new file: all of it first, with build,
// then what has changed since, with bbolt.
type copying struct {
	ctx     context.Context
	to      *bolt.DB // nil while all is copied
	from    *moment
	without []Bucket // made, but their rows are left out
	visit   func(bucket Bucket, key, value []byte) error
	told    func(done, total int64)
	sync    bool // after each transaction, and rest

	done, total int64 // bytes of rows
	dropped     int64 // done, when memory was let go of
}

// whole writes all of the moment into an empty file.
func (c *copying) whole(file *os.File) (err error) {
	defer c.catch(&err)
	most, began := writeBytes, time.Now()
	if c.sync {
		most = syncBytes
	}
	b := newBuild(file, most, func() error {
		err := errors.Join(c.ctx.Err(), c.pause(began, func() error { return unix.Fdatasync(int(file.Fd())) }))
		began = time.Now()
		return err
	})
	var all []built
	for _, name := range c.from.names() {
		value, err := c.bucket(b, Bucket(name))
		if f, ok := errors.AsType[*flaw](err); ok {
			return &CorruptError{File: c.from.file.path, Reason: fmt.Sprintf("bucket %s: %s", name, f)}
		}
		if err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
		all = append(all, built{name, value})
	}
	return b.finish(all)
}

func (c *copying) bucket(b *build, name Bucket) (value []byte, err error) {
	t := tree{build: b}
	if !slices.Contains(c.without, name) {
		rows := c.from.tx.Bucket([]byte(name)).Cursor()
		for key, value := rows.First(); key != nil; key, value = rows.Next() {
			if err := c.see(name, key, value); err != nil {
				return nil, err
			}
			if err := t.put(pageRow{key: key, value: value}); err != nil {
				return nil, err
			}
		}
	}
	return t.bucket()
}

// run copies what has changed since the round before.
func (c *copying) run(r round) (err error) {
	defer c.catch(&err)
	for _, name := range c.from.names() {
		bucket := Bucket(name)
		if err := errors.Join(c.again(bucket, r.changed[bucket]), c.behind(bucket, r.ends[bucket])); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// catch makes damage of the file that bbolt meets with a panic an error.
func (c *copying) catch(err *error) {
	if p := recover(); p != nil {
		*err = c.from.file.corrupt(p)
	}
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

// behind copies the rows of a bucket behind a key, in order.
func (c *copying) behind(name Bucket, last end) error {
	rows := c.from.tx.Bucket([]byte(name)).Cursor()
	key, value := rows.Seek(last)
	if last != nil && string(key) == string(last) {
		key, value = rows.Next()
	}
	for key != nil {
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
	return c.pause(began, c.to.Sync)
}

func (c *copying) row(to *bolt.Bucket, name Bucket, key, value []byte) error {
	if err := c.see(name, key, value); err != nil {
		return err
	}
	return to.Put(key, value)
}

// see looks at a row that is copied.
func (c *copying) see(name Bucket, key, value []byte) error {
	if value == nil {
		return fmt.Errorf("row %x is a bucket", key)
	}
	if c.visit != nil {
		if err := c.visit(name, key, value); err != nil {
			return err
		}
	}
	c.done += int64(len(key) + len(value))
	return nil
}

// pause hands the pages that were written to the disk, lets go of those that were
// read, tells how far it is, and rests.
func (c *copying) pause(began time.Time, sync func() error) error {
	if c.sync {
		if err := sync(); err != nil {
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
