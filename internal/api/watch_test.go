package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// talk is one Watch stream as a test holds it.
type talk struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	kv     pb.KVClient
}

func newTalk(t *testing.T, conn *grpc.ClientConn) *talk {
	t.Helper()
	return &talk{t, must(pb.NewWatchClient(conn).Watch(t.Context()))(t), pb.NewKVClient(conn)}
}

func (w *talk) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	w.say(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *talk) cancel(id int64) {
	w.t.Helper()
	w.say(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *talk) askProgress() {
	w.t.Helper()
	w.say(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *talk) say(r *pb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

// hear expects the next response, written in text form without what is in every
// header.
func (w *talk) hear(want string) {
	w.t.Helper()
	got := must(w.stream.Recv())(w.t)
	if h := got.Header; h.ClusterId != 0xc1 || h.MemberId != soloID || h.RaftTerm != 2 {
		w.t.Errorf("header %v", h)
	}
	got.Header.ClusterId, got.Header.MemberId, got.Header.RaftTerm = 0, 0, 0
	expected := &pb.WatchResponse{}
	if err := prototext.Unmarshal([]byte(want), expected); err != nil {
		w.t.Fatal(err)
	}
	if expected.Header == nil {
		expected.Header = &pb.ResponseHeader{}
	}
	if !proto.Equal(got, expected) {
		w.t.Fatalf("got  %v\nwant %v", got, expected)
	}
}

func TestAWatchConversation(t *testing.T) {
	w := newTalk(t, serve(t, newSolo(t), Options{}))
	for _, key := range []string{"w1", "w2", "w1"} {
		put(t, w.kv, key, "v") // revisions 2 to 4
	}
	key := []byte("w1")
	w.askProgress() // without watchers nobody answers
	w.create(&pb.WatchCreateRequest{Key: []byte("w"), RangeEnd: []byte("x"), Filters: []pb.WatchCreateRequest_FilterType{0, 1, 77}})
	w.hear(`header{revision:4} created:true`)
	w.create(&pb.WatchCreateRequest{Key: key, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	w.hear(`header{revision:4} watch_id:1 created:true`)
	w.create(&pb.WatchCreateRequest{Key: key, WatchId: 7, PrevKv: true})
	w.hear(`header{revision:4} watch_id:7 created:true`)
	w.create(&pb.WatchCreateRequest{Key: key, WatchId: 7})
	w.hear(`header{revision:4} watch_id:-1 created:true canceled:true cancel_reason:"mvcc: duplicate watch ID provided on the WatchStream"`)
	w.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a"), WatchId: 7})
	w.hear(`header{revision:4} watch_id:-1 created:true canceled:true cancel_reason:"mvcc: watcher range is empty"`)
	w.create(&pb.WatchCreateRequest{Key: []byte("zz"), WatchId: -5})
	w.hear(`header{revision:4} watch_id:-5 created:true`)
	w.create(&pb.WatchCreateRequest{Key: key, StartRevision: -2})
	w.hear(`header{revision:4} watch_id:-1 created:true canceled:true cancel_reason:"etcdserver: mvcc: required revision has been compacted"`)
	put(t, w.kv, "w1", "new")
	w.hear(`header{revision:5} watch_id:7 events{kv{key:"w1" create_revision:2 mod_revision:5 version:3 value:"new"} prev_kv{key:"w1" create_revision:2 mod_revision:4 version:2 value:"v"}}`)
	w.askProgress()
	w.hear(`header{revision:5} watch_id:-1`)
	w.cancel(7)
	w.hear(`header{revision:5} watch_id:7 canceled:true`)
	w.cancel(7) // nobody answers
	w.create(&pb.WatchCreateRequest{Key: key, WatchId: 7, StartRevision: 2})
	w.hear(`header{revision:5} watch_id:7 created:true`)
	w.hear(`header{revision:5} watch_id:7
		events{kv{key:"w1" create_revision:2 mod_revision:2 version:1 value:"v"}}
		events{kv{key:"w1" create_revision:2 mod_revision:4 version:2 value:"v"}}
		events{kv{key:"w1" create_revision:2 mod_revision:5 version:3 value:"new"}}`)
	must(w.kv.Txn(t.Context(), &pb.TxnRequest{Success: ops{opPut("w1"), opPut("w9"), opDelete("w2", "")}}))(t)
	w.hear(`header{revision:6} watch_id:7 events{kv{key:"w1" create_revision:2 mod_revision:6 version:4}}`)
	must(w.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: key}))(t)
	seen := map[int64]bool{}
	for range 2 { // in either order
		m := must(w.stream.Recv())(t)
		if e := m.Events[0]; e.Kv.ModRevision != 7 || e.Kv.Version != 0 || e.PrevKv != nil {
			t.Errorf("got %v", m)
		}
		seen[m.WatchId] = true
	}
	if !seen[1] || !seen[7] {
		t.Errorf("heard of %v", seen)
	}
	w.create(&pb.WatchCreateRequest{}) // the smallest key
	w.hear(`header{revision:7} watch_id:2 created:true`)
	if err := w.stream.CloseSend(); err != nil { // the watchers go on
		t.Fatal(err)
	}
	put(t, w.kv, "\x00", "")
	w.hear(`header{revision:8} watch_id:2 events{kv{key:"\x00" create_revision:8 mod_revision:8 version:1}}`)
}

func TestAWatchBehindACompaction(t *testing.T) {
	w := newTalk(t, serve(t, newSolo(t), Options{}))
	for range 5 {
		put(t, w.kv, "k", "v")
	}
	must(w.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 4}))(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 3, StartRevision: 2})
	w.hear(`header{revision:6} watch_id:3 created:true`)
	w.hear(`watch_id:3 canceled:true compact_revision:4`)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 3})
	w.hear(`header{revision:6} watch_id:-1 created:true canceled:true cancel_reason:"mvcc: duplicate watch ID provided on the WatchStream"`)
	w.askProgress() // held back by the ended watcher
	w.cancel(3)
	w.hear(`header{revision:6} watch_id:3 canceled:true`)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 3, StartRevision: 5})
	w.hear(`header{revision:6} watch_id:3 created:true`)
	if m := must(w.stream.Recv())(t); len(m.Events) != 2 {
		t.Errorf("got %v", m)
	}
}

