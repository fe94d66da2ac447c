package proxy

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestSpansStayInTheNamespace(t *testing.T) {
	for _, c := range []struct{ namespace, key, end, wantKey, wantEnd string }{
		{"ns/", "a", "", "ns/a", ""},
		{"ns/", "a", "b", "ns/a", "ns/b"},
		{"ns/", "a", "\x00", "ns/a", "ns0"},
		{"ns/", "\x00", "\x00", "ns/\x00", "ns0"},
		{"ns/", "", "", "", ""}, // refused by the member
		{"ns/", "", "b", "ns/", "ns/b"},
		{"n\xff", "a", "\x00", "n\xffa", "o"},
		{"\xff\xff", "a", "\x00", "\xff\xffa", "\x00"},
	} {
		key, end := namespace(c.namespace).span([]byte(c.key), []byte(c.end))
		if string(key) != c.wantKey || string(end) != c.wantEnd {
			t.Errorf("%q to %q in %q is %q to %q, want %q to %q", c.key, c.end, c.namespace, key, end, c.wantKey, c.wantEnd)
		}
	}
}

func TestKeysAreInTheNamespaceWhereverTheyStand(t *testing.T) {
	n := namespace("ns/")
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("p")}}}
	inner := &pb.TxnRequest{Success: []*pb.RequestOp{put}}
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("c"), RangeEnd: []byte("\x00")}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}}},
	}
	n.into(txn)
	if got := string(put.GetRequestPut().Key) + " " + string(txn.Compare[0].Key) + " " + string(txn.Compare[0].RangeEnd); got != "ns/p ns/c ns0" {
		t.Errorf("got %s", got)
	}
	kv := &mvccpb.KeyValue{Key: []byte("ns/p")}
	nested := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}}}
	n.outOf(&pb.TxnResponse{Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseTxn{
		ResponseTxn: &pb.TxnResponse{Responses: []*pb.ResponseOp{nested}},
	}}}})
	if string(kv.Key) != "p" {
		t.Errorf("got %s", kv.Key)
	}
	lease := &pb.LeaseTimeToLiveResponse{Keys: [][]byte{[]byte("ns/a"), []byte("other")}}
	if n.outOf(lease); len(lease.Keys) != 1 || string(lease.Keys[0]) != "a" {
		t.Errorf("the lease's keys are %q", lease.Keys)
	}
}

func TestNoReadIsOlderThanOneBefore(t *testing.T) {
	h := newHistory()
	ahead, behind := startFake(t, h), startFake(t, h)
	_, conn := startProxy(t, Options{Ordered: true}, ahead, behind)
	kv := pb.NewKVClient(conn)
	ahead.setRevision(9)
	behind.setRevision(4)
	newest := int64(0)
	for range 6 {
		r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		if err != nil {
			t.Fatal(err)
		}
		if newest = max(newest, r.Header.Revision); r.Header.Revision < newest {
			t.Errorf("revision %d comes after %d", r.Header.Revision, newest)
		}
	}
	if newest != 9 {
		t.Errorf("the newest was %d", newest)
	}
	ahead.setRevision(4)
	if r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err == nil || r != nil {
		t.Errorf("all members lag: %v, %v", r, err)
	}
}
