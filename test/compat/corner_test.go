package compat

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/test/oracle"
)

// What generated sequences do not reach: the passing of time, big answers,
// full files, and requests that the judge does not survive.

// sessionOf is a session that no generator drives.
func sessionOf(t *testing.T, flags ...string) *session {
	t.Helper()
	return newSession(t, oracle.Etcd(t), target(t), flags)
}

// play sends ops and fails the test at the first difference.
func (s *session) play(ops ...op) {
	s.t.Helper()
	for _, o := range ops {
		if d := s.do(o); d != nil {
			s.t.Fatal(d)
		}
	}
}

func put(key, value string) op {
	return kv("Put", &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func TestExpiredLeaseDeletesItsKeysInOrder(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	for i, ttl := range []int64{1, 0, -5} { // all raised to the least, two seconds
		s.play(lease("LeaseGrant", &pb.LeaseGrantRequest{ID: int64(i + 1), TTL: ttl}))
	}
	s.play(lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 2}), lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 3}))
	for _, key := range []string{"z", "a", "m"} {
		s.play(kv("Put", &pb.PutRequest{Key: []byte(key), Value: []byte("held"), Lease: 1}))
	}
	s.play(watchCreate(0, &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true}))
	s.model.revision++ // the end of the lease is one revision
	if d := s.settleWatchers(); d != nil {
		t.Fatal(d)
	}
	if n := len(s.model.history); n != 6 {
		t.Fatalf("%d events, not three puts and three deletes", n)
	}
	s.play(
		lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}),
		op{method: methodKeepAlive, req: &pb.LeaseKeepAliveRequest{ID: 1}},
		lease("LeaseLeases", &pb.LeaseLeasesRequest{}),
		kv("Range", everything()),
	)
}

func TestKeepAliveKeepsALeaseAlive(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	s.play(lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 1, TTL: 3}))
	s.play(kv("Put", &pb.PutRequest{Key: []byte("a"), Lease: 1}))
	for begin := time.Now(); time.Since(begin) < 7*time.Second; time.Sleep(time.Second) {
		s.play(op{method: methodKeepAlive, req: &pb.LeaseKeepAliveRequest{ID: 1}})
	}
	s.play(kv("Range", everything()))
	if len(s.model.history) > 1 {
		t.Error("the key is gone")
	}
}

func TestServerChoosesALeaseIDThatIsFree(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	leases, seen := pb.NewLeaseClient(m.Dial()), map[int64]bool{}
	for range 50 {
		resp, err := leases.LeaseGrant(context.Background(), &pb.LeaseGrantRequest{TTL: 100})
		if err != nil {
			t.Fatal(err)
		}
		if resp.ID <= 0 || seen[resp.ID] || resp.TTL != 100 {
			t.Fatalf("granted id %d, %d s", resp.ID, resp.TTL)
		}
		seen[resp.ID] = true
	}
}

// A revision whose events are larger than a message may be is cut, for those
// who asked for it, where etcd cuts it.
func TestLargeRevisionIsCutAsEtcdCutsIt(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	s.play(
		watchCreate(0, &pb.WatchCreateRequest{Key: []byte("big"), RangeEnd: []byte("bih"), PrevKv: true, Fragment: true}),
		watchCreate(1, &pb.WatchCreateRequest{Key: []byte("big"), RangeEnd: []byte("bih"), PrevKv: true}),
	)
	for i := range 5 {
		s.play(put(fmt.Sprintf("big%d", i), string(bytes.Repeat([]byte{'x'}, 900<<10))))
	}
	s.play(kv("DeleteRange", &pb.DeleteRangeRequest{Key: []byte("big"), RangeEnd: []byte("bih")}))
	for stream := range 2 {
		var cuts [2][]string
		for i, one := range s.sides() {
			w := one.streams[stream]
			w.until(answerWithin, func() bool { return count(w.events[0]) >= 10 })
			for _, r := range w.events[0] {
				cuts[i] = append(cuts[i], fmt.Sprintf("%d events at %d, fragment %v", len(r.Events), r.Header.Revision, r.Fragment))
			}
		}
		if fmt.Sprint(cuts[0]) != fmt.Sprint(cuts[1]) {
			t.Errorf("stream %d\n  etcd: %v\n  kvd:  %v", stream, cuts[0], cuts[1])
		}
	}
}

// An idle watcher that asked for it hears of the store's revision from time to
// time; one that did not ask does not.
func TestProgressIsNotifiedToThoseWhoAsked(t *testing.T) {
	t.Parallel()
	s := sessionOf(t, "--watch-progress-notify-interval=300ms")
	s.play(put("other", "1"))
	s.play(
		watchCreate(0, &pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true, WatchId: 7}),
		watchCreate(0, &pb.WatchCreateRequest{Key: []byte("b")}),
		put("other", "2"),
	)
	for _, one := range s.sides() {
		a := one.streams[0].controlAt(3) // two created, then the second progress
		r, ok := a.msg.(*pb.WatchResponse)
		want := &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: one.self.cluster, MemberId: one.self.member, Revision: 3}, WatchId: 7}
		if ok {
			want.Header.RaftTerm = r.Header.RaftTerm
		}
		if !ok || !proto.Equal(r, want) {
			t.Errorf("%s: %s, want {%s}", one.name, a, text(want))
		}
	}
}

