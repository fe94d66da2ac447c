package proxy

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of a WatchResponse, of an Event in it, of its KeyValue, and of the
// header, that the proxy looks at.
const (
	responseHeader   protowire.Number = 1
	responseWatchID  protowire.Number = 2
	responseCreated  protowire.Number = 3
	responseCanceled protowire.Number = 4
	responseCompact  protowire.Number = 5
	responseReason   protowire.Number = 6
	responseFragment protowire.Number = 7
	responseEvents   protowire.Number = 11
	eventKV          protowire.Number = 2
	kvModRevision    protowire.Number = 3
	headerRevision   protowire.Number = 3
)

var errWire = errors.New("kvd proxy: a member's watch response is malformed")

// notice is a member's watch response, taken apart as far as needed.
type notice struct {
	header   []byte // its bytes
	revision int64  // of the header
	id       int64
	created  bool
	canceled bool
	compact  int64
	fragment bool
	events   int
	first    int64  // revision of the first event, if there are any
	last     int64  // and of the last
	tail     []byte // all fields but header and ID, as they came
	// The response to the watcher before, which is shared by all with its ID and the
	// whole tail: most streams have one watch. Guarded by watches.mu.
	same   mem.BufferSlice
	sameID int64
}

// noID is no watch's.
const noID = -1 << 63

// parseNotice takes a response apart. It keeps data.
func parseNotice(data []byte) (*notice, error) {
	n := &notice{sameID: noID}
	err := fields(data, func(number protowire.Number, varint uint64, bytes, whole []byte) error {
		switch number {
		case responseHeader:
			n.header = bytes
			return fields(bytes, func(number protowire.Number, varint uint64, _, _ []byte) error {
				if number == headerRevision {
					n.revision = int64(varint)
				}
				return nil
			})
		case responseWatchID:
			n.id = int64(varint)
			return nil
		case responseCreated:
			n.created = varint != 0
		case responseCanceled:
			n.canceled = varint != 0
		case responseCompact:
			n.compact = int64(varint)
		case responseFragment:
			n.fragment = varint != 0
		case responseEvents:
			revision, err := revisionOf(bytes)
			if err != nil {
				return err
			}
			if n.events == 0 {
				n.first = revision
			}
			n.events++
			n.last = revision
		}
		n.tail = append(n.tail, whole...)
		return nil
	})
	return n, err
}

// revisionOf is the revision of an event.
func revisionOf(event []byte) (revision int64, err error) {
	err = fields(event, func(number protowire.Number, _ uint64, kv, _ []byte) error {
		if number != eventKV {
			return nil
		}
		return fields(kv, func(number protowire.Number, varint uint64, _, _ []byte) error {
			if number == kvModRevision {
				revision = int64(varint)
			}
			return nil
		})
	})
	return revision, err
}

// since is the tail of n without the events before a revision.
func (n *notice) since(revision int64) ([]byte, error) {
	var tail []byte
	err := fields(n.tail, func(number protowire.Number, _ uint64, bytes, whole []byte) error {
		if number == responseEvents {
			at, err := revisionOf(bytes)
			if err != nil || at < revision {
				return err
			}
		}
		tail = append(tail, whole...)
		return nil
	})
	return tail, err
}

// without is the tail of n without a field.
func (n *notice) without(unwanted protowire.Number) (tail []byte) {
	_ = fields(n.tail, func(number protowire.Number, _ uint64, _, whole []byte) error { // it was parsed before
		if number != unwanted {
			tail = append(tail, whole...)
		}
		return nil
	})
	return tail
}

// fields visits the fields of a message: the value of a number, or the bytes,
// and the whole field as it stands.
func fields(data []byte, visit func(number protowire.Number, varint uint64, bytes, whole []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errWire
		}
		size := protowire.ConsumeFieldValue(number, kind, data[n:])
		if size < 0 {
			return errWire
		}
		var varint uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			varint, _ = protowire.ConsumeVarint(data[n:])
		case protowire.BytesType:
			bytes, _ = protowire.ConsumeBytes(data[n:])
		}
		if err := visit(number, varint, bytes, data[:n+size]); err != nil {
			return err
		}
		data = data[n+size:]
	}
	return nil
}

// response is a watch response for one watcher: header and ID are its own, the
// tail may be shared.
func response(header []byte, id int64, tail []byte) mem.BufferSlice {
	own := make([]byte, 0, len(header)+16)
	own = protowire.AppendTag(own, responseHeader, protowire.BytesType)
	own = protowire.AppendBytes(own, header)
	own = protowire.AppendTag(own, responseWatchID, protowire.VarintType)
	own = protowire.AppendVarint(own, uint64(id))
	if len(tail) == 0 {
		return mem.BufferSlice{mem.SliceBuffer(own)}
	}
	return mem.BufferSlice{mem.SliceBuffer(own), mem.SliceBuffer(tail)}
}

// flag is a tail that says yes to one field.
func flag(numbers ...protowire.Number) []byte {
	var tail []byte
	for _, number := range numbers {
		tail = protowire.AppendTag(tail, number, protowire.VarintType)
		tail = protowire.AppendVarint(tail, 1)
	}
	return tail
}
