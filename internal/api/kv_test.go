package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/internal/replica"
	"kvd/internal/state"
)

func refuses(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("got %v %q, want %v %q", s.Code(), s.Message(), code, text)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func put(t testing.TB, kv pb.KVClient, key, value string) *pb.PutResponse {
	t.Helper()
	return must(kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}))(t)
}

func TestAWriteIsRead(t *testing.T) {
	kv := pb.NewKVClient(serve(t, newSolo(t), Options{}))
	put(t, kv, "a", "1")
	second := must(kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}))(t)
	if h := second.Header; h.Revision != 3 || h.ClusterId != 0xc1 || h.MemberId != soloID || h.RaftTerm != 2 || string(second.PrevKv.Value) != "1" {
		t.Errorf("put answers %v", second)
	}
	got := must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}))(t)
	want := &pb.RangeResponse{
		Header: second.Header, Count: 1,
		Kvs: []*mvccpb.KeyValue{{Key: []byte("a"), Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	txn := must(kv.Txn(t.Context(), &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}}},
		Success: ops{opGet("a"), opDelete("a", ""), opPut("b"), opTxn(ops{opGet("b")}, nil)},
	}))(t)
	if !txn.Succeeded || txn.Header.Revision != 4 || len(txn.Responses) != 4 || txn.Responses[1].GetResponseDeleteRange().Deleted != 1 {
		t.Errorf("txn answers %v", txn)
	}
	if inner := txn.Responses[3].GetResponseTxn().Responses[0].GetResponseRange(); inner.Count != 1 || inner.Header.Revision != 4 {
		t.Errorf("the nested range answers %v", inner)
	}
	gone := must(kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}))(t)
	if gone.Deleted != 1 || len(gone.PrevKvs) != 1 || gone.Header.Revision != 5 {
		t.Errorf("delete answers %v", gone)
	}
	compacted := must(kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 5}))(t)
	if compacted.Header.Revision != 5 {
		t.Errorf("compact answers %v", compacted)
	}
	_, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 4})
	refuses(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 6})
	refuses(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Lease: 77})
	refuses(t, err, codes.NotFound, "etcdserver: requested lease not found")
}

func TestALongRangeArrivesWhole(t *testing.T) {
	kv := pb.NewKVClient(serve(t, newSolo(t), Options{}))
	r := rand.New(rand.NewPCG(1, 1))
	want := map[string][]byte{}
	for i := range 300 {
		value := make([]byte, []int{0, 10, 500, aliasBytes - 20, aliasBytes + 1, pieceBytes, 3 * pieceBytes}[r.IntN(7)])
		for j := range value {
			value[j] = byte(r.Uint32())
		}
		key := fmt.Sprintf("key-%03d", i)
		want[key] = value
		put(t, kv, key, string(value))
	}
	check := func(kvs []*mvccpb.KeyValue) {
		t.Helper()
		if len(kvs) != len(want) {
			t.Fatalf("got %d keys, want %d", len(kvs), len(want))
		}
		for _, kv := range kvs {
			if !bytes.Equal(kv.Value, want[string(kv.Key)]) {
				t.Fatalf("%s came with another value", kv.Key)
			}
		}
	}
	all := &pb.RangeRequest{Key: []byte("key"), RangeEnd: []byte("kez")}
	got := must(kv.Range(t.Context(), all))(t)
	check(got.Kvs)
	if got.Count != 300 || got.More || got.Header.Revision != 301 {
		t.Errorf("count %d, more %v, header %v", got.Count, got.More, got.Header)
	}
	streamed := collect(t, kv, all)
	var kvs []*mvccpb.KeyValue
	for i, chunk := range streamed {
		kvs = append(kvs, chunk.Kvs...)
		if last := i == len(streamed)-1; (chunk.Header != nil) != last || !last && (chunk.Count != 0 || chunk.More) {
			t.Errorf("chunk %d of %d has header %v, count %d, more %v", i, len(streamed), chunk.Header, chunk.Count, chunk.More)
		}
	}
	check(kvs)
	if last := streamed[len(streamed)-1]; last.Count != 300 || last.More || last.Header.Revision != 301 {
		t.Errorf("the last chunk has count %d, more %v, header %v", last.Count, last.More, last.Header)
	}
	if len(streamed[0].Kvs) != firstChunk || len(streamed) < 4 {
		t.Errorf("%d chunks, the first of %d keys", len(streamed), len(streamed[0].Kvs))
	}
}

