package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// fake is a member whose answers depend on the request alone. It shows what
// kvctl asked for, and answers what no healthy cluster would.
type fake struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer

	name string // "A" leads and is well; "B" is a learner and is not
	addr string
	ends []string // the client URLs of the member list
	keys []string // in order: what there is, instead of what the request alone decides

	mu    sync.Mutex
	asked []string
}

func newFakes(t *testing.T) (a, b *fake) {
	t.Helper()
	a, b = &fake{name: "A"}, &fake{name: "B"}
	var listeners []net.Listener
	var ends []string
	for _, f := range []*fake{a, b} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.addr = l.Addr().String()
		listeners, ends = append(listeners, l), append(ends, "http://"+f.addr)
	}
	for i, f := range []*fake{a, b} {
		f.ends = ends
		l := listeners[i]
		s := grpc.NewServer()
		pb.RegisterKVServer(s, f)
		pb.RegisterWatchServer(s, f)
		pb.RegisterLeaseServer(s, f)
		pb.RegisterMaintenanceServer(s, f)
		pb.RegisterClusterServer(s, f)
		go func() { _ = s.Serve(l) }() // ends with Stop
		t.Cleanup(s.Stop)
	}
	return a, b
}

func (f *fake) ask(method string, req any) {
	text, err := json.Marshal(req)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s.%s %s", f.name, method, text))
}

// take returns what was asked since the last take.
func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func (f *fake) header(rev int64) *pb.ResponseHeader {
	id := uint64(0xa11ce)
	if f.name == "B" {
		id = 0xb0bb1e5deadbeef
	}
	return &pb.ResponseHeader{ClusterId: 0xcdf818194e3a8c32, MemberId: id, Revision: rev, RaftTerm: 3}
}

func pair(key string) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte("value of " + key),
		CreateRevision: 2, ModRevision: 7, Version: 3, Lease: 0x32695410dcc0ca0,
	}
	switch key {
	case "bin":
		kv.Key, kv.Value = []byte("b\x00\xff\n"), []byte("\x80\"<&>é\\")
	case "empty":
		kv.Value, kv.Lease = nil, 0
	}
	return kv
}

func (f *fake) rangeAnswer(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp := &pb.RangeResponse{Header: f.header(9)}
	if f.keys != nil {
		for _, key := range f.keys {
			within := key == string(r.Key) || len(r.RangeEnd) > 0 && key > string(r.Key) && (string(r.RangeEnd) == "\x00" || key < string(r.RangeEnd))
			if within && (r.Limit == 0 || int64(len(resp.Kvs)) < r.Limit) {
				resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(key)})
			}
		}
		return resp, nil
	}
	switch key := string(r.Key); {
	case key == "compacted":
		return nil, rpctypes.ErrGRPCCompacted
	case key == "none":
	case key == "health" && f.name == "B":
		return nil, rpctypes.ErrGRPCPermissionDenied
	case r.CountOnly:
		resp.Count = 5
	case len(r.RangeEnd) > 0:
		resp.Kvs = []*mvccpb.KeyValue{pair(key), pair("bin"), pair("empty")}
		resp.Count, resp.More = 5, true
	default:
		resp.Kvs, resp.Count = []*mvccpb.KeyValue{pair(key)}, 1
	}
	if r.KeysOnly {
		for _, kv := range resp.Kvs {
			kv.Value = nil
		}
	}
	return resp, nil
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.ask("Range", r)
	return f.rangeAnswer(r)
}

func (f *fake) RangeStream(r *pb.RangeRequest, s pb.KV_RangeStreamServer) error {
	f.ask("RangeStream", r)
	resp, err := f.rangeAnswer(r)
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		piece := &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}
		if err := s.Send(&pb.RangeStreamResponse{RangeResponse: piece}); err != nil {
			return err
		}
	}
	resp.Kvs = nil
	return s.Send(&pb.RangeStreamResponse{RangeResponse: resp})
}

