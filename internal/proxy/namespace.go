package proxy

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// namespace is a prefix that stands before all keys at the members, and that
// clients do not see. What etcd's grpc-proxy leaves alone is left alone: the
// names of elections and locks, and the ranges that roles are granted.
type namespace []byte

// concerned are the methods whose messages have keys.
var concerned = map[string]func() (request, answer proto.Message){
	"/etcdserverpb.KV/Range":       func() (_, _ proto.Message) { return &pb.RangeRequest{}, &pb.RangeResponse{} },
	"/etcdserverpb.KV/RangeStream": func() (_, _ proto.Message) { return &pb.RangeRequest{}, &pb.RangeStreamResponse{} },
	"/etcdserverpb.KV/Put":         func() (_, _ proto.Message) { return &pb.PutRequest{}, &pb.PutResponse{} },
	"/etcdserverpb.KV/DeleteRange": func() (_, _ proto.Message) { return &pb.DeleteRangeRequest{}, &pb.DeleteRangeResponse{} },
	"/etcdserverpb.KV/Txn":         func() (_, _ proto.Message) { return &pb.TxnRequest{}, &pb.TxnResponse{} },
	"/etcdserverpb.Watch/Watch":    func() (_, _ proto.Message) { return &pb.WatchRequest{}, &pb.WatchResponse{} },
	"/etcdserverpb.Lease/LeaseTimeToLive": func() (_, _ proto.Message) {
		return &pb.LeaseTimeToLiveRequest{}, &pb.LeaseTimeToLiveResponse{}
	},
}

// request puts a frame's keys into the namespace.
func (n namespace) request(method string, f *frame) error {
	make, ok := concerned[method]
	if len(n) == 0 || !ok {
		return nil
	}
	m, _ := make()
	if err := proto.Unmarshal(f.data.Materialize(), m); err != nil {
		return status.Errorf(codes.Internal, "kvd proxy: a request of %s is malformed: %v", method, err)
	}
	n.into(m)
	return f.replace(m)
}

// answer takes a frame's keys out of the namespace.
func (n namespace) answer(method string, f *frame) error {
	make, ok := concerned[method]
	if len(n) == 0 || !ok {
		return nil
	}
	_, m := make()
	if err := proto.Unmarshal(f.data.Materialize(), m); err != nil {
		return status.Errorf(codes.Internal, "kvd proxy: an answer of %s is malformed: %v", method, err)
	}
	n.outOf(m)
	return f.replace(m)
}

// replace makes m what the frame holds.
func (f *frame) replace(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return status.Errorf(codes.Internal, "kvd proxy: %v", err)
	}
	f.free()
	f.data = mem.BufferSlice{mem.SliceBuffer(data)}
	return nil
}

// span puts a range into the namespace. An empty key stays one: members refuse it.
func (n namespace) span(key, end []byte) (_, _ []byte) {
	if len(key) == 0 && len(end) == 0 {
		return key, end
	}
	key = append(bytes.Clone(n), key...)
	switch {
	case len(end) == 0:
	case len(end) == 1 && end[0] == 0: // all keys from key on, here: of the namespace
		end = n.end()
	default:
		end = append(bytes.Clone(n), end...)
	}
	return key, end
}

// end is the first key behind the namespace.
func (n namespace) end() []byte {
	end := bytes.Clone(n)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return []byte{0} // nothing but 0xff: there is none
}

func (n namespace) into(m any) {
	if len(n) == 0 {
		return
	}
	switch m := m.(type) {
	case *pb.RangeRequest:
		m.Key, m.RangeEnd = n.span(m.Key, m.RangeEnd)
	case *pb.PutRequest:
		m.Key, _ = n.span(m.Key, nil)
	case *pb.DeleteRangeRequest:
		m.Key, m.RangeEnd = n.span(m.Key, m.RangeEnd)
	case *pb.TxnRequest:
		for _, c := range m.Compare {
			c.Key, c.RangeEnd = n.span(c.Key, c.RangeEnd)
		}
		for _, ops := range [][]*pb.RequestOp{m.Success, m.Failure} {
			for _, op := range ops {
				switch r := op.Request.(type) {
				case *pb.RequestOp_RequestRange:
					n.into(r.RequestRange)
				case *pb.RequestOp_RequestPut:
					n.into(r.RequestPut)
				case *pb.RequestOp_RequestDeleteRange:
					n.into(r.RequestDeleteRange)
				case *pb.RequestOp_RequestTxn:
					n.into(r.RequestTxn)
				}
			}
		}
	case *pb.WatchRequest:
		if c := m.GetCreateRequest(); c != nil {
			if len(c.Key) == 0 {
				c.Key = []byte{0} // as members read it
			}
			c.Key, c.RangeEnd = n.span(c.Key, c.RangeEnd)
		}
	}
}

func (n namespace) outOf(m any) {
	if len(n) == 0 {
		return
	}
	switch m := m.(type) {
	case *pb.RangeResponse:
		n.strip(m.GetKvs()...)
	case *pb.RangeStreamResponse:
		n.strip(m.GetRangeResponse().GetKvs()...)
	case *pb.PutResponse:
		n.strip(m.GetPrevKv())
	case *pb.DeleteRangeResponse:
		n.strip(m.GetPrevKvs()...)
	case *pb.TxnResponse:
		for _, r := range m.GetResponses() {
			switch r := r.Response.(type) {
			case *pb.ResponseOp_ResponseRange:
				n.outOf(r.ResponseRange)
			case *pb.ResponseOp_ResponsePut:
				n.outOf(r.ResponsePut)
			case *pb.ResponseOp_ResponseDeleteRange:
				n.outOf(r.ResponseDeleteRange)
			case *pb.ResponseOp_ResponseTxn:
				n.outOf(r.ResponseTxn)
			}
		}
	case *pb.WatchResponse:
		for _, e := range m.Events {
			n.strip(e.Kv, e.PrevKv)
		}
	case *pb.LeaseTimeToLiveResponse:
		var own [][]byte
		for _, key := range m.Keys {
			if inner, ok := bytes.CutPrefix(key, n); ok {
				own = append(own, inner)
			}
		}
		m.Keys = own
	}
}

func (n namespace) strip(kvs ...*mvccpb.KeyValue) {
	for _, kv := range kvs {
		if kv != nil {
			kv.Key = bytes.TrimPrefix(kv.Key, n)
		}
	}
}

// renamed is a stream of messages, not frames, at a member.
type renamed struct {
	grpc.ClientStream
	namespace namespace
}

func (s renamed) SendMsg(m any) error {
	if in, ok := m.(proto.Message); ok {
		inside := proto.Clone(in)
		s.namespace.into(inside)
		m = inside
	}
	return s.ClientStream.SendMsg(m)
}

func (s renamed) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.namespace.outOf(m)
	}
	return err
}
