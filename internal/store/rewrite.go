package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// lastBytes is how far behind the copy may be for Settled: so much is copied
// quickly enough for the committer to stand still meanwhile.
const lastBytes = 1 << 20

// Rewrite is a defragmentation beside commits. Its new file is that of a moment,
// and what is committed meanwhile is copied in rounds, each of which is shorter
// than the one before; the last is for Finish. Rewrite, Next, Finish and Close are
// the committer's; Copy is anybody's, one call at a time and none beside those.
type Rewrite struct {
	file  *File
	began time.Time
	name  string   // of the new file; "": over
	empty *os.File // the new file, until Copy has written all of a moment into it
	fresh *handle  // then
	from  *moment  // what the present round copies
	round round

	behind atomic.Int64   // bytes of rows committed since the round began
	ends   map[Bucket]end // of the buckets, at the moment of the round
	since  map[Bucket]notes

	done  int64 // bytes of rows copied
	total int64
}

// end is the last key of a bucket. What is committed behind it is found there by
// the next round; what is committed before it has to be noted.
type end []byte

// round is what there is to copy.
type round struct {
	ends    map[Bucket]end   // at the moment of the round before
	changed map[Bucket]notes // rows before those, committed since
}

// notes are keys, one after the other: a compaction leaves millions.
type notes []byte

func (n notes) add(key []byte) notes {
	return append(binary.AppendUvarint(n, uint64(len(key))), key...)
}

// keys are those that were noted, in order and once. They alias the notes.
func (n notes) keys() (all [][]byte) {
	for len(n) > 0 {
		size, head := binary.Uvarint(n)
		end := head + int(size)
		all, n = append(all, n[head:end:end]), n[end:]
	}
	slices.SortFunc(all, bytes.Compare)
	return slices.CompactFunc(all, bytes.Equal)
}

// Rewrite begins one. There is one at a time, and who began it calls Close.
func (f *File) Rewrite() (w *Rewrite, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("defragment %s: %w", f.path, err)
		}
	}()
	switch {
	case f.options.ReadOnly:
		return nil, ErrReadOnly
	case f.dead != nil:
		return nil, f.dead
	case f.rewrite != nil:
		return nil, ErrRewriting
	}
	w = &Rewrite{file: f, began: time.Now(), total: f.InUse()}
	if err := w.look(); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(scratch(f.path)))
	if err != nil {
		return nil, errors.Join(err, w.from.Close())
	}
	w.name, w.empty = file.Name(), file
	// The new file is locked from its first byte.
	if err := lock(file, false, 0); err != nil {
		return nil, errors.Join(err, w.discard(), w.from.Close())
	}
	f.rewrite = w
	return w, nil
}

// look takes the present moment for the round.
func (w *Rewrite) look() (err error) {
	if w.from, err = w.file.moment(); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(w.file.corrupt(p), w.from.Close())
		}
	}()
	w.ends, w.since = map[Bucket]end{}, map[Bucket]notes{}
	w.behind.Store(0)
	for _, name := range w.from.names() {
		last, _ := w.from.tx.Bucket([]byte(name)).Cursor().Last()
		w.ends[Bucket(name)] = slices.Clone(last)
	}
	return nil
}

// note is told of every commit.
func (w *Rewrite) note(batches []*Batch) {
	for _, b := range batches {
		for i := range b.groups {
			for _, r := range b.groups[i].rows {
				w.noteRow(b.groups[i].bucket, r)
			}
		}
	}
	w.noteRow(Meta, row{key: []byte(indexKey)})
	w.noteRow(Meta, row{key: []byte(termKey)})
}

func (w *Rewrite) noteRow(bucket Bucket, r row) {
	w.behind.Add(int64(len(r.key) + len(r.value)))
	if bytes.Compare(r.key, w.ends[bucket]) <= 0 {
		w.since[bucket] = w.since[bucket].add(r.key)
	}
}

