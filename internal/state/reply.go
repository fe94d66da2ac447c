package state

import (
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/lease"
)

// Header is what the serving member adds to a reply.
type Header struct {
	Cluster, Member uint64
	Revision        int64 // used where the reply has none of its own
	Term            uint64
}

// The replies to commands and reads. KVs are serialized KeyValues, read-only;
// AppendTo appends the serialized response message of etcd's API, with the
// reply's own revision in the header.
type (
	// RangeReply answers a Range.
	RangeReply struct {
		Revision int64
		KVs      [][]byte
		More     bool
		Count    int64
	}
	// PutReply answers a Put.
	PutReply struct {
		Revision int64
		Previous []byte // nil: not asked for, or there was none
	}
	// DeleteReply answers a DeleteRange.
	DeleteReply struct {
		Revision, Deleted int64
		Previous          [][]byte
	}
	// TxnReply answers a Txn; Responses are the replies of the executed ops.
	TxnReply struct {
		Revision  int64
		Succeeded bool
		Responses []any
	}
	// CompactReply answers a Compact.
	CompactReply struct{ Revision int64 }
	// GrantReply answers a LeaseGrant.
	GrantReply struct {
		Revision int64
		ID       lease.ID
		TTL      int64 // seconds, as granted
	}
	// RevokeReply answers a LeaseRevoke.
	RevokeReply struct{ Revision int64 }
	// AlarmReply answers an Alarm.
	AlarmReply struct {
		Revision int64
		Alarms   []Alarm
	}
	// TokenReply answers an Authenticate.
	TokenReply struct {
		Revision     int64
		Token        string
		AuthRevision uint64 // of users and roles, when the token was made
	}
	// DoneReply answers commands that have nothing to say.
	DoneReply struct{ Revision int64 }
)

func appendInt(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func sizeInt(num protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeVarint(v)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func sizeBytes(num protowire.Number, n int) int {
	return protowire.SizeTag(num) + protowire.SizeBytes(n)
}

func number(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// AppendTo appends a serialized ResponseHeader.
func (h Header) AppendTo(b []byte) []byte {
	b = appendInt(b, 1, h.Cluster)
	b = appendInt(b, 2, h.Member)
	b = appendInt(b, 3, uint64(h.Revision))
	return appendInt(b, 4, h.Term)
}

func (h Header) size() int {
	return sizeInt(1, h.Cluster) + sizeInt(2, h.Member) + sizeInt(3, uint64(h.Revision)) + sizeInt(4, h.Term)
}

// appendField appends the header as field 1 of a response, at revision rev.
func (h Header) appendField(b []byte, rev int64) []byte {
	h.Revision = rev
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(h.size()))
	return h.AppendTo(b)
}

func (h Header) sizeField(rev int64) int {
	h.Revision = rev
	return sizeBytes(1, h.size())
}

// Size is the length of what AppendTo appends.
func (r *RangeReply) Size(h Header) int {
	n := h.sizeField(r.Revision) + sizeInt(3, number(r.More)) + sizeInt(4, uint64(r.Count))
	for _, kv := range r.KVs {
		n += sizeBytes(2, len(kv))
	}
	return n
}

// AppendTo appends a serialized RangeResponse.
func (r *RangeReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	for _, kv := range r.KVs {
		b = appendBytes(b, 2, kv)
	}
	b = appendInt(b, 3, number(r.More))
	return appendInt(b, 4, uint64(r.Count))
}

// Size is the length of what AppendTo appends.
func (r *PutReply) Size(h Header) int {
	n := h.sizeField(r.Revision)
	if r.Previous != nil {
		n += sizeBytes(2, len(r.Previous))
	}
	return n
}

// AppendTo appends a serialized PutResponse.
func (r *PutReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	if r.Previous != nil {
		b = appendBytes(b, 2, r.Previous)
	}
	return b
}

// Size is the length of what AppendTo appends.
func (r *DeleteReply) Size(h Header) int {
	n := h.sizeField(r.Revision) + sizeInt(2, uint64(r.Deleted))
	for _, kv := range r.Previous {
		n += sizeBytes(3, len(kv))
	}
	return n
}

// AppendTo appends a serialized DeleteRangeResponse.
func (r *DeleteReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	b = appendInt(b, 2, uint64(r.Deleted))
	for _, kv := range r.Previous {
		b = appendBytes(b, 3, kv)
	}
	return b
}

// sized is a reply that can stand inside a transaction's.
type sized interface {
	Size(Header) int
	AppendTo([]byte, Header) []byte
}

// The members of ResponseOp.
func opField(reply any) protowire.Number {
	switch reply.(type) {
	case *RangeReply:
		return 1
	case *PutReply:
		return 2
	case *DeleteReply:
		return 3
	default:
		return 4
	}
}

// Size is the length of what AppendTo appends.
func (r *TxnReply) Size(h Header) int { return h.sizeField(r.Revision) + r.sizeBody() }

// AppendTo appends a serialized TxnResponse. The headers inside carry nothing
// but revisions, that of a nested transaction nothing at all.
func (r *TxnReply) AppendTo(b []byte, h Header) []byte {
	return r.appendBody(h.appendField(b, r.Revision))
}

func (r *TxnReply) sizeBody() int {
	n := sizeInt(2, number(r.Succeeded))
	for _, op := range r.Responses {
		n += sizeBytes(3, sizeBytes(opField(op), sizeInner(op)))
	}
	return n
}

func (r *TxnReply) appendBody(b []byte) []byte {
	b = appendInt(b, 2, number(r.Succeeded))
	for _, op := range r.Responses {
		num, size := opField(op), sizeInner(op)
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeBytes(num, size)))
		b = protowire.AppendTag(b, num, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		if nested, ok := op.(*TxnReply); ok {
			b = nested.appendBody(Header{}.appendField(b, 0))
		} else {
			b = op.(sized).AppendTo(b, Header{})
		}
	}
	return b
}

func sizeInner(op any) int {
	if nested, ok := op.(*TxnReply); ok {
		return Header{}.sizeField(0) + nested.sizeBody()
	}
	return op.(sized).Size(Header{})
}

// AppendTo appends a serialized CompactionResponse.
func (r *CompactReply) AppendTo(b []byte, h Header) []byte { return h.appendField(b, r.Revision) }

// AppendTo appends a serialized LeaseGrantResponse.
func (r *GrantReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	b = appendInt(b, 2, uint64(r.ID))
	return appendInt(b, 3, uint64(r.TTL))
}

// AppendTo appends a serialized LeaseRevokeResponse.
func (r *RevokeReply) AppendTo(b []byte, h Header) []byte { return h.appendField(b, r.Revision) }

// AppendTo appends a serialized AlarmResponse.
func (r *AlarmReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	for _, a := range r.Alarms {
		row := a.row()
		b = appendBytes(b, 2, row)
	}
	return b
}

// AppendTo appends a response that is nothing but a header.
func (r *DoneReply) AppendTo(b []byte, h Header) []byte { return h.appendField(b, r.Revision) }

// AppendTo appends a serialized AuthenticateResponse.
func (r *TokenReply) AppendTo(b []byte, h Header) []byte {
	b = h.appendField(b, r.Revision)
	return appendBytes(b, 2, []byte(r.Token))
}
