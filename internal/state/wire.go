package state

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Request is one command of the log, etcd's own message: exactly one member
// beside the header.
type Request = pb.InternalRaftRequest

// The requests that most of the traffic is made of are decoded here without
// reflection; the messages' byte fields alias the input. Whatever is not plain
// (unknown fields, repeated singular messages, wrong wire types) is left to
// package proto, so that both ways agree on every input.

// DecodePut reads a PutRequest that aliases b.
func DecodePut(b []byte) (*pb.PutRequest, error) { return fast(b, &pb.PutRequest{}, putFields) }

// DecodeRange reads a RangeRequest that aliases b.
func DecodeRange(b []byte) (*pb.RangeRequest, error) {
	return fast(b, &pb.RangeRequest{}, rangeFields)
}

// DecodeDeleteRange reads a DeleteRangeRequest that aliases b.
func DecodeDeleteRange(b []byte) (*pb.DeleteRangeRequest, error) {
	return fast(b, &pb.DeleteRangeRequest{}, deleteFields)
}

// DecodeTxn reads a TxnRequest that aliases b.
func DecodeTxn(b []byte) (*pb.TxnRequest, error) { return fast(b, &pb.TxnRequest{}, txnFields) }

// DecodeLeaseGrant reads a LeaseGrantRequest.
func DecodeLeaseGrant(b []byte) (*pb.LeaseGrantRequest, error) {
	return fast(b, &pb.LeaseGrantRequest{}, grantFields)
}

// field is one field as it came: num, and either a varint or bytes.
type field struct {
	num    protowire.Number
	varint bool
	v      uint64
	bytes  []byte
}

// fast decodes b by set, which says false for what it does not take; then the
// whole message is decoded by package proto.
func fast[M proto.Message](b []byte, m M, set func(M, field) bool) (M, error) {
	if each(b, func(f field) bool { return set(m, f) }) {
		return m, nil
	}
	proto.Reset(m)
	return m, proto.Unmarshal(b, m) // its text reaches clients, who know it
}

// each passes the fields of b to take, and reports whether all were plain and
// taken.
func each(b []byte, take func(field) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.varint = true
			f.v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			return false
		}
		if n < 0 || !take(f) {
			return false
		}
		b = b[n:]
	}
	return true
}

func putFields(r *pb.PutRequest, f field) bool {
	switch {
	case f.num == 1 && !f.varint:
		r.Key = f.bytes
	case f.num == 2 && !f.varint:
		r.Value = f.bytes
	case f.num == 3 && f.varint:
		r.Lease = int64(f.v)
	case f.num == 4 && f.varint:
		r.PrevKv = f.v != 0
	case f.num == 5 && f.varint:
		r.IgnoreValue = f.v != 0
	case f.num == 6 && f.varint:
		r.IgnoreLease = f.v != 0
	default:
		return false
	}
	return true
}

func rangeFields(r *pb.RangeRequest, f field) bool {
	if !f.varint {
		switch f.num {
		case 1:
			r.Key = f.bytes
		case 2:
			r.RangeEnd = f.bytes
		default:
			return false
		}
		return true
	}
	switch f.num {
	case 3:
		r.Limit = int64(f.v)
	case 4:
		r.Revision = int64(f.v)
	case 5:
		r.SortOrder = pb.RangeRequest_SortOrder(f.v)
	case 6:
		r.SortTarget = pb.RangeRequest_SortTarget(f.v)
	case 7:
		r.Serializable = f.v != 0
	case 8:
		r.KeysOnly = f.v != 0
	case 9:
		r.CountOnly = f.v != 0
	case 10:
		r.MinModRevision = int64(f.v)
	case 11:
		r.MaxModRevision = int64(f.v)
	case 12:
		r.MinCreateRevision = int64(f.v)
	case 13:
		r.MaxCreateRevision = int64(f.v)
	default:
		return false
	}
	return true
}

func deleteFields(r *pb.DeleteRangeRequest, f field) bool {
	switch {
	case f.num == 1 && !f.varint:
		r.Key = f.bytes
	case f.num == 2 && !f.varint:
		r.RangeEnd = f.bytes
	case f.num == 3 && f.varint:
		r.PrevKv = f.v != 0
	default:
		return false
	}
	return true
}

func grantFields(r *pb.LeaseGrantRequest, f field) bool {
	switch {
	case f.num == 1 && f.varint:
		r.TTL = int64(f.v)
	case f.num == 2 && f.varint:
		r.ID = int64(f.v)
	default:
		return false
	}
	return true
}

func txnFields(r *pb.TxnRequest, f field) bool {
	if f.varint {
		return false
	}
	switch f.num {
	case 1:
		c := &pb.Compare{}
		if !each(f.bytes, func(f field) bool { return compareFields(c, f) }) {
			return false
		}
		r.Compare = append(r.Compare, c)
	case 2, 3:
		op, ok := requestOp(f.bytes)
		if !ok {
			return false
		}
		if f.num == 2 {
			r.Success = append(r.Success, op)
		} else {
			r.Failure = append(r.Failure, op)
		}
	default:
		return false
	}
	return true
}

