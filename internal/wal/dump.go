package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/vfs"
)

// Record is one record of the log as Dump shows it. The field of its kind is
// set.
type Record struct {
	File     string // name of the segment
	Offset   int64
	Kind     Kind
	CRC      uint32
	Identity Identity
	Entry    *raftpb.Entry
	State    State
	Snapshot Snapshot
}

// Dump shows every record in dir, in order, to visit, until it returns an
// error. It changes nothing and takes no lock. At damage it stops with a
// *CorruptError, also at a torn tail, which Open would repair.
func Dump(dir string, visit func(Record) error) error {
	segments, _, err := listSegments(vfs.OS{}, dir)
	if err != nil {
		return err
	}
	var chain *uint32
	for i, s := range segments {
		if i > 0 && s.seq != segments[i-1].seq+1 {
			return contiguous(dir, segments[i-1:i+1])
		}
		crc, err := dumpSegment(s.path, chain, visit)
		if err != nil {
			return err
		}
		chain = &crc
	}
	return nil
}

func dumpSegment(path string, chain *uint32, visit func(Record) error) (crc uint32, err error) {
	file, err := vfs.OS{}.Open(path, os.O_RDONLY, fileMode)
	if err != nil {
		return 0, fmt.Errorf("open log segment: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in, err := newReader(file, path, chain)
	if err != nil {
		return 0, err
	}
	for {
		rec, err := in.next()
		var d *damage
		switch {
		case errors.Is(err, io.EOF) && in.offset == 0:
			return 0, corrupt(path, 0, "it has no record; segments are begun whole, so this is no crash")
		case errors.Is(err, io.EOF):
			return in.crc, nil
		case errors.As(err, &d):
			return 0, in.corrupt(d)
		case err != nil:
			return 0, err
		}
		out, err := rec.show(path)
		if err != nil {
			return 0, corrupt(path, rec.offset, "%v record: %v", rec.kind, err)
		}
		if err := visit(out); err != nil {
			return 0, err
		}
	}
}

func (rec record) show(path string) (out Record, err error) {
	out = Record{File: filepath.Base(path), Offset: rec.offset, Kind: rec.kind, CRC: rec.crc}
	switch rec.kind {
	case KindMetadata:
		out.Identity, err = parseIdentity(rec.data)
	case KindEntry:
		out.Entry, err = parseEntry(rec.data)
	case KindState:
		out.State, err = parseState(rec.data)
	case KindSnapshot:
		out.Snapshot, err = parseSnapshot(rec.data)
	}
	return out, err
}
