package proxy

import (
	"context"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestCallsArriveWithTheCallersToken(t *testing.T) {
	member := startFake(t, newHistory())
	_, conn := startProxy(t, Options{}, member)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "alice.7")
	if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if got := member.tokens; !slices.Equal(got, []string{"alice.7"}) {
		t.Errorf("the member saw the tokens %q", got)
	}
}

func TestErrorsKeepCodeAndText(t *testing.T) {
	member := startFake(t, newHistory())
	member.refuse = status.Error(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	_, conn := startProxy(t, Options{}, member)
	_, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "etcdserver: mvcc: database space exceeded" {
		t.Errorf("got %v", err)
	}
}

func TestReadsGoToAnotherMemberWhenOneHasNoLeaderAndWritesDoNot(t *testing.T) {
	h := newHistory()
	ill, well := startFake(t, h), startFake(t, h)
	ill.refuse = errDown
	_, conn := startProxy(t, Options{}, ill, well)
	kv := pb.NewKVClient(conn)
	refused := 0
	for range 6 {
		if r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err != nil || string(r.Kvs[0].Value) != well.address {
			t.Errorf("a read: %v, %v", r, err)
		}
		if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no write met the member that refuses: they were tried again elsewhere")
	}
}

func TestWithoutMembersTheErrorNamesThem(t *testing.T) {
	member := startFake(t, newHistory())
	p, conn := startProxy(t, Options{}, member)
	member.server.Stop()
	eventually(t, "the member is gone", func() bool { return p.Healthy() == 0 })
	p.o.DialTimeout = time.Millisecond
	_, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if want := "kvd proxy: no member of the cluster can be reached: " + member.address; status.Code(err) != codes.Unavailable ||
		len(err.Error()) < len(want) || !slices.Contains([]string{"set aside", "connecting"}, p.Endpoints()[0].State) {
		t.Errorf("got %v", err)
	}
}

func TestAReadOnlyProxyRefusesEverythingThatWrites(t *testing.T) {
	member := startFake(t, newHistory())
	_, conn := startProxy(t, Options{ReadOnly: true}, member)
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
	inner := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{put}}}}
	for i, writes := range []*pb.TxnRequest{{Success: []*pb.RequestOp{put}}, {Failure: []*pb.RequestOp{get, put}}, {Success: []*pb.RequestOp{inner}}} {
		if _, err := pb.NewKVClient(conn).Txn(t.Context(), writes); status.Code(err) != codes.PermissionDenied {
			t.Errorf("transaction %d: %v", i, err)
		}
	}
	if _, err := pb.NewKVClient(conn).Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{get}}); status.Code(err) != codes.Unimplemented { // the fake has none
		t.Errorf("a transaction of reads did not arrive: %v", err)
	}
	for name, m := range methods {
		if !m.writes || name == txn || name == alarm {
			continue
		}
		out, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, name)
		if err != nil {
			t.Fatal(err)
		}
		_ = out.SendMsg(&pb.PutRequest{Key: []byte("k")})
		if err := out.RecvMsg(&pb.PutResponse{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, newest, _ := member.history.from(0); newest != 1 {
		t.Errorf("something was written: revision %d", newest)
	}
}

// Every method of etcd's API has a row, and those that answer once are passed on
// without a stream.
func TestEveryMethodOfTheAPIIsKnown(t *testing.T) {
	for _, service := range []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc,
	} {
		for _, m := range service.Methods {
			if got := methods["/"+service.ServiceName+"/"+m.MethodName]; got.kind != unary {
				t.Errorf("%s of %s is of kind %d", m.MethodName, service.ServiceName, got.kind)
			}
		}
		for _, s := range service.Streams {
			if got := methods["/"+service.ServiceName+"/"+s.StreamName]; got.kind != answers && got.kind != shared {
				t.Errorf("%s of %s is of kind %d", s.StreamName, service.ServiceName, got.kind)
			}
		}
	}
}

func TestRenewalsOfOneLeaseAreJoined(t *testing.T) {
	member := startFake(t, newHistory())
	member.held = make(chan struct{})
	_, conn := startProxy(t, Options{}, member)
	var streams []pb.Lease_LeaseKeepAliveClient
	for range 20 {
		s, err := pb.NewLeaseClient(conn).LeaseKeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
		if len(streams) == 1 {
			eventually(t, "the first is on its way", func() bool { return counted(member, func() int { return member.renewals }) == 1 })
		}
	}
	close(member.held)
	for _, s := range streams {
		if r, err := s.Recv(); err != nil || r.ID != 5 || r.TTL != 7 {
			t.Errorf("got %v, %v", r, err)
		}
	}
	if n := counted(member, func() int { return member.renewals }); n > 19 {
		t.Errorf("20 callers took %d renewals", n)
	}
}

// watching is a client's watch of key k.
type watching struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	seen   []int64
}

func watchK(t *testing.T, conn *grpc.ClientConn, from int64) *watching {
	t.Helper()
	s, err := pb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: from}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil || !r.Created || r.Canceled {
		t.Fatalf("created: %v, %v", r, err)
	}
	return &watching{t: t, stream: s}
}

// until reads events up to a revision.
func (w *watching) until(rev int64) {
	w.t.Helper()
	for len(w.seen) == 0 || w.seen[len(w.seen)-1] < rev {
		r, err := w.stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range r.Events {
			w.seen = append(w.seen, e.Kv.ModRevision)
		}
	}
}

// exactly wants the events of these revisions, each once and in order.
func (w *watching) exactly(from, to int64) {
	w.t.Helper()
	want := []int64{}
	for rev := from; rev <= to; rev++ {
		want = append(want, rev)
	}
	if !slices.Equal(w.seen, want) {
		w.t.Errorf("saw the revisions %v, want %d to %d", w.seen, from, to)
	}
}