func (f *fake) putAnswer(r *pb.PutRequest) (*pb.PutResponse, error) {
	if string(r.Key) == "full" {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	resp := &pb.PutResponse{Header: f.header(10)}
	if r.PrevKv && string(r.Key) != "none" {
		resp.PrevKv = pair(string(r.Key))
	}
	return resp, nil
}

func (f *fake) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	f.ask("Put", r)
	return f.putAnswer(r)
}

func (f *fake) deleteAnswer(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{Header: f.header(11)}
	if string(r.Key) == "none" {
		return resp
	}
	resp.Deleted = 2
	if r.PrevKv {
		resp.PrevKvs = []*mvccpb.KeyValue{pair(string(r.Key)), pair("bin")}
	}
	return resp
}

func (f *fake) DeleteRange(_ context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	f.ask("DeleteRange", r)
	return f.deleteAnswer(r), nil
}

func (f *fake) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.ask("Txn", plainTxn(r))
	resp := &pb.TxnResponse{Header: f.header(12), Succeeded: true}
	ops := r.Success
	for _, c := range r.Compare {
		if string(c.Key) == "no" {
			resp.Succeeded, ops = false, r.Failure
		}
	}
	for _, op := range ops {
		answer := &pb.ResponseOp{}
		switch {
		case op.GetRequestRange() != nil:
			got, err := f.rangeAnswer(op.GetRequestRange())
			if err != nil {
				return nil, err
			}
			answer.Response = &pb.ResponseOp_ResponseRange{ResponseRange: got}
		case op.GetRequestPut() != nil:
			put, err := f.putAnswer(op.GetRequestPut())
			if err != nil {
				return nil, err
			}
			answer.Response = &pb.ResponseOp_ResponsePut{ResponsePut: put}
		case op.GetRequestDeleteRange() != nil:
			answer.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: f.deleteAnswer(op.GetRequestDeleteRange())}
		}
		resp.Responses = append(resp.Responses, answer)
	}
	return resp, nil
}

// plainTxn is r without the wrappers that JSON would show as pointers.
func plainTxn(r *pb.TxnRequest) any {
	ops := func(in []*pb.RequestOp) (out []any) {
		for _, op := range in {
			out = append(out, op.GetRequest())
		}
		return out
	}
	return map[string]any{"if": r.Compare, "then": ops(r.Success), "else": ops(r.Failure)}
}

func (f *fake) Compact(_ context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	f.ask("Compact", r)
	if r.Revision > 1000 {
		return nil, rpctypes.ErrGRPCFutureRev
	}
	return &pb.CompactionResponse{Header: f.header(13)}, nil
}

// Watch tells one change and one deletion, then that it was progress, then
// that the past is gone.
func (f *fake) Watch(s pb.Watch_WatchServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil // the client has gone
		}
		if r.GetCreateRequest() == nil {
			continue
		}
		c := r.GetCreateRequest()
		f.ask("Watch", c)
		put := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: pair(string(c.Key))}
		del := &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: c.Key, ModRevision: 8}}
		if c.PrevKv {
			put.PrevKv, del.PrevKv = pair("bin"), pair(string(c.Key))
		}
		answers := []*pb.WatchResponse{
			{Header: f.header(9), Created: true},
			{Header: f.header(9), Events: []*mvccpb.Event{put, del}},
		}
		if c.ProgressNotify {
			answers = append(answers, &pb.WatchResponse{Header: f.header(14)})
		}
		answers = append(answers, &pb.WatchResponse{Header: f.header(15), Canceled: true, CompactRevision: 6})
		for _, a := range answers {
			if err := s.Send(a); err != nil {
				return err
			}
		}
	}
}

func (f *fake) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	f.ask("LeaseGrant", r)
	if r.TTL > 9000000000 {
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	return &pb.LeaseGrantResponse{Header: f.header(9), ID: 0x32695410dcc0ca0, TTL: max(r.TTL, 2)}, nil
}

func (f *fake) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	f.ask("LeaseRevoke", r)
	if r.ID == 1 {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &pb.LeaseRevokeResponse{Header: f.header(10)}, nil
}

