package api

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/state"
	"kvd/internal/store"
)

// FuzzTxn sends transactions through the checks and, if they pass, through a
// machine: whatever is let through must run to its end, and write no key twice
// unless it is also deleted.
func FuzzTxn(f *testing.F) {
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), PrevKv: true}}}
	}
	remove := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}}}
	}
	nest := func(t *pb.TxnRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
	}
	for _, t := range []*pb.TxnRequest{
		{},
		{Success: []*pb.RequestOp{put("a"), put("b"), remove("c", "d")}},
		{Success: []*pb.RequestOp{put("a"), put("a")}},
		{Success: []*pb.RequestOp{put("b"), remove("a", "\x00")}},
		{Failure: []*pb.RequestOp{nest(&pb.TxnRequest{Success: []*pb.RequestOp{put("a")}, Failure: []*pb.RequestOp{put("a")}}), remove("b", "c")}},
		{Compare: []*pb.Compare{{Key: []byte("a"), RangeEnd: []byte("z"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("v")}}}},
		{Success: []*pb.RequestOp{{}, nest(nil)}},
	} {
		b, err := proto.Marshal(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := state.DecodeTxn(data)
		if err != nil || checkTxn(r, 128) != nil {
			return
		}
		disk := store.NewMem()
		reader, err := disk.Read()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		m, err := state.Load(reader, disk.Read, state.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(state.Entry{Index: 1, Term: 1, Request: &state.Request{Put: &pb.PutRequest{Key: []byte("a"), Value: []byte("v")}}})
		out := m.Apply(state.Entry{Index: 2, Term: 1, Request: &state.Request{Txn: r}, Wanted: true})
		if out.Fatal != nil {
			t.Fatalf("%v: %v", r, out.Fatal)
		}
		written, deleted := map[string]bool{}, map[string]bool{}
		for _, e := range out.Events {
			if e.Delete() {
				deleted[e.Key()] = true
				continue
			}
			if written[e.Key()] && !deleted[e.Key()] {
				t.Fatalf("%v writes %q twice", r, e.Key())
			}
			written[e.Key()] = true
		}
		if reply, ok := out.Reply.(*state.TxnReply); ok {
			if b := reply.AppendTo(nil, state.Header{}); len(b) != reply.Size(state.Header{}) || proto.Unmarshal(b, &pb.TxnResponse{}) != nil {
				t.Fatalf("%v: reply %x of %d bytes", r, b, reply.Size(state.Header{}))
			}
		}
	})
}
