package api

import (
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/state"
)

// watchReply is a WatchResponse without its events, which lie ready.
type watchReply struct {
	header    state.Header
	id        int64
	created   bool
	canceled  bool
	compacted int64
	reason    string
	fragment  bool
}

const (
	watchHeadBytes = 96 // enough for a response's fields before the events, if it has no reason
	// joinBytes is up to which size a response is copied into one buffer:
	// cheaper than to handle two.
	joinBytes = 1 << 10
)

// encode writes the response around events that are WatchResponse.events
// fields, shared with other watchers.
func (r *watchReply) encode(events [][]byte) encoded {
	bytes := 0
	for _, e := range events {
		bytes += len(e)
	}
	room := watchHeadBytes + len(r.reason)
	if bytes <= joinBytes {
		b := r.append(make([]byte, 0, room+bytes))
		for _, e := range events {
			b = append(b, e...)
		}
		return encoded{mem.SliceBuffer(b)}
	}
	out := make(encoded, 0, 1+len(events))
	out = append(out, mem.SliceBuffer(r.append(make([]byte, 0, room))))
	for _, e := range events {
		out = append(out, mem.SliceBuffer(e))
	}
	return out
}

// lastEvents is the response with events that was encoded last. Watchers of one
// class are told of the same one after the other, mostly under the same ID.
type lastEvents struct {
	watchReply
	events [][]byte
	out    any // encoded
}

// encodeEvents is encode, but for who asks for what another was given just now.
func (a *API) encodeEvents(r *watchReply, events [][]byte) any {
	if l := a.lastSent.Load(); l != nil && l.watchReply == *r && slices.EqualFunc(l.events, events, alias) {
		return l.out
	}
	l := &lastEvents{*r, events, r.encode(events)}
	a.lastSent.Store(l)
	return l.out
}

// alias tells whether two slices, which are not empty, are of the same memory.
func alias(a, b []byte) bool { return len(a) == len(b) && &a[0] == &b[0] }

func (r *watchReply) size() int {
	var room [watchHeadBytes]byte
	return len(r.append(room[:0]))
}

func (r *watchReply) append(b []byte) []byte {
	b = appendHeader(b, r.header)
	b = appendInt(b, 2, uint64(r.id))
	b = appendFlag(b, 3, r.created)
	b = appendFlag(b, 4, r.canceled)
	b = appendInt(b, 5, uint64(r.compacted))
	if r.reason != "" {
		b = protowire.AppendString(protowire.AppendTag(b, 6, protowire.BytesType), r.reason)
	}
	return appendFlag(b, 7, r.fragment)
}

// appendHeader appends the header as a response's field 1. It never needs more
// than 127 bytes.
func appendHeader(b []byte, h state.Header) []byte {
	at := len(b) + 2
	b = h.AppendTo(append(b, 1<<3|byte(protowire.BytesType), 0))
	b[at-1] = byte(len(b) - at)
	return b
}

func appendFlag(b []byte, field protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendInt(b, field, 1)
}

// splitEvents cuts joined events fields apart.
func splitEvents(pieces [][]byte) [][]byte {
	var events [][]byte
	for _, p := range pieces {
		for len(p) > 0 {
			n := protowire.ConsumeFieldValue(0, protowire.BytesType, p[1:])
			if n < 0 {
				panic("api: encoded events do not decode") // they are our own
			}
			events = append(events, p[:1+n])
			p = p[1+n:]
		}
	}
	return events
}
