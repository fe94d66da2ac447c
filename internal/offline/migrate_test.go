package offline

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/member"
)

func TestALogNeedsTheVersionOfItsNewestField(t *testing.T) {
	for _, c := range []struct {
		request *pb.InternalRaftRequest
		want    string
	}{
		{&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a")}}, "0.0.0"},
		{&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), IgnoreLease: true}}, "3.2.0"},
		{&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}}}}, "3.3.0"},
		{&pb.InternalRaftRequest{DowngradeVersionTest: &pb.DowngradeVersionTestRequest{}}, "3.6.0"},
	} {
		if got := readerOf(c.request.ProtoReflect()); got.String() != c.want {
			t.Errorf("%v needs %s, not %s", c.request, got, c.want)
		}
	}
}

func TestALayoutIsTakenBackAndForth(t *testing.T) {
	dir := lived(t)
	m := Migration{Member: options(dir), Target: member.Version{Major: 3, Minor: 5}}
	if done, err := m.Run(Options{}); err != nil || done.From.Minor != 7 {
		t.Fatalf("%+v, %v", done, err)
	}
	m.Target.Minor = 7
	if done, err := m.Run(Options{}); err != nil || done.From.Minor != 5 {
		t.Fatalf("%+v, %v", done, err)
	}
	starts(t, dir)
}
