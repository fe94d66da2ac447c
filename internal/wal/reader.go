package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"kvd/internal/vfs"
)

// readAhead is how much of a segment is read at once. The buffer grows past it
// only for a record that is longer.
const readAhead = 256 << 10

// reader walks the frames of one segment and checks them.
type reader struct {
	file   vfs.File
	path   string
	size   int64
	offset int64  // end of the last intact frame
	crc    uint32 // running; the first record of a segment seeds it unless chained
	fresh  bool   // crc is not seeded yet
	buf    []byte // what lies at offset
	ahead  []byte // all of the buffer, reused
}

// newReader starts at the beginning of a segment. With chain nil the segment's
// first record seeds the CRC, else it must agree with the one given.
func newReader(file vfs.File, path string, chain *uint32) (*reader, error) {
	size, err := file.Size()
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", path, err)
	}
	r := &reader{file: file, path: path, size: size, fresh: chain == nil}
	if chain != nil {
		r.crc = *chain
	}
	return r, nil
}

// damage is a place where a segment cannot be read on.
type damage struct {
	offset int64
	reason string
	kind   Kind // of the bad record; 0 when it could not be made out
}

func (d *damage) Error() string { return d.reason }

// next returns the next record; its data is valid until the call after. It
// returns io.EOF at the end of the data, *damage where the frame is bad (the
// reader stays before it), and other errors when reading is impossible.
func (r *reader) next() (record, error) {
	head, err := r.window(frameHead)
	if err != nil {
		return record{}, err
	}
	if len(head) < frameHead {
		if zero(head) {
			return record{}, io.EOF
		}
		return record{}, r.damaged(0, "the file ends inside a length word")
	}
	word := binary.LittleEndian.Uint64(head)
	if word == 0 {
		return record{}, io.EOF
	}
	size, pad, err := splitWord(word)
	if err != nil {
		return record{}, r.damaged(0, "%v", err)
	}
	if frameHead+size+pad > r.size-r.offset {
		return record{}, r.damaged(0, "a record of %d bytes reaches past the end of the file at %d", size, r.size)
	}
	frame, err := r.window(frameHead + int(size+pad))
	if err != nil {
		return record{}, err
	}
	if int64(len(frame)) < frameHead+size+pad {
		return record{}, fmt.Errorf("read %s: %w: it became shorter", r.path, io.ErrUnexpectedEOF)
	}
	rec, err := parseRecord(frame[frameHead : frameHead+size])
	if err != nil {
		return record{}, r.damaged(0, "%v", err)
	}
	if err := r.check(&rec); err != nil {
		return record{}, err
	}
	rec.offset = r.offset
	r.skip(frameHead + size + pad)
	return rec, nil
}

// check compares the record's CRC with the running one and moves that on.
func (r *reader) check(rec *record) error {
	if r.offset == 0 && rec.kind != KindCRC {
		return r.damaged(rec.kind, "the segment begins with a record of %v instead of its CRC", rec.kind)
	}
	if rec.kind == KindCRC {
		if !r.fresh && rec.crc != r.crc {
			return r.damaged(rec.kind, "the segment goes on from CRC %08x, but the log before it ends with %08x: "+
				"records are missing or the segment is of another log", rec.crc, r.crc)
		}
		r.crc, r.fresh = rec.crc, false
		return nil
	}
	sum := crc32.Update(r.crc, castagnoli, rec.data)
	if sum != rec.crc {
		return r.damaged(rec.kind, "CRC of the %v record is %08x, its content gives %08x", rec.kind, rec.crc, sum)
	}
	r.crc, r.fresh = sum, false
	return nil
}

func (r *reader) damaged(kind Kind, format string, args ...any) *damage {
	return &damage{offset: r.offset, kind: kind, reason: fmt.Sprintf(format, args...)}
}

// corrupt makes the refusal out of damage in this segment.
func (r *reader) corrupt(d *damage) error { return corrupt(r.path, d.offset, "%s", d.reason) }

// window returns the n bytes at offset, fewer only at the end of the file.
func (r *reader) window(n int) ([]byte, error) {
	if len(r.buf) >= n {
		return r.buf[:n], nil
	}
	if want := max(n, int(min(readAhead, r.size))); cap(r.ahead) < want {
		r.ahead = make([]byte, want)
	}
	ahead := r.ahead[:cap(r.ahead)]
	got, err := r.file.ReadAt(ahead, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s at %d: %w", filepath.Base(r.path), r.offset, err)
	}
	r.buf = ahead[:got]
	return r.buf[:min(n, got)], nil
}

func (r *reader) skip(n int64) {
	r.buf = r.buf[n:]
	r.offset += n
}

// debris returns the offset of the first byte after the last intact frame that
// is not zero, or -1.
func (r *reader) debris() (int64, error) {
	chunk := make([]byte, min(readAhead, max(r.size-r.offset, 1)))
	for at := r.offset; at < r.size; {
		n, err := r.file.ReadAt(chunk, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read %s at %d: %w", filepath.Base(r.path), at, err)
		}
		if i := firstNonzero(chunk[:n]); i >= 0 {
			return at + int64(i), nil
		}
		if n == 0 {
			break
		}
		at += int64(n)
	}
	return -1, nil
}

// rest reads the file from the last intact frame to its end. Only for looking
// at damage: it may be a whole segment.
func (r *reader) rest() ([]byte, error) {
	b := make([]byte, r.size-r.offset)
	n, err := r.file.ReadAt(b, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s at %d: %w", filepath.Base(r.path), r.offset, err)
	}
	return b[:n], nil
}

var zeroes [sectorSize]byte

func zero(b []byte) bool { return firstNonzero(b) < 0 }

// firstNonzero returns the position of the first byte that is not zero, or -1.
func firstNonzero(b []byte) int {
	for at := 0; at < len(b); at += sectorSize {
		part := b[at:min(at+sectorSize, len(b))]
		if bytes.Equal(part, zeroes[:len(part)]) {
			continue
		}
		for i, c := range part {
			if c != 0 {
				return at + i
			}
		}
	}
	return -1
}
