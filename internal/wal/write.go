package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"kvd/internal/invariant"
)

const (
	// keepBuffer bounds the encoder's buffer between batches: a huge one is
	// given back.
	keepBuffer = 4 << 20
	slowSync   = time.Second
)

// encodeHeld encodes the state that was held back, if any.
func (l *Log) encodeHeld() {
	if l.held {
		l.enc.state(l.written)
		l.held = false
	}
}

// flush writes everything encoded, the held state behind it, with one write
// and one fsync.
func (l *Log) flush() error {
	l.encodeHeld()
	tail := &l.segments[len(l.segments)-1]
	if len(l.enc.buf) == 0 {
		return nil // and nothing was written that was not synced
	}
	if invariant.On {
		l.enc.check()
	}
	begin := time.Now()
	if _, err := tail.file.WriteAt(l.enc.buf, l.offset); err != nil {
		// Half a batch, maybe cut inside a sector, would look corrupt later.
		// Nothing of it was acknowledged; cutting it off needs no space.
		err = fmt.Errorf("write %s: %w", tail.path, err)
		return l.die(errors.Join(err, tail.file.Truncate(l.offset), tail.file.Datasync()))
	}
	if l.o.OnWrite != nil {
		l.o.OnWrite(len(l.enc.buf), time.Since(begin))
	}
	l.offset += int64(len(l.enc.buf))
	if l.enc.buf = l.enc.buf[:0]; cap(l.enc.buf) > keepBuffer {
		l.enc.buf = nil
	}
	return l.die(l.datasync(tail))
}

func (l *Log) datasync(s *segment) error {
	if l.o.NoSync {
		return nil
	}
	begin := time.Now()
	if err := s.file.Datasync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	took := time.Since(begin)
	if took > slowSync {
		l.o.Log.Warn("slow fdatasync", "file", s.path, "took", took, "expected-duration", slowSync)
	}
	if l.o.OnFsync != nil {
		l.o.OnFsync(took)
	}
	return nil
}

// die makes the log refuse everything from now on, if err is not nil.
func (l *Log) die(err error) error {
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("log is dead: %w", err)
	}
	return l.err
}

// cut ends the last segment and begins a new one. The old one is synced before
// the new one gets its name.
func (l *Log) cut() error { return l.die(l.beginSegment()) }

func (l *Log) beginSegment() error {
	old := &l.segments[len(l.segments)-1]
	size, err := old.file.Size()
	if err != nil {
		return fmt.Errorf("end %s: %w", old.path, err)
	}
	if size > l.offset { // not usual: it is full, after all
		if err := old.file.Truncate(l.offset); err != nil {
			return fmt.Errorf("end %s: %w", old.path, err)
		}
		if err := l.datasync(old); err != nil {
			return err
		}
	}
	file, err := l.spare.take()
	if err != nil {
		return err
	}
	temp := l.spare.path
	next := segment{seq: old.seq + 1, index: l.last() + 1, file: file}
	next.path = filepath.Join(l.dir, segmentName(next.seq, next.index))
	l.segments = append(l.segments, next) // Close now closes it
	l.spare = nil

	l.enc.seed()
	l.enc.identity(l.identity)
	l.held = l.written != State{}
	l.offset = 0
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.o.Files.Rename(temp, next.path); err != nil {
		return fmt.Errorf("begin log segment: %w", err)
	}
	if err := l.o.Files.SyncDir(l.dir); err != nil {
		return fmt.Errorf("begin log segment: %w", err)
	}
	l.spare = prepare(l.o.Files, l.dir, l.o.SegmentBytes)
	l.o.Log.Info("began a log segment", "file", next.path)
	return nil
}

// release closes the segments before the last one that begins before index;
// only entries up to index are in them.
func (l *Log) release(index uint64) error {
	keep := 0
	for i, s := range l.segments {
		if s.index < index {
			keep = i
		}
	}
	var errs []error
	for i := range keep {
		errs = append(errs, l.segments[i].close())
	}
	l.segments = l.segments[keep:]
	return l.die(errors.Join(errs...))
}
