package state

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The figures are what etcd 3.7.3 shows after the same requests.
func TestCountsAreEtcds(t *testing.T) {
	c := converse(t)
	var last Counts
	counts := func(what string, want Counts) {
		t.Helper()
		now := c.machine.View().Counts()
		got := now
		got.Ranges -= last.Ranges
		got.Puts -= last.Puts
		got.Deletes -= last.Deletes
		got.PutBytes -= last.PutBytes
		got.Txns -= last.Txns
		got.Removed -= last.Removed
		got.Granted -= last.Granted
		got.Revoked -= last.Revoked
		last = now
		if got != want {
			t.Errorf("%s: counted %+v, want %+v", what, got, want)
		}
	}
	put := func(key, value string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(key), Value: []byte(value)} }
	ranged := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	puts := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put("a", "3")}}
	exists := &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}
	never := &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Version{}}

	c.apply(&Request{Put: put("a", "12")})
	counts("a put", Counts{Puts: 1, PutBytes: 3})
	c.apply(&Request{Put: &pb.PutRequest{Key: []byte("a"), Value: []byte("x"), PrevKv: true}})
	counts("a put that returns what was there", Counts{Ranges: 1, Puts: 1, PutBytes: 2, Txns: 1})
	c.apply(&Request{Put: &pb.PutRequest{Key: []byte("a"), Value: []byte("x"), Lease: 77}})
	counts("a put that is refused", Counts{})
	c.apply(&Request{Put: &pb.PutRequest{Key: []byte("nothing"), IgnoreValue: true}})
	counts("a put that is refused after a look", Counts{Ranges: 1})
	previous := &pb.PutRequest{Key: []byte("a"), Value: []byte("x"), PrevKv: true}
	c.apply(&Request{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: previous}}}}})
	counts("the same in a transaction, which looks twice", Counts{Ranges: 2, Puts: 1, PutBytes: 2, Txns: 1})
	c.apply(&Request{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("nothing")}})
	counts("a delete of nothing", Counts{Deletes: 1})
	c.apply(&Request{Txn: &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: []*pb.RequestOp{puts}}})
	counts("an update", Counts{Ranges: 1, Puts: 1, PutBytes: 2})
	c.apply(&Request{Txn: &pb.TxnRequest{Compare: []*pb.Compare{exists, exists}, Success: []*pb.RequestOp{puts, ranged}}})
	counts("a transaction of more", Counts{Ranges: 3, Puts: 1, PutBytes: 2, Txns: 2})
	c.apply(&Request{Txn: &pb.TxnRequest{Compare: []*pb.Compare{never, exists}, Success: []*pb.RequestOp{puts}}})
	counts("a transaction that does nothing", Counts{Ranges: 1})

	c.apply(&Request{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 10}})
	c.apply(&Request{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 10}})
	counts("a grant and one that is refused", Counts{Granted: 1})
	for _, key := range []string{"b", "c"} {
		c.apply(&Request{Put: &pb.PutRequest{Key: []byte(key), Lease: 7}})
	}
	counts("two puts", Counts{Puts: 2, PutBytes: 2})
	c.apply(&Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: 7}})
	counts("a revocation", Counts{Deletes: 2, Txns: 1, Revoked: 1})

	v := c.machine.View()
	if _, err := v.Range(&pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	counts("a range", Counts{Ranges: 1})
	if _, err := v.ReadTxn(&pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: []*pb.RequestOp{ranged}}); err != nil {
		t.Fatal(err)
	}
	counts("a transaction that reads", Counts{Ranges: 2, Txns: 1})
	if _, err := v.ReadTxn(&pb.TxnRequest{Success: []*pb.RequestOp{ranged}}); err != nil {
		t.Fatal(err)
	}
	counts("a transaction of one range", Counts{Ranges: 1})

	c.apply(&Request{Compaction: &pb.CompactionRequest{Revision: v.Keys.Revision()}})
	c.flush()
	counts("a compaction of four versions of a, one of b and one of c", Counts{Removed: 6})
}
