package main

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func TestEncodingsAreWhatTheAPIDefines(t *testing.T) {
	key, end, value := []byte("a"), []byte("b"), []byte("v")
	s := space{prefix: "/p-", n: 2, bytes: 4}
	put := func(k, v []byte) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: v}}}
	}
	for name, c := range map[string]struct {
		encoded []byte
		want    proto.Message
	}{
		"put":          {appendPut(nil, key, value), &pb.PutRequest{Key: key, Value: value}},
		"get":          {appendRange(nil, key, nil, 0, false), &pb.RangeRequest{Key: key}},
		"limit":        {appendRange(nil, key, nil, 1, false), &pb.RangeRequest{Key: key, Limit: 1}},
		"serializable": {appendRange(nil, key, end, 0, true), &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: true}},
		"count":        {appendCount(nil, key, end), &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: true}},
		"lease":        {appendLeaseGrant(nil, 60), &pb.LeaseGrantRequest{TTL: 60}},
		"watch": {appendWatch(nil, key, end), &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: key, RangeEnd: end},
		}}},
		"update": {appendUpdate(nil, key, 300, value), &pb.TxnRequest{
			Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: key, TargetUnion: &pb.Compare_ModRevision{ModRevision: 300}}},
			Success: []*pb.RequestOp{put(key, value)},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		}},
		"puts": {appendPuts(nil, s, 0, 2), &pb.TxnRequest{
			Success: []*pb.RequestOp{put([]byte("/p-00000000"), s.value(0)), put([]byte("/p-00000001"), s.value(1))},
		}},
	} {
		got := c.want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(c.encoded, got); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !proto.Equal(got, c.want) {
			t.Errorf("%s: encoded %v, want %v", name, got, c.want)
		}
	}
}

func TestModRevisionIsFoundWithoutDecoding(t *testing.T) {
	body, err := proto.Marshal(&pb.RangeResponse{
		Header: &pb.ResponseHeader{ClusterId: 1 << 60, Revision: 9},
		Kvs:    []*mvccpb.KeyValue{{Key: []byte("k"), CreateRevision: 3, ModRevision: 700, Version: 2, Value: []byte("v"), Lease: 5}},
		Count:  1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := modRevision(body); err != nil || got != 700 {
		t.Errorf("found %d, %v; want 700", got, err)
	}
	if got, err := modRevision(body[:len(body)-4]); err == nil {
		t.Errorf("found %d in a truncated answer", got)
	}
	if got, err := modRevision(nil); err == nil {
		t.Errorf("found %d in an answer without a key", got)
	}
}

func TestKeysSortAsTheirNumbers(t *testing.T) {
	if a, b := string(small.key(9)), string(small.key(10)); a >= b {
		t.Errorf("%s is not before %s", a, b)
	}
	if last, end := string(small.key(small.n-1)), string(small.end()); last >= end {
		t.Errorf("%s is not before the end %s", last, end)
	}
	if string(small.value(1)) == string(small.value(2)) {
		t.Error("two keys have the same value")
	}
}
