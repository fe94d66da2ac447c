package lease

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of leasepb.Lease, the value of a lease's row.
const (
	fieldID        protowire.Number = 1
	fieldTTL       protowire.Number = 2
	fieldRemaining protowire.Number = 3
)

// encode returns a lease's row, in one piece of memory.
func (l Lease) encode() (key, value []byte) {
	const idBytes = 8
	b := make([]byte, 0, idBytes+3*(1+binary.MaxVarintLen64))
	b = binary.BigEndian.AppendUint64(b, uint64(l.ID))
	b = appendField(b, fieldID, int64(l.ID))
	b = appendField(b, fieldTTL, l.TTL)
	b = appendField(b, fieldRemaining, l.Remaining)
	return b[:idBytes:idBytes], b[idBytes:]
}

// appendField leaves out zeroes, as proto3 does.
func appendField(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// decode reads what encode or etcd wrote; fields it does not know are skipped.
func decode(b []byte) (Lease, error) {
	var l Lease
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Lease{}, fmt.Errorf("the row is damaged: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if kind != protowire.VarintType {
			if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
				return Lease{}, fmt.Errorf("the row is damaged: %w", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return Lease{}, fmt.Errorf("the row is damaged: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch field {
		case fieldID:
			l.ID = ID(v)
		case fieldTTL:
			l.TTL = int64(v)
		case fieldRemaining:
			l.Remaining = int64(v)
		}
	}
	if l.ID == 0 {
		return Lease{}, errors.New("the row is damaged: it names no lease")
	}
	return l, nil
}