func TestWatchOutlivesTheEndOfRequests(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	s.play(watchCreate(0, &pb.WatchCreateRequest{Key: []byte("a")}))
	for _, one := range s.sides() {
		if err := one.streams[0].stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	s.play(put("a", "1"), put("a", "2"))
	if d := s.settleWatchers(); d != nil {
		t.Error(d)
	}
}

// A client that does not read must neither lose events nor hold up the others.
func TestSlowWatcherLosesNothing(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := pb.NewWatchClient(m.Dial()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("s"), RangeEnd: []byte("t"), PrevKv: true},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	const n = 3000
	keys, value := pb.NewKVClient(m.Dial()), bytes.Repeat([]byte{'v'}, 4<<10)
	for i := range n { // 36 MB of events, nobody reading
		if _, err := keys.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "s/%d", i%7), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	next := map[int64]int64{0: 2, 1: 2, 2: 2}
	for left := 3 * n; left > 0; {
		r, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d events are missing: %v", left, err)
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision != next[r.WatchId] {
				t.Fatalf("watcher %d: event %d, want %d", r.WatchId, e.Kv.ModRevision, next[r.WatchId])
			}
			next[r.WatchId]++
			left--
		}
	}
}

// A full backend refuses writes but not reads and deletes, tells it in health,
// and serves again once room was made and the alarm was ended.
func TestQuotaIsHeldAsEtcdHoldsIt(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t, "--quota-backend-bytes=4000000")
	for _, m := range []*oracle.Member{judge, judged} {
		ctx, conn := context.Background(), m.Dial()
		keys, maintenance := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
		var err error
		for i := 0; err == nil && i < 200; i++ {
			_, err = keys.Put(ctx, &pb.PutRequest{Key: []byte("fill"), Value: make([]byte, 100<<10)})
		}
		want := status.New(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
		refused := func(what string, err error) {
			t.Helper()
			if !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
				t.Errorf("%s: %s: %v, want %v", m.Binary.Name, what, err, want)
			}
		}
		refused("put", err)
		_, err = pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100})
		refused("grant", err)
		_, err = keys.Txn(ctx, &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte("not taken")},
		}}}})
		refused("txn with a put in the other branch", err)
		must := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %s: %v", m.Binary.Name, what, err)
			}
		}
		all, err := keys.Range(ctx, everything())
		must("range", err)
		_, err = keys.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("fill")})
		must("delete", err)
		if _, body, _ := m.Get(ctx, "/health"); body != `{"health":"false","reason":"ALARM NOSPACE"}`+"\n" {
			t.Errorf("%s: health %q", m.Binary.Name, body)
		}
		alarms, err := maintenance.Alarm(ctx, &pb.AlarmRequest{})
		must("alarms", err)
		if len(alarms.GetAlarms()) != 1 || alarms.Alarms[0].MemberID != all.Header.MemberId || alarms.Alarms[0].Alarm != pb.AlarmType_NOSPACE {
			t.Errorf("%s: alarms %v", m.Binary.Name, alarms)
		}
		_, err = keys.Compact(ctx, &pb.CompactionRequest{Revision: all.Header.Revision, Physical: true})
		must("compact", err)
		_, err = maintenance.Defragment(ctx, &pb.DefragmentRequest{})
		must("defragment", err)
		_, err = maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: all.Header.MemberId, Alarm: pb.AlarmType_NOSPACE})
		must("disarm", err)
		_, err = keys.Put(ctx, &pb.PutRequest{Key: []byte("again")})
		must("put after disarming", err)
	}
}

func TestPeriodicCompactionHappens(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t, "--auto-compaction-mode=periodic", "--auto-compaction-retention=2s")
	for _, m := range []*oracle.Member{judge, judged} {
		keys := pb.NewKVClient(m.Dial())
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: []byte("a")}); err != nil {
				t.Fatal(err)
			}
			_, err := keys.Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), Revision: 2})
			if status.Code(err) == codes.OutOfRange {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%s: revision 2 is not compacted", m.Binary.Name)
				break
			}
		}
	}
}

// Three requests end etcd 3.7.3. kvd is to survive them, and a restart after.

func TestPutThatKeepsWhatTheTxnDeleted(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	keys := pb.NewKVClient(m.Dial())
	if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	_, err := keys.Txn(context.Background(), &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), IgnoreValue: true}}},
	}})
	if err != nil {
		t.Errorf("refused: %v", err)
	}
	r, err := keys.Range(context.Background(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 1 || len(r.Kvs[0].Value) != 0 || r.Kvs[0].Version != 1 {
		t.Errorf("the key is %v, not a new one without a value: there was none to keep", r.Kvs)
	}
	survives(t, m)
}

func TestCompactionKeepsWhatItsRevisionPutAgain(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	keys := pb.NewKVClient(m.Dial())
	for _, o := range []*pb.TxnRequest{
		{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), Value: []byte("1")}}}}},
		{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), Value: []byte("2")}}},
		}},
	} {
		if _, err := keys.Txn(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := keys.Compact(context.Background(), &pb.CompactionRequest{Revision: 3, Physical: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := keys.Range(context.Background(), &pb.RangeRequest{Key: []byte("k")})
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "2" {
			t.Fatalf("the key is %v, %v", r.GetKvs(), err)
		}
		m.Kill()
		m = oracle.Start(t, m.Binary, m.Options)
		keys = pb.NewKVClient(m.Dial())
	}
	survives(t, m)
}

func TestAlarmWithAnUnknownAction(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	resp, err := pb.NewMaintenanceClient(m.Dial()).Alarm(context.Background(), &pb.AlarmRequest{Action: 9})
	if err != nil || len(resp.Alarms) != 0 {
		t.Errorf("answer: %v, %v", resp, err)
	}
	survives(t, m)
}

// survives checks that a server still serves, and does so after a restart.
func survives(t *testing.T, m *oracle.Member) {
	t.Helper()
	if _, err := pb.NewKVClient(m.Dial()).Put(context.Background(), &pb.PutRequest{Key: []byte("after")}); err != nil {
		t.Fatal(err)
	}
	before := stateOf(t, m)
	m.Kill()
	compareStates(t, before, stateOf(t, oracle.Start(t, m.Binary, m.Options)))
}