func TestWatchersOfOneKeyShareOneWatchAtAMember(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	_, conn := startProxy(t, Options{}, member)
	var all []*watching
	for range 50 {
		all = append(all, watchK(t, conn, 0))
	}
	for range 10 {
		h.put("k", "v")
	}
	for _, w := range all {
		w.until(11)
		w.exactly(2, 11)
	}
	if n := counted(member, func() int { return member.watches }); n != 1 {
		t.Errorf("the member has %d watches", n)
	}
}

func TestAWatcherOfThePastJoinsTheOthersOnceItHasCaughtUp(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	p, conn := startProxy(t, Options{}, member)
	for range 5 {
		h.put("k", "v")
	}
	now := watchK(t, conn, 0)
	past, future := watchK(t, conn, 3), watchK(t, conn, 9)
	for range 5 {
		h.put("k", "v")
	}
	now.until(11)
	past.until(11)
	future.until(11)
	now.exactly(7, 11)
	past.exactly(3, 11)
	future.exactly(9, 11)
	eventually(t, "one watch at the member is left", func() bool {
		h.put("k", "v")
		p.watches.mu.Lock()
		defer p.watches.mu.Unlock()
		for _, feeds := range p.watches.feeds {
			return len(feeds) == 1
		}
		return false
	})
	_, newest, _ := h.from(0)
	for _, w := range []*watching{now, past, future} {
		w.until(newest)
		w.exactly(w.seen[0], newest)
	}
}

// The member goes away in the midst of events, again and again; its watchers are
// told everything once.
func TestNothingIsLostOrRepeatedWhenAMemberGoes(t *testing.T) {
	h := newHistory()
	members := []*fake{startFake(t, h), startFake(t, h), startFake(t, h)}
	_, conn := startProxy(t, Options{}, members...)
	var all []*watching
	for range 20 {
		all = append(all, watchK(t, conn, 0))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			h.put("k", "v")
			time.Sleep(100 * time.Microsecond)
		}
	}()
	for _, m := range members[:2] {
		time.Sleep(50 * time.Millisecond)
		m.server.Stop()
	}
	time.Sleep(50 * time.Millisecond)
	cancel()
	<-done
	_, newest, _ := h.from(0)
	for _, w := range all {
		w.until(newest)
		w.exactly(2, newest)
	}
}

func TestASlowReaderMissesNothingAndHoldsNobodyUp(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	_, conn := startProxy(t, Options{WatchBuffer: 4 << 10}, member)
	quick, slow := watchK(t, conn, 0), watchK(t, conn, 0)
	value := string(make([]byte, 100<<10)) // flow control stops the slow one
	for range 300 {
		h.put("k", value)
	}
	quick.until(301)
	quick.exactly(2, 301)
	slow.until(301)
	slow.exactly(2, 301)
}

// A client that asks and does not read is not heard any more: nothing of it
// grows here.
func TestWhoDoesNotReadIsNotHeard(t *testing.T) {
	const buffer = 4 << 10
	h := newHistory()
	p, conn := startProxy(t, Options{WatchBuffer: buffer}, startFake(t, h))
	ctx, cancel := context.WithCancel(t.Context())
	narrow, err := grpc.NewClient(conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10)) // which does not grow: less has to come
	if err != nil {
		t.Fatal(err)
	}
	defer narrow.Close()
	stream, err := pb.NewWatchClient(narrow).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	largest := func() (most int) {
		p.watches.streams.Lock()
		defer p.watches.streams.Unlock()
		for s := range p.watches.open {
			s.mu.Lock()
			most = max(most, s.bytes)
			s.mu.Unlock()
		}
		return most
	}
	// Two events take most of what is sent to who does not read.
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || !r.Created {
		t.Fatal(r, err)
	}
	reader := watchK(t, conn, 0)
	for range 2 {
		reader.until(h.put("k", string(make([]byte, 60<<10))))
	}
	eventually(t, "they are sent", func() bool { return largest() == 0 })
	asked := make(chan error, 1)
	go func() { // two requests make three answers of 30 bytes or so, and none is read
		for {
			for _, r := range []*pb.WatchRequest{
				{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 7}}},
				{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 7}}},
			} {
				if err := stream.Send(r); err != nil {
					asked <- err
					return
				}
			}
		}
	}()
	eventually(t, "answers fill what may wait for them", func() bool { return largest() >= buffer })
	for range 300 {
		if n := largest(); n > buffer+512 {
			t.Fatalf("%d bytes wait for who does not read", n)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-asked
}

func TestProgressIsToldForTheWholeStream(t *testing.T) {
	h := newHistory()
	_, conn := startProxy(t, Options{}, startFake(t, h))
	w := watchK(t, conn, 0)
	h.put("other", "v") // the fake tells of all keys
	w.until(2)
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
		t.Fatal(err)
	}
	r, err := w.stream.Recv()
	if err != nil || r.WatchId != -1 || r.Header.Revision != 2 || len(r.Events) > 0 {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestAWatchIsCancelledAndItsIDIsFree(t *testing.T) {
	h := newHistory()
	_, conn := startProxy(t, Options{}, startFake(t, h))
	w := watchK(t, conn, 0)
	create := &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 9}
	for _, want := range []string{"", "mvcc: duplicate watch ID provided on the WatchStream"} {
		if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			t.Fatal(err)
		}
		if r, err := w.stream.Recv(); err != nil || r.CancelReason != want || r.Canceled != (want != "") {
			t.Errorf("got %v, %v", r, err)
		}
	}
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 9}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := w.stream.Recv(); err != nil || !r.Canceled || r.WatchId != 9 {
		t.Errorf("got %v, %v", r, err)
	}
}
