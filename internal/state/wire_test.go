package state

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: -3, PrevKv: true}}}
}

func get(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
		Key: []byte(key), RangeEnd: []byte{0}, Limit: -1, Revision: 9, SortOrder: 2, SortTarget: 4, Serializable: true, KeysOnly: true,
		CountOnly: true, MinModRevision: 1, MaxModRevision: 2, MinCreateRevision: 3, MaxCreateRevision: 4,
	}}}
}

func sampleTxn() *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: []byte("a"), Target: pb.Compare_MOD, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: 7}},
			{Key: []byte("b"), RangeEnd: []byte("c"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("x")}},
			{Key: []byte("d"), TargetUnion: &pb.Compare_Version{}},
			{Key: []byte("e"), Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: 5}},
			{Key: []byte("f"), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 5}},
		},
		Success: []*pb.RequestOp{put("k"), get("l"), {Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("z"), PrevKv: true}}}},
		Failure: []*pb.RequestOp{get("m"), {Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{put("n")}}}}, {}},
	}
}

// FuzzDecode holds the decoders without reflection against package proto: for
// every input they return an equal message, or both refuse it.
func FuzzDecode(f *testing.F) {
	f.Add(mustMarshal(f, sampleTxn()))
	f.Add(mustMarshal(f, put("k").GetRequestPut()))
	f.Add(mustMarshal(f, get("k").GetRequestRange()))
	f.Add(mustMarshal(f, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}))
	f.Add(mustMarshal(f, &pb.LeaseGrantRequest{ID: -1, TTL: 60}))
	f.Add(mustMarshal(f, &Request{Header: &pb.RequestHeader{ID: 8, Username: "root", AuthRevision: 3}, Txn: sampleTxn()}))
	f.Add(mustMarshal(f, &Request{ID: 5, Put: put("k").GetRequestPut()}))
	f.Add([]byte{0x0a, 0x01, 'a', 0x0a, 0x01, 'b'})                         // a repeated singular field: the last one counts
	f.Add([]byte{0x22, 0x03, 0x0a, 0x01, 'a', 0x22, 0x03, 0x12, 0x01, 'b'}) // a repeated message: merged
	f.Add([]byte{0x78, 0x01})                                               // an unknown field
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range []struct {
			into   proto.Message
			decode func() (proto.Message, error)
		}{
			{&pb.PutRequest{}, func() (proto.Message, error) { return DecodePut(data) }},
			{&pb.RangeRequest{}, func() (proto.Message, error) { return DecodeRange(data) }},
			{&pb.DeleteRangeRequest{}, func() (proto.Message, error) { return DecodeDeleteRange(data) }},
			{&pb.TxnRequest{}, func() (proto.Message, error) { return DecodeTxn(data) }},
			{&pb.LeaseGrantRequest{}, func() (proto.Message, error) { return DecodeLeaseGrant(data) }},
			{&Request{}, func() (proto.Message, error) { return Decode(data) }},
		} {
			want := proto.Unmarshal(data, c.into)
			got, err := c.decode()
			if (err == nil) != (want == nil) {
				t.Fatalf("%T: got error %v, package proto %v", c.into, err, want)
			}
			if err == nil && !proto.Equal(got, c.into) {
				t.Fatalf("%T: got %v, package proto %v", c.into, got, c.into)
			}
		}
	})
}

func TestEncodeSplicesWhatTheClientSent(t *testing.T) {
	for _, r := range []*Request{
		{Put: put("k").GetRequestPut()},
		{Txn: sampleTxn()},
		{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}},
		{Compaction: &pb.CompactionRequest{Revision: 7}},
		{LeaseGrant: &pb.LeaseGrantRequest{ID: 9, TTL: 7}},
	} {
		r.Header = &pb.RequestHeader{ID: 1 << 60, Username: "someone", AuthRevision: 4}
		var raw []byte
		switch {
		case r.Put != nil:
			raw = mustMarshal(t, r.Put)
		case r.Txn != nil:
			raw = mustMarshal(t, r.Txn)
		case r.DeleteRange != nil:
			raw = mustMarshal(t, r.DeleteRange)
		default:
			raw = []byte{0xff} // not one of those that are spliced: not looked at
		}
		data, err := Encode(r, raw)
		if err != nil {
			t.Fatal(err)
		}
		if want := mustMarshal(t, r); len(want) != len(data) {
			t.Errorf("%v: %d bytes, package proto makes %d", r, len(data), len(want))
		}
		got, err := Decode(data)
		if err != nil || !proto.Equal(got, r) {
			t.Errorf("decoded %v, %v; want %v", got, err, r)
		}
	}
}
