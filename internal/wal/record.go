package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/invariant"
)

// Kind says what a record holds.
type Kind uint64

// The kinds of records, as numbered in the files.
const (
	KindMetadata Kind = iota + 1 // whose log it is; second record of every segment
	KindEntry                    // a raft entry
	KindState                    // a hard state
	KindCRC                      // the running CRC; first record of every segment
	KindSnapshot                 // a position the log can start at
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case KindMetadata:
		return "metadata"
	case KindEntry:
		return "entry"
	case KindState:
		return "state"
	case KindCRC:
		return "crc"
	case KindSnapshot:
		return "snapshot"
	}
	return fmt.Sprintf("kind %d", uint64(k))
}

const (
	frameHead  = 8   // bytes of the length word before every record
	alignment  = 8   // frames end on multiples of it, so a length word never tears
	sectorSize = 512 // smallest unit a disk writes whole
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder builds frames one behind the other, ready for one write. It is
// reused: a batch allocates nothing once buf has grown.
type encoder struct {
	buf  []byte
	crc  uint32 // running, over all record data since the log began
	head [64]byte
}

// add appends a frame whose record data is head followed by body. A record
// without data (nil and nil) has no data field.
func (e *encoder) add(kind Kind, head, body []byte) {
	e.crc = crc32.Update(e.crc, castagnoli, head)
	if len(body) > 0 {
		e.crc = crc32.Update(e.crc, castagnoli, body)
	}
	data := len(head) + len(body)
	size := 1 + protowire.SizeVarint(uint64(kind)) + 1 + protowire.SizeVarint(uint64(e.crc))
	if head != nil {
		size += 1 + protowire.SizeVarint(uint64(data)) + data
	}
	pad := -size & (alignment - 1)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, lengthWord(size, pad))
	e.buf = append(e.buf, 1<<3|byte(protowire.VarintType))
	e.buf = protowire.AppendVarint(e.buf, uint64(kind))
	e.buf = append(e.buf, 2<<3|byte(protowire.VarintType))
	e.buf = protowire.AppendVarint(e.buf, uint64(e.crc))
	if head != nil {
		e.buf = append(e.buf, 3<<3|byte(protowire.BytesType))
		e.buf = protowire.AppendVarint(e.buf, uint64(data))
		e.buf = append(e.buf, head...)
		e.buf = append(e.buf, body...)
	}
	e.buf = append(e.buf, zeroes[:pad]...)
}

// seed appends the first frame of a segment: the running CRC.
func (e *encoder) seed() { e.add(KindCRC, nil, nil) }

func (e *encoder) identity(id Identity) {
	e.add(KindMetadata, appendIdentity(e.head[:0], id), nil)
}

// entry appends an entry. Its data is copied once, into the buffer.
func (e *encoder) entry(entry *raftpb.Entry) {
	if tail := entry.ProtoReflect().GetUnknown(); len(tail) > 0 {
		e.add(KindEntry, appendEntry(nil, entry), nil) // a newer version's field: keep it
		return
	}
	e.add(KindEntry, appendEntryHead(e.head[:0], entry), entry.Data)
}

func (e *encoder) state(s State) {
	e.add(KindState, appendState(e.head[:0], s), nil)
}

func (e *encoder) snapshot(s Snapshot) error {
	data, err := appendSnapshot(e.head[:0], s)
	if err != nil {
		return err
	}
	e.add(KindSnapshot, data, nil)
	return nil
}

// check reads back what was built.
func (e *encoder) check() {
	for at := 0; at < len(e.buf); {
		_, next, ok := frameAt(e.buf, at)
		invariant.Check(ok && next%alignment == 0, "bad frame at %d of %d", at, len(e.buf))
		at = next
	}
}

// lengthWord packs a record's size and its padding: the size in the low 56
// bits; if there is padding, the top byte is 0x80 plus its length.
func lengthWord(size, pad int) uint64 {
	word := uint64(size)
	if pad > 0 {
		word |= uint64(0x80|pad) << 56
	}
	return word
}

// splitWord is the reverse of lengthWord. It refuses words that no writer made.
func splitWord(word uint64) (size int64, pad int64, err error) {
	size = int64(word &^ (0xff << 56))
	switch top := word >> 56; {
	case top == 0:
		return size, 0, nil // aligned, or from before there was padding
	case top&^7 != 0x80 || top&7 == 0:
		return 0, 0, fmt.Errorf("length word %#016x has impossible flags", word)
	default:
		pad = int64(top & 7)
	}
	if (size+pad)%alignment != 0 {
		return 0, 0, fmt.Errorf("length word %#016x has impossible padding", word)
	}
	return size, pad, nil
}

// record is a decoded frame. Its data is part of the reader's buffer.
type record struct {
	kind   Kind
	crc    uint32
	data   []byte
	offset int64 // of the frame in its file
}

var errRecord = errors.New("not a log record")

// parseRecord decodes what is between length word and padding. Unknown fields
// are skipped, a repeated field's last value wins, as protobuf has it.
func parseRecord(b []byte) (r record, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return record{}, errRecord
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return record{}, errRecord
			}
			r.kind, b = Kind(v), b[n:]
		case num == 2 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return record{}, errRecord
			}
			r.crc, b = uint32(v), b[n:]
		case num == 3 && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return record{}, errRecord
			}
			r.data, b = v, b[n:]
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return record{}, errRecord
			}
			b = b[n:]
		}
	}
	return r, nil
}

// headAgrees reports whether the beginning of a record promises exactly size
// bytes, as far as b reaches: with too few bytes to tell, it does.
func headAgrees(b []byte, size int64) bool {
	left := size
	for field := protowire.Number(1); field <= 3; field++ {
		if left == 0 && field == 3 {
			return true // a record without data
		}
		if len(b) == 0 {
			return true
		}
		want := byte(field)<<3 | byte(protowire.VarintType)
		if field == 3 {
			want = 3<<3 | byte(protowire.BytesType)
		}
		if b[0] != want {
			return false
		}
		v, n := protowire.ConsumeVarint(b[1:])
		if n < 0 {
			return len(b) <= 10 // the varint goes on where b ends
		}
		b, left = b[1+n:], left-1-int64(n)
		if field == 3 {
			return left >= 0 && v == uint64(left)
		}
	}
	return false
}
