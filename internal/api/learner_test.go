package api

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"kvd/internal/member"
)

func TestALearnerServesLittle(t *testing.T) {
	s := newStranger(t)
	s.join("a")
	s.leader.Store(uint64(idOf("a")))
	s.add(member.Member{ID: soloID, Name: "solo", Learner: true})
	conn, a := serving(t, s, Options{})
	const text = "etcdserver: rpc not supported for learner"
	served := map[string]bool{
		"/etcdserverpb.Maintenance/Status":   true,
		"/etcdserverpb.Maintenance/Snapshot": true,
	}
	for service, info := range a.server.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			err := call1(t.Context(), conn, name, m.IsClientStream || m.IsServerStream)
			if served[name] {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != text {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	kv := pb.NewKVClient(conn)
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true}))(t)
	_, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	refuses(t, err, codes.FailedPrecondition, text)
	if st := must(pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{}))(t); !st.IsLearner {
		t.Errorf("its status is %v", st)
	}
}

// call1 calls a method with a request that has no field set.
func call1(ctx context.Context, conn *grpc.ClientConn, name string, streams bool) error {
	if !streams {
		return conn.Invoke(ctx, name, &emptypb.Empty{}, &emptypb.Empty{})
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err != nil {
		return err
	}
	// An error of sending is told by receiving.
	_ = stream.SendMsg(&emptypb.Empty{})
	_ = stream.CloseSend()
	err = stream.RecvMsg(&emptypb.Empty{})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func TestAMemberThatDoesNotKnowItselfIsNoLearner(t *testing.T) {
	kv := pb.NewKVClient(serve(t, newStranger(t), Options{}))
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}))(t)
}

func TestACorruptMemberAnswersWithNoKeys(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{Election: time.Millisecond})
	kv, maintenance := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	put(t, kv, "k", "v")
	w := newTalk(t, conn)
	w.create(&pb.WatchCreateRequest{Key: []byte("k")})
	must(w.stream.Recv())(t)
	get := &pb.RangeRequest{Key: []byte("k")}
	stale := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
	lookup := &pb.TxnRequest{Success: []*pb.RequestOp{opGet("k")}}
	alarm := func(action pb.AlarmRequest_AlarmAction, id uint64) {
		t.Helper()
		must(maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: action, MemberID: id, Alarm: pb.AlarmType_CORRUPT}))(t)
	}
	const text = "etcdserver: corrupt cluster"

	// Another one is corrupt, or nobody knows which: nothing is written, as in etcd.
	for _, id := range []uint64{0, 77} {
		alarm(pb.AlarmRequest_ACTIVATE, id)
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
		refuses(t, err, codes.DataLoss, text)
		must(kv.Range(t.Context(), get))(t)
		must(kv.Txn(t.Context(), lookup))(t)
		alarm(pb.AlarmRequest_DEACTIVATE, id)
	}
	put(t, kv, "k", "w")
	must(w.stream.Recv())(t)

	alarm(pb.AlarmRequest_ACTIVATE, soloID)
	_, err := w.stream.Recv()
	refuses(t, err, codes.DataLoss, text)
	for _, r := range []*pb.RangeRequest{get, stale} {
		_, err = kv.Range(t.Context(), r)
		refuses(t, err, codes.DataLoss, text)
	}
	_, err = kv.Txn(t.Context(), lookup)
	refuses(t, err, codes.DataLoss, text)
	_, err = must(kv.RangeStream(t.Context(), get))(t).Recv()
	refuses(t, err, codes.DataLoss, text)
	_, err = must(pb.NewWatchClient(conn).Watch(t.Context()))(t).Recv()
	refuses(t, err, codes.DataLoss, text)

	// What it takes to find out and to repair goes on.
	must(maintenance.HashKV(t.Context(), &pb.HashKVRequest{}))(t)
	must(maintenance.Hash(t.Context(), &pb.HashRequest{}))(t)
	must(must(maintenance.Snapshot(t.Context(), &pb.SnapshotRequest{}))(t).Recv())(t)
	must(pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true}))(t)
	if st := must(maintenance.Status(t.Context(), &pb.StatusRequest{}))(t); len(st.Errors) != 1 {
		t.Errorf("its status is %v", st)
	}
	alarm(pb.AlarmRequest_DEACTIVATE, soloID)
	if got := must(kv.Range(t.Context(), get))(t); string(got.Kvs[0].Value) != "w" {
		t.Errorf("after all, there is %v", got)
	}
}
