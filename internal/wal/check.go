package wal

import (
	"errors"
	"fmt"
	"path/filepath"

	"kvd/internal/vfs"
)

// Health is what Check has found a log to be.
type Health struct {
	Identity Identity
	Start    Snapshot // where the member would start
	State    State
	Last     uint64 // index of the last entry
	Segments int
	// Torn says what of the end a crash has left half written; Open cuts it off.
	// Empty: nothing.
	Torn string
	view *view
}

// Term is that of the entry at index, if it is behind the start or at it.
func (h *Health) Term(index uint64) (term uint64, ok bool) {
	term, err := h.view.Term(index)
	return term, err == nil
}

// Check finds out what Open would do with the log in dir: the error is Open's.
// It locks what Open locks and changes nothing.
func Check(dir string, o Options) (h Health, err error) {
	o.complete()
	dir = filepath.Clean(dir)
	segments, _, err := listSegments(o.Files, dir)
	if err != nil {
		return h, err
	}
	if len(segments) == 0 {
		return h, fmt.Errorf("check %s: %w", dir, ErrNotFound)
	}
	r := &recovery{Options: o, dir: dir, segments: segments}
	defer func() {
		for i := range r.segments {
			err = errors.Join(err, r.segments[i].close())
		}
	}()
	if err := r.run(); err != nil {
		return h, err
	}
	p := &r.replay
	h = Health{
		Identity: p.identity, Start: p.start, State: p.state, Segments: len(segments),
		view: &view{base: position{p.start.Index, p.start.Term}, entries: p.entries, state: p.state},
	}
	h.Last = h.view.last()
	switch {
	case r.tail.torn != nil:
		h.Torn = fmt.Sprintf("%s at offset %d: %s", filepath.Base(r.segments[len(segments)-1].path), r.tail.end, r.tail.torn.reason)
	case r.tail.debris:
		h.Torn = fmt.Sprintf("%s: remains of a write lie behind the end of the data at offset %d", filepath.Base(r.segments[len(segments)-1].path), r.tail.end)
	}
	return h, nil
}

// Hold keeps other processes from writing to the log in dir until release is
// called, as the process that has it open does. If one has, the error is
// vfs.ErrLocked. It changes nothing.
func Hold(dir string) (release func() error, err error) {
	files := vfs.OS{}
	segments, _, err := listSegments(files, dir)
	if err != nil {
		return nil, err
	}
	if len(segments) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotFound)
	}
	last := &segments[len(segments)-1]
	if err := last.lock(files); err != nil {
		return nil, err
	}
	return last.close, nil
}