func collect(t *testing.T, kv pb.KVClient, r *pb.RangeRequest) (chunks []*pb.RangeResponse) {
	t.Helper()
	stream := must(kv.RangeStream(t.Context(), r))(t)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, m.RangeResponse)
	}
}

func TestRangeStreamLimits(t *testing.T) {
	kv := pb.NewKVClient(serve(t, newSolo(t), Options{}))
	for i := range 25 {
		put(t, kv, fmt.Sprintf("k%02d", i), "v")
	}
	span := func(r *pb.RangeRequest) *pb.RangeRequest {
		r.Key, r.RangeEnd = []byte("k"), []byte("l")
		return r
	}
	for _, c := range []struct {
		request *pb.RangeRequest
		sizes   []int
		count   int64
		more    bool
	}{
		{span(&pb.RangeRequest{}), []int{10, 15}, 25, false},
		{span(&pb.RangeRequest{Limit: 4}), []int{4}, 25, true},
		{span(&pb.RangeRequest{Limit: 12}), []int{10, 2}, 25, true},
		{span(&pb.RangeRequest{Limit: 25}), []int{10, 15}, 25, false},
		{span(&pb.RangeRequest{Limit: -1}), []int{25}, 25, false},
		{span(&pb.RangeRequest{CountOnly: true}), []int{0}, 25, false},
		{span(&pb.RangeRequest{Revision: 4, Limit: 2}), []int{2}, 3, true},
		{&pb.RangeRequest{Key: []byte("absent")}, []int{0}, 0, false},
	} {
		chunks := collect(t, kv, c.request)
		var sizes []int
		for _, chunk := range chunks {
			sizes = append(sizes, len(chunk.Kvs))
		}
		last := chunks[len(chunks)-1]
		if fmt.Sprint(sizes) != fmt.Sprint(c.sizes) || last.Count != c.count || last.More != c.more || last.Header.GetRevision() != 26 {
			t.Errorf("%v: chunks of %v, count %d, more %v, header %v", c.request, sizes, last.Count, last.More, last.Header)
		}
	}
	stream := must(kv.RangeStream(t.Context(), span(&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND})))(t)
	_, err := stream.Recv()
	refuses(t, err, codes.Unimplemented, "RangeStream does not support custom sort orders")
	stream = must(kv.RangeStream(t.Context(), &pb.RangeRequest{}))(t)
	_, err = stream.Recv()
	refuses(t, err, codes.InvalidArgument, "etcdserver: key is not provided")
}

func TestMalformedAndOversizedRequestsAreRefused(t *testing.T) {
	conn := serve(t, newSolo(t), Options{})
	raw := []byte{0x0a, 0x7f, 'x'} // a key longer than the message
	for _, method := range []string{"KV/Range", "KV/Put", "KV/DeleteRange", "KV/Txn", "KV/Compact", "Lease/LeaseGrant", "Maintenance/Status", "Cluster/MemberList"} {
		err := conn.Invoke(t.Context(), "/etcdserverpb."+method, &raw, &pb.PutResponse{}, grpc.ForceCodecV2(bytesCodec{}))
		if s := status.Convert(err); s.Code() != codes.Internal || !strings.HasPrefix(s.Message(), "grpc: error unmarshalling request: ") {
			t.Errorf("%s: %v", method, err)
		}
	}
	kv := pb.NewKVClient(conn)
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 3<<20)})
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.HasSuffix(s.Message(), "vs. 2097152)") {
		t.Errorf("too large a message: %v", err)
	}
	put(t, kv, "k", "the connection lives")
}

func TestMetadataIsLookedAt(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{Election: 10 * time.Millisecond})
	kv := pb.NewKVClient(conn)
	needing := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true", "client-api-version", "3.7")
	get := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
	must(kv.Range(needing, get))(t)
	s.leader.Store(0)
	_, err := kv.Range(needing, get)
	refuses(t, err, codes.Unavailable, "etcdserver: no leader")
	must(kv.Range(t.Context(), get))(t)
	stream := must(pb.NewWatchClient(conn).Watch(needing))(t)
	_, err = stream.Recv()
	refuses(t, err, codes.Unavailable, "etcdserver: no leader")
}

