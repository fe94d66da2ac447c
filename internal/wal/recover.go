package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// recovery finds out what a directory holds. It changes nothing on disk; what
// has to be changed is done by Open when everything else was found in order.
type recovery struct {
	Options
	dir      string
	segments []segment // all that exist; from first on they are open and locked
	first    int       // position of the segment with the first entry needed
	tail     tail
	replay   replay
}

// tail is what the last segment's end looks like.
type tail struct {
	end    int64 // of the last intact record
	size   int64
	crc    uint32
	torn   *damage // a frame that a crash left half written; nil: the data just ends
	debris bool    // something that is not zero lies behind end
}

// summary is what a segment says about where to start.
type summary struct {
	snapshots []Snapshot
	state     *State
}

// run fills in the recovery.
func (r *recovery) run() error {
	last := len(r.segments) - 1
	if err := r.segments[last].lock(r.Files); err != nil {
		return err
	}
	sum, err := r.readTail(&r.segments[last])
	if err != nil {
		return err
	}
	start := r.At
	if start == nil {
		if start, err = r.locate(sum); err != nil {
			return err
		}
	}
	var found bool
	if r.first, found = covering(r.segments, start.Index); !found {
		return &CorruptError{
			File: r.dir, Offset: -1,
			Reason: fmt.Sprintf("the log is to start after entry %d, but its oldest segment %s begins later",
				start.Index, filepath.Base(r.segments[0].path)),
			Remedy: "put the older segments back in place; else " + remedyReplace,
		}
	}
	if err := contiguous(r.dir, r.segments[r.first:]); err != nil {
		return err
	}
	if err := contiguous(r.dir, r.segments[:r.first+1]); err != nil {
		r.Log.Warn("log has a gap before the part that is needed", "dir", r.dir, "error", err)
	}
	r.replay = replay{start: *start, explicit: r.At != nil}
	return r.readEntries()
}

// readTail reads the last segment and judges its end.
func (r *recovery) readTail(s *segment) (summary, error) {
	in, err := newReader(s.file, s.path, nil)
	if err != nil {
		return summary{}, err
	}
	sum, err := summarize(in)
	var d *damage
	switch {
	case errors.As(err, &d):
	case err != nil:
		return summary{}, err
	}
	if in.offset == 0 {
		return summary{}, corrupt(s.path, 0, "the last segment has no intact record; segments are begun whole, so this is no crash")
	}
	r.tail = tail{end: in.offset, size: in.size, crc: in.crc, torn: d}
	if d == nil {
		at, err := in.debris()
		if err != nil || at < 0 {
			return sum, err
		}
		r.tail.debris = true
		d = &damage{offset: in.offset, reason: fmt.Sprintf("the data ends here, but at %d there is more", at)}
	}
	torn, err := in.torn(r.tail.torn)
	if err != nil {
		return summary{}, err
	}
	if !torn {
		return summary{}, in.corrupt(d)
	}
	return sum, nil
}

// locate walks back from the last segment to the last valid snapshot record.
func (r *recovery) locate(sum summary) (*Snapshot, error) {
	for i := len(r.segments) - 1; ; i-- {
		if sum.state != nil || i == 0 {
			commit := uint64(0)
			if sum.state != nil {
				commit = sum.state.Commit
			}
			for j := len(sum.snapshots) - 1; j >= 0; j-- {
				if sum.snapshots[j].Index <= commit {
					return &sum.snapshots[j], nil
				}
			}
		}
		if i == 0 {
			return nil, &CorruptError{
				File: r.dir, Offset: -1,
				Reason: fmt.Sprintf("no valid snapshot record in it; its oldest segment is %s", filepath.Base(r.segments[0].path)),
				Remedy: "put the older segments back in place; else " + remedyReplace,
			}
		}
		if err := contiguous(r.dir, r.segments[i-1:i+1]); err != nil {
			return nil, err
		}
		older, err := r.summarizeOlder(r.segments[i-1].path)
		if err != nil {
			return nil, err
		}
		sum.snapshots = append(older.snapshots, sum.snapshots...)
		if sum.state == nil {
			sum.state = older.state
		}
	}
}