func compareFields(c *pb.Compare, f field) bool {
	switch {
	case f.num == 1 && f.varint:
		c.Result = pb.Compare_CompareResult(f.v)
	case f.num == 2 && f.varint:
		c.Target = pb.Compare_CompareTarget(f.v)
	case f.num == 3 && !f.varint:
		c.Key = f.bytes
	case f.num == 4 && f.varint:
		c.TargetUnion = &pb.Compare_Version{Version: int64(f.v)}
	case f.num == 5 && f.varint:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: int64(f.v)}
	case f.num == 6 && f.varint:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: int64(f.v)}
	case f.num == 7 && !f.varint:
		c.TargetUnion = &pb.Compare_Value{Value: f.bytes}
	case f.num == 8 && f.varint:
		c.TargetUnion = &pb.Compare_Lease{Lease: int64(f.v)}
	case f.num == 64 && !f.varint:
		c.RangeEnd = f.bytes
	default:
		return false
	}
	return true
}

// requestOp reads a RequestOp with exactly one member.
func requestOp(b []byte) (*pb.RequestOp, bool) {
	op := &pb.RequestOp{}
	ok := each(b, func(f field) bool {
		if f.varint || op.Request != nil { // a second member would have to be merged
			return false
		}
		switch f.num {
		case 1:
			r := &pb.RangeRequest{}
			op.Request = &pb.RequestOp_RequestRange{RequestRange: r}
			return each(f.bytes, func(f field) bool { return rangeFields(r, f) })
		case 2:
			r := &pb.PutRequest{}
			op.Request = &pb.RequestOp_RequestPut{RequestPut: r}
			return each(f.bytes, func(f field) bool { return putFields(r, f) })
		case 3:
			r := &pb.DeleteRangeRequest{}
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}
			return each(f.bytes, func(f field) bool { return deleteFields(r, f) })
		}
		return false // nested transactions are rare, and deep: not here
	})
	return op, ok
}

// Field numbers of InternalRaftRequest.
const (
	fieldPut         = 4
	fieldDeleteRange = 5
	fieldTxn         = 6
	fieldLeaseGrant  = 8
	fieldHeader      = 100
)

// Encode serializes a command for the log. Raw, if not nil, is the request's
// one member as the client serialized it, and is taken over as it is: whoever
// decodes the entry reads what was decoded from raw.
func Encode(r *Request, raw []byte) ([]byte, error) {
	if num := splice(r); raw != nil && num != 0 {
		b := make([]byte, 0, len(raw)+64)
		b = protowire.AppendTag(b, num, protowire.BytesType)
		b = protowire.AppendBytes(b, raw)
		return appendHeader(b, r.Header), nil
	}
	if g := r.LeaseGrant; g != nil {
		var inner [2 * (1 + binary.MaxVarintLen64)]byte
		b := protowire.AppendTag(make([]byte, 0, 64), fieldLeaseGrant, protowire.BytesType)
		b = protowire.AppendBytes(b, appendInt(appendInt(inner[:0], 1, uint64(g.TTL)), 2, uint64(g.ID)))
		return appendHeader(b, r.Header), nil
	}
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return b, nil
}

// splice is the field number of the request's member if it may be spliced.
func splice(r *Request) protowire.Number {
	switch {
	case r.Put != nil:
		return fieldPut
	case r.Txn != nil:
		return fieldTxn
	case r.DeleteRange != nil:
		return fieldDeleteRange
	default:
		return 0
	}
}

func appendHeader(b []byte, h *pb.RequestHeader) []byte {
	size := protowire.SizeTag(1) + protowire.SizeVarint(h.GetID())
	if h.GetUsername() != "" {
		size += protowire.SizeTag(2) + protowire.SizeBytes(len(h.Username))
	}
	if h.GetAuthRevision() != 0 {
		size += protowire.SizeTag(3) + protowire.SizeVarint(h.AuthRevision)
	}
	b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, h.GetID())
	if h.GetUsername() != "" {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, h.Username)
	}
	if h.GetAuthRevision() != 0 {
		b = protowire.AppendTag(b, 3, protowire.VarintType)
		b = protowire.AppendVarint(b, h.AuthRevision)
	}
	return b
}

// Decode reads a command of the log. Byte fields may alias data.
func Decode(data []byte) (*Request, error) { return fast(data, &Request{}, requestFields) }

func requestFields(r *Request, f field) bool {
	if f.varint {
		return false
	}
	taken := r.Put != nil || r.Txn != nil || r.DeleteRange != nil
	switch f.num {
	case fieldPut:
		r.Put = &pb.PutRequest{}
		return !taken && each(f.bytes, func(f field) bool { return putFields(r.Put, f) })
	case fieldTxn:
		r.Txn = &pb.TxnRequest{}
		return !taken && each(f.bytes, func(f field) bool { return txnFields(r.Txn, f) })
	case fieldDeleteRange:
		r.DeleteRange = &pb.DeleteRangeRequest{}
		return !taken && each(f.bytes, func(f field) bool { return deleteFields(r.DeleteRange, f) })
	case fieldHeader:
		if r.Header != nil {
			return false
		}
		r.Header = &pb.RequestHeader{}
		return each(f.bytes, func(f field) bool { return headerFields(r.Header, f) })
	}
	return false
}

func headerFields(h *pb.RequestHeader, f field) bool {
	switch {
	case f.num == 1 && f.varint:
		h.ID = f.v
	case f.num == 2 && !f.varint && utf8.Valid(f.bytes):
		h.Username = string(f.bytes)
	case f.num == 3 && f.varint:
		h.AuthRevision = f.v
	default:
		return false
	}
	return true
}
