package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// keyFill leaves little room on the pages of bucket key: its rows are appended
// and hardly ever changed.
const keyFill = 0.9

// listedFrom is the size from which on a file is closed with a list of its free
// pages, in bytes. Without one, as after a crash, who opens it walks over all that
// is in use: a tenth of a start with a large file, and nothing with a small one.
const listedFrom = 64 << 20

// File is a store in one bbolt file. Commit, Replace, Defragment and what Rewrite
// says are for one goroutine at a time, the committer; all else may be called from
// any.
type File struct {
	path    string
	options Options

	mu   sync.Mutex // guards live and the count of readers of each handle
	live *handle    // what new readers open; nil once closed

	dead        error    // the first failed commit; touched by the committer only
	rewrite     *Rewrite // under way, told of commits; touched by the committer only
	size, inUse atomic.Int64
	measured    atomic.Uint64 // times that they were set; it grows first

	shrinking sync.WaitGroup // of files that have no name any more
	closed    chan struct{}
}

// Open opens the file, or makes it with its buckets. It reads every page
// before it trusts any: damage is an error that names it, not a crash later.
func Open(path string, o Options) (*File, error) {
	f := &File{path: path, options: o.complete(), closed: make(chan struct{})}
	if !o.ReadOnly {
		if err := removeLeftovers(path); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	h, err := f.open(false)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	f.live = h
	if err := f.prepare(h); err != nil {
		return nil, fmt.Errorf("open store: %w", errors.Join(err, h.db.Close()))
	}
	return f, nil
}

// prepare makes missing buckets and measures the file.
func (f *File) prepare(h *handle) error {
	if !f.options.ReadOnly {
		err := makeBuckets(h.db)
		if errors.Is(err, berrors.ErrIncompatibleValue) {
			return f.corrupt("a row stands where a bucket should")
		}
		if err != nil {
			return fmt.Errorf("%s: make buckets: %w", f.path, err)
		}
		if err := syncDir(filepath.Dir(f.path)); err != nil {
			return err
		}
	}
	return f.measure(h)
}

// makeBuckets leaves a file that has them all untouched, byte for byte.
func makeBuckets(db *bolt.DB) error {
	missing := 0
	err := db.View(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket([]byte(name)) == nil {
				missing++
			}
		}
		return nil
	})
	if err != nil || missing == 0 {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Commit writes the batches, in order, and the stamp: all of it or nothing. It
// returns when they are on disk. After an error the file takes no more commits,
// as what the disk holds is not known.
func (f *File) Commit(s Stamp, batches ...*Batch) error {
	if f.options.ReadOnly {
		return fmt.Errorf("commit to %s: %w", f.path, ErrReadOnly)
	}
	if f.dead != nil {
		return f.dead
	}
	h, err := f.acquire()
	if err != nil {
		return fmt.Errorf("commit to %s: %w", f.path, err)
	}
	defer h.release() //nolint:errcheck // the commit has synced, or its error is the one that counts
	if err := f.commit(h, s, batches); err != nil {
		f.dead = fmt.Errorf("commit index %d to %s: %w", s.Index, f.path, err)
		return f.dead
	}
	if f.rewrite != nil {
		f.rewrite.note(batches)
	}
	return nil
}

func (f *File) commit(h *handle, s Stamp, batches []*Batch) (err error) {
	start := time.Now()
	tx, err := h.db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = f.corrupt(p)
			abandon(tx)
		}
	}()
	if err := write(tx, s, batches); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if f.options.OnCommit != nil {
		stats := tx.Stats()
		f.options.OnCommit(CommitTimes{
			Rebalance: stats.GetRebalanceTime(),
			Spill:     stats.GetSpillTime(),
			Write:     stats.GetWriteTime(),
			Total:     time.Since(start),
		})
	}
	return f.measure(h)
}

// write puts the rows and the stamp into the transaction. A bucket is looked
// up once, however many rows it gets.
func write(tx *bolt.Tx, s Stamp, batches []*Batch) error {
	handles := make(map[Bucket]*bolt.Bucket, len(buckets))
	open := func(name Bucket) (*bolt.Bucket, error) {
		b := handles[name]
		if b == nil {
			var err error
			if b, err = tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return nil, fmt.Errorf("bucket %s: %w", name, err)
			}
			if name == Key {
				b.FillPercent = keyFill
			}
			handles[name] = b
		}
		return b, nil
	}
	for _, batch := range batches {
		for i := range batch.groups {
			g := &batch.groups[i]
			b, err := open(g.bucket)
			if err != nil {
				return err
			}
			if err := g.write(b); err != nil {
				return err
			}
		}
	}
	meta, err := open(Meta)
	if err != nil {
		return err
	}
	if err := meta.Put([]byte(indexKey), binary.BigEndian.AppendUint64(nil, s.Index)); err != nil {
		return err
	}
	if s.Term == 0 {
		return nil
	}
	return meta.Put([]byte(termKey), binary.BigEndian.AppendUint64(nil, s.Term))
}

func (g *group) write(b *bolt.Bucket) error {
	g.settle()
	for _, r := range g.rows {
		var err error
		if r.gone {
			err = b.Delete(r.key)
		} else {
			err = b.Put(r.key, r.value)
		}
		if err != nil {
			return fmt.Errorf("bucket %s, key %x: %w", g.bucket, r.key, err)
		}
	}
	return nil
}

// Path is where the file lies.
func (f *File) Path() string { return f.path }

// Size is the file's high water mark in bytes, as of the last commit. The file
// itself may be longer: it grows in steps.
func (f *File) Size() int64 { return f.size.Load() }

// InUse is Size without the free pages, as of the last commit.
func (f *File) InUse() int64 { return f.inUse.Load() }

// Measured changes with each commit, before InUse does: who has seen InUse with a
// commit in it finds it changed.
func (f *File) Measured() uint64 { return f.measured.Load() }

func (f *File) measure(h *handle) error {
	tx, err := h.db.Begin(false)
	if err != nil {
		return err
	}
	size := tx.Size()
	if err := tx.Rollback(); err != nil {
		return err
	}
	// What the last commits have freed is pending until the next one begins,
	// which in a quiet cluster may be a while: it is free all the same.
	stats := h.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(h.db.Info().PageSize)
	f.measured.Add(1)
	f.size.Store(size)
	f.inUse.Store(size - free)
	return nil
}

// corrupt is what a panic of bbolt means: a page that cannot be.
func (f *File) corrupt(p any) error {
	if e, ok := p.(*CorruptError); ok {
		return e
	}
	return &CorruptError{File: f.path, Reason: fmt.Sprint(p)}
}

// abandon lets go of the locks of a transaction that panicked, so that Close
// does not wait for it. What else that meets is no news.
func abandon(tx *bolt.Tx) {
	defer func() { _ = recover() }()
	_ = tx.Rollback()
}

// Close refuses new readers. The file itself is closed, and its lock let go,
// when the last open reader is. Nobody may be committing.
func (f *File) Close() error {
	f.mu.Lock()
	h := f.live
	f.live = nil
	f.mu.Unlock()
	if h == nil {
		return nil
	}
	if !f.options.ReadOnly && f.dead == nil && f.Size() >= listedFrom {
		h.list() //nolint:errcheck // on a full disk, say: the file is whole without it
	}
	close(f.closed)
	err := h.release()
	f.shrinking.Wait()
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