func TestLargeResponsesAreFragmentedOnRequest(t *testing.T) {
	w := newTalk(t, serve(t, newSolo(t), Options{MaxRequestBytes: 1000}))
	span := func(r *pb.WatchCreateRequest) *pb.WatchCreateRequest {
		r.Key, r.RangeEnd = []byte("k"), []byte("l")
		return r
	}
	value := strings.Repeat("x", 100_000)
	for i := range 20 {
		put(t, w.kv, fmt.Sprintf("k%02d", i), value)
	}
	w.create(span(&pb.WatchCreateRequest{PrevKv: true, Fragment: true, WatchId: 1}))
	w.create(span(&pb.WatchCreateRequest{PrevKv: true, WatchId: 2}))
	w.hear(`header{revision:21} watch_id:1 created:true`)
	w.hear(`header{revision:21} watch_id:2 created:true`)
	must(w.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}))(t)
	events, parts, whole := 0, 0, 0
	for events < 20 || whole < 20 {
		m := must(w.stream.Recv())(t)
		if m.WatchId == 2 {
			whole = len(m.Events)
			continue
		}
		parts++
		events += len(m.Events)
		if last := events == 20; m.Fragment == last {
			t.Errorf("part %d with %d of 20 events says fragment=%v", parts, events, m.Fragment)
		}
		if size := proto.Size(m); size >= 1000+overhead || m.Header.Revision != 22 {
			t.Errorf("part %d has %d bytes, header %v", parts, size, m.Header)
		}
	}
	if parts != 4 || whole != 20 {
		t.Errorf("%d parts, and %d events in one piece", parts, whole)
	}
}

func TestQuietWatchersHearOfProgress(t *testing.T) {
	conn := serve(t, newSolo(t), Options{ProgressInterval: 100 * time.Millisecond})
	w := newTalk(t, conn)
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true})
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true, StartRevision: 100})
	w.create(&pb.WatchCreateRequest{Key: []byte("k")})
	for id := range 3 {
		w.hear(fmt.Sprintf(`header{revision:1} watch_id:%d created:true`, id))
	}
	w.hear(`header{revision:1}`)
	put(t, w.kv, "other", "v")
	w.hear(`header{revision:2}`)
	w.hear(`header{revision:2}`)
}

func TestStreamsEndWhenTheirLeaderIsLost(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{Election: time.Millisecond})
	needing := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
	watch := must(pb.NewWatchClient(conn).Watch(needing))(t)
	if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
		t.Fatal(err)
	}
	must(watch.Recv())(t)
	alive := must(pb.NewLeaseClient(conn).LeaseKeepAlive(needing))(t)
	if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	must(alive.Recv())(t)
	s.leader.Store(0)
	_, err := watch.Recv()
	refuses(t, err, codes.Unavailable, "etcdserver: no leader")
	_, err = alive.Recv()
	refuses(t, err, codes.Unavailable, "etcdserver: no leader")
}

// Where leadership is handed over there is no leader for a moment.
func TestWhoNeedsALeaderWaitsForTheNext(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{Election: 10 * time.Second})
	needing := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
	leader := s.leader.Swap(0)
	time.AfterFunc(50*time.Millisecond, func() { s.leader.Store(leader) })
	watch := must(pb.NewWatchClient(conn).Watch(needing))(t)
	if err := watch.Send(watchRequest("k", "")); err != nil {
		t.Fatal(err)
	}
	if got := must(watch.Recv())(t); !got.Created {
		t.Errorf("got %v", got)
	}
	s.leader.Store(0)
	time.AfterFunc(50*time.Millisecond, func() { s.leader.Store(leader) })
	must(pb.NewKVClient(conn).Range(needing, &pb.RangeRequest{Key: []byte("k"), Serializable: true}))(t)
}

func TestStoppingEndsStreamsAtOnce(t *testing.T) {
	s := newSolo(t)
	conn, a := serving(t, s, Options{Grace: time.Hour})
	watch := must(pb.NewWatchClient(conn).Watch(t.Context()))(t)
	if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
		t.Fatal(err)
	}
	must(watch.Recv())(t)
	stopped := make(chan struct{})
	go func() { defer close(stopped); a.stop() }()
	_, err := watch.Recv()
	refuses(t, err, codes.Unavailable, "etcdserver: server stopped")
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("it did not stop")
	}
}

func TestAClientThatLeavesTakesItsWatchersWithIt(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	stream := must(pb.NewWatchClient(conn).Watch(ctx))(t)
	for range 10 {
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
			t.Fatal(err)
		}
		must(stream.Recv())(t)
	}
	if n := s.hub.Watchers(); n != 10 {
		t.Errorf("%d watchers, want 10", n)
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); s.hub.Watchers() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d watchers are left", s.hub.Watchers())
		}
	}
}
