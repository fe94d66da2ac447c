package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"kvd/internal/vfs"
)

const (
	segmentSuffix = ".wal"
	tempSuffix    = ".tmp"
	brokenSuffix  = ".broken"

	fileMode = 0o600
	dirMode  = 0o700
)

// segment is one file of the log. file is nil while it is not open; open
// segments of a Log are locked.
type segment struct {
	seq   uint64
	index uint64 // of the first entry it may hold
	path  string
	file  vfs.File
}

func segmentName(seq, index uint64) string {
	return fmt.Sprintf("%016x-%016x%s", seq, index, segmentSuffix)
}

func parseSegmentName(name string) (seq, index uint64, ok bool) {
	stem, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(stem) != 33 || stem[16] != '-' {
		return 0, 0, false
	}
	seq, err1 := strconv.ParseUint(stem[:16], 16, 64)
	index, err2 := strconv.ParseUint(stem[17:], 16, 64)
	return seq, index, err1 == nil && err2 == nil
}

// listSegments returns the segments in dir, oldest first, and the names of
// left-over temporary files.
func listSegments(files vfs.FS, dir string) (segments []segment, temps []string, err error) {
	names, err := files.List(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list log: %w", err)
	}
	for _, name := range names {
		if seq, index, ok := parseSegmentName(name); ok {
			segments = append(segments, segment{seq: seq, index: index, path: filepath.Join(dir, name)})
		} else if isTemp(name) {
			temps = append(temps, name)
		}
	}
	slices.SortFunc(segments, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	return segments, temps, nil
}

// isTemp says whether a name is that of a segment being allocated: N.tmp.
func isTemp(name string) bool {
	stem, ok := strings.CutSuffix(name, tempSuffix)
	return ok && stem != "" && strings.Trim(stem, "0123456789") == ""
}

// isOurs says whether a log being created may hold a file of that name.
func isOurs(name string) bool {
	_, _, ok := parseSegmentName(name)
	return ok || isTemp(name)
}

// removeFlat removes a directory and the files in it, if it exists; not if
// there is one that may not go.
func removeFlat(files vfs.FS, dir string, mayGo func(name string) bool) error {
	names, err := files.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if !mayGo(name) {
			return fmt.Errorf("%s is in the way: it holds %s, which is no part of a log; move it away", dir, name)
		}
	}
	for _, name := range names {
		if err := files.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return files.Remove(dir)
}

// contiguous refuses a row of segments with a hole in it.
func contiguous(dir string, segments []segment) error {
	for i := 1; i < len(segments); i++ {
		before, after := segments[i-1], segments[i]
		if after.seq == before.seq+1 {
			continue
		}
		reason := fmt.Sprintf("segment %016x-…%s is missing between %s and %s",
			before.seq+1, segmentSuffix, filepath.Base(before.path), filepath.Base(after.path))
		if after.seq == before.seq {
			reason = fmt.Sprintf("%s and %s are the same segment twice", filepath.Base(before.path), filepath.Base(after.path))
		}
		return &CorruptError{File: dir, Offset: -1, Reason: reason, Remedy: "put the right files back in place; else " + remedyReplace}
	}
	return nil
}

// covering returns the position of the segment to start reading at, for all
// entries after index: the last one that may begin at or before index.
func covering(segments []segment, index uint64) (int, bool) {
	for i, s := range slices.Backward(segments) {
		if s.index <= index {
			return i, true
		}
	}
	return 0, false
}

func (s *segment) lock(files vfs.FS) error {
	file, err := files.Open(s.path, os.O_RDWR, fileMode)
	if err != nil {
		return fmt.Errorf("open log segment: %w", err)
	}
	if err := file.Lock(); err != nil {
		err = errors.Join(err, file.Close())
		return fmt.Errorf("another process uses this log: %w", err)
	}
	s.file = file
	return nil
}

func (s *segment) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// spare is the next segment, allocated ahead by a goroutine of its own so that
// a cut need not wait for the file system.
type spare struct {
	path string
	done chan struct{} // closed when file or err is set
	file vfs.File
	err  error
}

// prepare starts allocating. Whoever calls it calls take or drop once.
func prepare(files vfs.FS, dir string, size int64) *spare {
	s := &spare{path: filepath.Join(dir, "0"+tempSuffix), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.file, s.err = allocate(files, s.path, size)
	}()
	return s
}

// take waits for the file.
func (s *spare) take() (vfs.File, error) {
	<-s.done
	if s.err != nil {
		return nil, fmt.Errorf("allocate next log segment: %w", s.err)
	}
	return s.file, nil
}

// drop waits for the file and removes it.
func (s *spare) drop(files vfs.FS) error {
	<-s.done
	if s.err != nil {
		return nil //nolint:nilerr // nobody needed it
	}
	return errors.Join(files.Remove(s.path), s.file.Close())
}

// allocate makes an empty, locked file of zeroes. What a left-over file held
// is gone first: its headers would show behind shorter new ones.
func allocate(files vfs.FS, path string, size int64) (vfs.File, error) {
	file, err := files.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(file.Lock(), file.Allocate(size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