// Copy copies what the round holds, at a pace that leaves the machine to others.
func (w *Rewrite) Copy(ctx context.Context) error {
	return w.wrap(w.copy(ctx, !w.file.options.NoSync && !w.file.options.Trim))
}

func (w *Rewrite) copy(ctx context.Context, gently bool) error {
	c := copying{
		ctx: ctx, from: w.from, sync: gently,
		total: w.total, done: w.done, dropped: w.done, told: w.file.options.OnRewrite,
	}
	defer func() { w.done = c.done }()
	if w.fresh != nil {
		c.to = w.fresh.db
		return c.run(w.round)
	}
	if err := c.whole(w.empty); err != nil {
		return err
	}
	file := w.empty
	w.empty = nil // attach closes it if it fails
	fresh, err := w.file.attach(file)
	if err != nil {
		return err
	}
	fresh.db.NoSync = true // Copy and Finish sync
	w.fresh = fresh
	return nil
}

// Settled reports whether so little is left that it may be finished.
func (w *Rewrite) Settled() bool { return w.behind.Load() <= lastBytes }

// Next begins a round, of what was committed since the last one did.
func (w *Rewrite) Next() error {
	if err := w.sound(); err != nil {
		return w.wrap(err)
	}
	if err := w.from.Close(); err != nil {
		return w.wrap(err)
	}
	w.round = round{ends: w.ends, changed: w.since}
	return w.wrap(w.look())
}

// sound says why the new file cannot become the store's any more.
func (w *Rewrite) sound() error {
	switch {
	case w.file.dead != nil:
		return w.file.dead
	case w.file.rewrite != w:
		return ErrReplaced
	}
	return nil
}

// Finish copies what was committed since the last round, and puts the new file in
// the place of the old one. Readers that are open keep that until they close.
// Whatever fails before the new file has taken the name leaves the old one in
// service.
func (w *Rewrite) Finish(ctx context.Context) error {
	f := w.file
	if err := w.Next(); err != nil {
		return err
	}
	if err := w.copy(ctx, false); err != nil {
		return w.wrap(err)
	}
	fresh := w.fresh
	if fresh.db.NoSync = f.options.NoSync; !f.options.NoSync {
		if err := fresh.db.Sync(); err != nil {
			return w.wrap(err)
		}
	}
	if f.options.Trim {
		if err := fresh.trim(); err != nil {
			return w.wrap(err)
		}
	}
	if err := os.Rename(w.name, f.path); err != nil {
		return w.wrap(err)
	}
	f.rewrite, w.fresh, w.name = nil, nil, ""
	err := w.from.Close()
	old := f.swap(fresh)
	if failed := syncDir(filepath.Dir(f.path)); failed != nil {
		// An outage may bring the old file back, without what would be
		// committed to the new one. So nothing may be.
		f.dead = w.wrap(fmt.Errorf("the new file is in place but maybe not on disk: %w", failed))
		return errors.Join(f.dead, err, old.release())
	}
	old.nameless(f)
	if err := errors.Join(err, f.measure(fresh), old.release()); err != nil {
		return w.wrap(err)
	}
	if f.options.OnDefragment != nil {
		f.options.OnDefragment(time.Since(w.began))
	}
	return nil
}

// Close removes a new file that has not become the store's.
func (w *Rewrite) Close() error {
	if w.name == "" {
		return nil
	}
	if w.file.rewrite == w {
		w.file.rewrite = nil
	}
	return errors.Join(w.from.Close(), w.discard())
}

// discard removes the new file.
func (w *Rewrite) discard() error {
	var err error
	switch {
	case w.fresh != nil:
		err = w.fresh.release()
	case w.empty != nil:
		err = w.empty.Close()
	}
	err = errors.Join(err, os.Remove(w.name))
	w.empty, w.fresh, w.name = nil, nil, ""
	return err
}

func (w *Rewrite) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("defragment %s: %w", w.file.path, err)
}