func (r *recovery) summarizeOlder(path string) (sum summary, err error) {
	file, err := r.Files.Open(path, os.O_RDONLY, fileMode)
	if err != nil {
		return summary{}, fmt.Errorf("open log segment: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in, err := newReader(file, path, nil)
	if err != nil {
		return summary{}, err
	}
	sum, err = summarize(in)
	var d *damage
	if errors.As(err, &d) {
		return summary{}, in.corrupt(d)
	}
	return sum, err
}

// summarize reads a segment to its end; the error is *damage if it is bad.
func summarize(in *reader) (sum summary, err error) {
	for {
		rec, err := in.next()
		switch {
		case errors.Is(err, io.EOF):
			return sum, nil
		case err != nil:
			return sum, err
		}
		switch rec.kind {
		case KindState:
			state, err := parseState(rec.data)
			if err != nil {
				return sum, corrupt(in.path, rec.offset, "hard state: %v", err)
			}
			sum.state = &state
		case KindSnapshot:
			s, err := parseSnapshot(rec.data)
			if err != nil {
				return sum, corrupt(in.path, rec.offset, "snapshot record: %v", err)
			}
			sum.snapshots = append(sum.snapshots, s)
		case KindMetadata, KindEntry, KindCRC:
		default:
			return sum, corrupt(in.path, rec.offset, "a record of unknown %v: a newer version wrote it", rec.kind)
		}
	}
}

// readEntries replays the segments from the first one needed. Those before the
// last must be whole; the last was judged already.
func (r *recovery) readEntries() error {
	var chain *uint32
	for i := r.first; i < len(r.segments); i++ {
		s := &r.segments[i]
		if s.file == nil {
			if err := s.lock(r.Files); err != nil {
				return err
			}
		}
		in, err := newReader(s.file, s.path, chain)
		if err != nil {
			return err
		}
		err = r.replay.read(in)
		var d *damage
		switch {
		case errors.As(err, &d) && (i < len(r.segments)-1 || in.offset < r.tail.end):
			return in.corrupt(d)
		case err != nil && d == nil:
			return err
		}
		chain = &in.crc
	}
	return r.replay.finish(r.dir)
}

// repair makes the last segment ready for appending: a torn frame is cut off,
// after the file was copied; debris is zeroed; the space is allocated again.
func (r *recovery) repair() error {
	last, t := &r.segments[len(r.segments)-1], &r.tail
	if t.torn != nil {
		broken := last.path + brokenSuffix
		r.Log.Warn("log ends in a torn record: cutting it off, the file is kept as a copy",
			"file", last.path, "offset", t.end, "reason", t.torn.reason, "copy", broken)
		if err := r.copySegment(last, broken); err != nil {
			return fmt.Errorf("keep a copy before the repair of %s: %w", last.path, err)
		}
	}
	if t.torn != nil || t.debris {
		if err := last.file.Truncate(t.end); err != nil {
			return fmt.Errorf("repair %s: %w", last.path, err)
		}
		t.size = t.end
	}
	if t.size < r.SegmentBytes {
		if err := last.file.Allocate(r.SegmentBytes); err != nil {
			// Not needed to go on: the file grows as it is written.
			r.Log.Warn("cannot allocate space for the log", "file", last.path, "error", err)
		}
	}
	if t.torn != nil || t.debris {
		if err := last.file.Sync(); err != nil {
			return fmt.Errorf("repair %s: %w", last.path, err)
		}
	}
	return nil
}

// copySegment copies what is not zero; the copy has the same length.
func (r *recovery) copySegment(s *segment, to string) (err error) {
	out, err := r.Files.Open(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	chunk := make([]byte, readAhead)
	for at := int64(0); at < r.tail.size; {
		n, err := s.file.ReadAt(chunk, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			break
		}
		if !zero(chunk[:n]) {
			if _, err := out.WriteAt(chunk[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return errors.Join(out.Truncate(r.tail.size), out.Sync(), r.Files.SyncDir(r.dir))
}
