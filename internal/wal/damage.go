package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// torn decides what a break in the last segment is: what a crash leaves of an
// unsynced batch (true), or damage to records that had been synced (false).
// The reader stands before the break; d is nil when the data just ends there,
// though something follows the zeroes. DESIGN.md has the reasoning.
func (r *reader) torn(d *damage) (bool, error) {
	rest, err := r.rest()
	if err != nil {
		return false, err
	}
	entry := d != nil && d.kind == KindEntry
	if onceSynced(rest, entry) {
		return false, nil
	}
	if d == nil {
		// The first sector of a batch is missing; so is all of it.
		return zero(rest[:min(int64(len(rest)), -r.offset&(sectorSize-1))]), nil
	}
	return tornShape(rest, r.offset), nil
}

// tornShape reports whether the frame at the beginning of rest, which lies at
// offset in its file, looks like one of which only some sectors were written.
func tornShape(rest []byte, offset int64) bool {
	if len(rest) < frameHead {
		return true // the file ends in the length word
	}
	size, pad, err := splitWord(binary.LittleEndian.Uint64(rest))
	if err != nil {
		return false // the word was written whole, and not by us
	}
	past := frameHead+size+pad > int64(len(rest))
	end := min(frameHead+size+pad, int64(len(rest)))
	lost := int64(-1) // begin of the first sector that is missing
	for at := int64(frameHead) + -(offset+frameHead)&(sectorSize-1); at < end; at += sectorSize {
		if zero(rest[at:min(at+sectorSize, int64(len(rest)))]) {
			lost = at
			break
		}
	}
	switch {
	case lost >= 0:
		return headAgrees(rest[frameHead:lost], size)
	case past:
		return headAgrees(rest[frameHead:], size)
	}
	return false
}

// onceSynced looks behind a break, at the beginning of rest, for proof that
// what is broken had been synced: an entry, then a state, then an entry or a
// snapshot. With entry the broken record is that first entry. Frames count if
// their CRCs chain, in pairs at least.
func onceSynced(rest []byte, entry bool) bool {
	stage := 0
	if entry {
		stage = 1
	}
	seen := func(k Kind) bool {
		switch {
		case stage == 0 && k == KindEntry:
			stage = 1
		case stage == 1 && k == KindState:
			stage = 2
		case stage >= 1 && k == KindSnapshot, stage == 2 && k == KindEntry:
			return true
		}
		return false
	}
	for at := alignment; at+frameHead < len(rest); {
		first, next, ok := frameAt(rest, at)
		if !ok {
			at += alignment
			continue
		}
		chained := false
		for crc := first.crc; ; {
			rec, end, ok := frameAt(rest, next)
			if !ok || crc32.Update(crc, castagnoli, rec.data) != rec.crc {
				break
			}
			if !chained && seen(first.kind) || seen(rec.kind) {
				return true
			}
			chained, crc, next = true, rec.crc, end
		}
		if at += alignment; chained {
			at = next
		}
	}
	return false
}

// frameAt decodes what may be a frame, without checking its CRC.
func frameAt(b []byte, at int) (rec record, next int, ok bool) {
	if at+frameHead > len(b) {
		return record{}, 0, false
	}
	word := binary.LittleEndian.Uint64(b[at:])
	if word == 0 {
		return record{}, 0, false
	}
	size, pad, err := splitWord(word)
	left := int64(len(b) - at - frameHead)
	if err != nil || size+pad > left || (size+pad)%alignment != 0 {
		return record{}, 0, false
	}
	body := b[at+frameHead:][:size]
	if !headAgrees(body, size) {
		return record{}, 0, false
	}
	rec, err = parseRecord(body)
	return rec, at + frameHead + int(size+pad), err == nil && rec.kind >= KindMetadata && rec.kind <= KindSnapshot
}