func TestErrorsOfTheMemberReachTheClient(t *testing.T) {
	s := newSolo(t)
	kv := pb.NewKVClient(serve(t, s, Options{}))
	s.refuse = fmt.Errorf("propose: %w", context.DeadlineExceeded)
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
	refuses(t, err, codes.DeadlineExceeded, "context deadline exceeded")
	s.refuse = replica.ErrTooManyRequests
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
	refuses(t, err, codes.Unknown, "etcdserver: too many requests")
	_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	refuses(t, err, codes.Unknown, "etcdserver: too many requests")
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true}))(t)
	must(kv.Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("k")}}}))(t)
}

func TestAFullDatabaseRaisesTheAlarm(t *testing.T) {
	s := newSolo(t)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := serve(t, s, Options{QuotaBytes: s.file.InUse() + 300 + 256 + 5})
	kv := pb.NewKVClient(conn)
	put(t, kv, "k", "fits")
	// Before anything else is looked at: the key is missing too.
	_, err := kv.Put(t.Context(), &pb.PutRequest{Value: make([]byte, 100)})
	refuses(t, err, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
	refuses(t, err, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	must(kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("k")}))(t)
	maintenance := pb.NewMaintenanceClient(conn)
	alarms := must(maintenance.Alarm(t.Context(), &pb.AlarmRequest{}))(t)
	if len(alarms.Alarms) != 1 || alarms.Alarms[0].MemberID != soloID || alarms.Alarms[0].Alarm != pb.AlarmType_NOSPACE {
		t.Errorf("alarms are %v", alarms.Alarms)
	}
	applied := s.View().Applied
	_, err = kv.Put(t.Context(), &pb.PutRequest{Value: make([]byte, 100)})
	refuses(t, err, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	if s.View().Applied != applied {
		t.Error("an alarm that is raised is raised again")
	}
}

// FuzzReplies holds what is spliced against package proto.
func FuzzReplies(f *testing.F) {
	f.Add(uint64(1), int64(5), true, int64(3), 40, 1000)
	f.Add(uint64(0), int64(0), false, int64(0), 0, 0)
	f.Add(uint64(1<<63), int64(-1), true, int64(1<<40), 3, aliasBytes)
	f.Fuzz(func(t *testing.T, member uint64, rev int64, more bool, count int64, n, size int) {
		n, size = abs(n)%200, abs(size)%(3*pieceBytes)
		r := rand.New(rand.NewPCG(member, uint64(rev)))
		h := state.Header{Cluster: member ^ 7, Member: member, Revision: rev + 1, Term: member >> 3}
		page := &state.RangeReply{Revision: rev, More: more, Count: count}
		want := &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: h.Cluster, MemberId: h.Member, Revision: rev, RaftTerm: h.Term}, More: more, Count: count}
		for range n {
			kv := &mvccpb.KeyValue{Key: make([]byte, 1+r.IntN(10)), Value: make([]byte, r.IntN(size+1)), Version: r.Int64()}
			b, err := proto.Marshal(kv)
			if err != nil {
				t.Fatal(err)
			}
			page.KVs = append(page.KVs, b)
			want.Kvs = append(want.Kvs, kv)
		}
		same(t, encodeRange(page, h), want)
		same(t, encode(page, h), want)
		same(t, encodeChunk(page, h, true), &pb.RangeStreamResponse{RangeResponse: want})
		same(t, encodeChunk(page, h, false), &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: want.Kvs}})
		reply := watchReply{header: h, id: rev, created: more, canceled: !more, compacted: count, fragment: more}
		same(t, reply.encode(nil), &pb.WatchResponse{
			Header:  &pb.ResponseHeader{ClusterId: h.Cluster, MemberId: h.Member, Revision: h.Revision, RaftTerm: h.Term},
			WatchId: rev, Created: more, Canceled: !more, CompactRevision: count, Fragment: more,
		})
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

// same compares encoded bytes with a message, byte by byte.
func same(t *testing.T, got encoded, want proto.Message) {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if g := materialize(got); !bytes.Equal(g, b) {
		t.Fatalf("got %d bytes, want %d of %v", len(g), len(b), want.ProtoReflect().Descriptor().Name())
	}
}