// LeaseKeepAlive knows lease 1 no more, and lease 2 for one renewal.
func (f *fake) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for left := 1; ; left-- {
		r, err := s.Recv()
		if err != nil {
			return nil // the client has gone
		}
		resp := &pb.LeaseKeepAliveResponse{Header: f.header(9), ID: r.ID, TTL: 60}
		if r.ID == 2 {
			resp.TTL = 1
		}
		if r.ID == 1 || left <= 0 {
			resp.TTL = 0
		} else {
			f.ask("LeaseKeepAlive", r)
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

func (f *fake) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	f.ask("LeaseTimeToLive", r)
	resp := &pb.LeaseTimeToLiveResponse{Header: f.header(9), ID: r.ID, TTL: 41, GrantedTTL: 60}
	if r.ID == 1 {
		resp.TTL, resp.GrantedTTL = -1, 0
	}
	if r.Keys && r.ID > 2 {
		resp.Keys = [][]byte{[]byte("a"), []byte("b\x00\xff c")}
	}
	return resp, nil
}

func (f *fake) LeaseLeases(_ context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	f.ask("LeaseLeases", r)
	return &pb.LeaseLeasesResponse{Header: f.header(9), Leases: []*pb.LeaseStatus{{ID: 0x32695410dcc0ca0}, {ID: 7}}}, nil
}

func (f *fake) Status(_ context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	f.ask("Status", r)
	resp := &pb.StatusResponse{
		Header: f.header(9), Version: "3.7.3", StorageVersion: "3.7.0", Leader: 0xa11ce,
		DbSize: 25_000_000, DbSizeInUse: 9_000_001, DbSizeQuota: 2 << 30,
		RaftIndex: 1234, RaftTerm: 3, RaftAppliedIndex: 1230,
	}
	if f.name == "B" {
		resp.IsLearner = true
		resp.Errors = []string{"NOSPACE", "CORRUPT x"}
		resp.DowngradeInfo = &pb.DowngradeInfo{Enabled: true, TargetVersion: "3.6.0"}
	}
	return resp, nil
}

func (f *fake) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	f.ask("HashKV", r)
	if r.Revision == 1 {
		return nil, rpctypes.ErrGRPCCompacted
	}
	return &pb.HashKVResponse{Header: f.header(9), Hash: 3456789012, CompactRevision: 4, HashRevision: 9}, nil
}

func (f *fake) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	f.ask("Alarm", r)
	resp := &pb.AlarmResponse{Header: f.header(9)}
	if f.name == "B" && r.Action == pb.AlarmRequest_GET {
		resp.Alarms = []*pb.AlarmMember{
			{MemberID: 0xb0bb1e5deadbeef, Alarm: pb.AlarmType_NOSPACE},
			{MemberID: 0xa11ce, Alarm: pb.AlarmType_CORRUPT},
		}
	}
	return resp, nil
}

func (f *fake) Defragment(_ context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	f.ask("Defragment", r)
	if f.name == "B" {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	return &pb.DefragmentResponse{Header: f.header(9)}, nil
}

func (f *fake) MoveLeader(_ context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	f.ask("MoveLeader", r)
	if r.TargetID == 1 {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	return &pb.MoveLeaderResponse{Header: f.header(9)}, nil
}

// Snapshot of A is well; that of B has a byte changed on its way.
func (f *fake) Snapshot(r *pb.SnapshotRequest, s pb.Maintenance_SnapshotServer) error {
	f.ask("Snapshot", r)
	database := bytes.Repeat([]byte(strings.Repeat("page", 128)), 100)
	sum := sha256.Sum256(database)
	if f.name == "B" {
		database[700] ^= 1
	}
	for piece := range slices.Chunk(database, 3000) {
		if err := s.Send(&pb.SnapshotResponse{Blob: piece, Version: "3.7.0"}); err != nil {
			return err
		}
	}
	return s.Send(&pb.SnapshotResponse{Blob: sum[:], Version: "3.7.0"})
}
