package api

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"kvd/internal/state"
)

func TestGateRefusesWhatGoesLastFirst(t *testing.T) {
	g := newGate(16)
	var entered [classes]int
	for _, c := range []class{last, ordinary, first} {
		for g.enter(c) {
			entered[c]++
		}
	}
	if want := [classes]int{ordinary: 10, first: 2, last: 4}; entered != want {
		t.Errorf("%v entered, want %v", entered, want)
	}
	for c, n := range entered {
		for range n {
			g.leave(class(c))
		}
	}
	if !g.enter(last) || g.inside.Load() != 1 {
		t.Error("those that have left still count")
	}
}

// gated is a member whose proposals wait to be let go.
type gated struct {
	*solo
	waiting chan struct{} // receives for each that waits
	let     chan struct{} // closed: all may go
}

func (g gated) Propose(ctx context.Context, r *state.Request, raw []byte) (any, error) {
	if r.Put != nil {
		g.waiting <- struct{}{}
		<-g.let
	}
	return g.solo.Propose(ctx, r, raw)
}

func TestAFullMemberServesWhatGoesFirst(t *testing.T) {
	s := newSolo(t)
	g := gated{s, make(chan struct{}), make(chan struct{})}
	conn, _ := servingMember(t, s, g, Options{MaxInflight: 8, SlowRequest: time.Hour}, nil)
	kv := pb.NewKVClient(conn)
	var puts sync.WaitGroup
	for range 7 { // all that writes may take of eight
		puts.Go(func() {
			if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: []byte("k")}); err != nil {
				t.Error(err)
			}
		})
		<-g.waiting
	}
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
	refuses(t, err, codes.ResourceExhausted, "etcdserver: too many requests")
	_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}})
	refuses(t, err, codes.ResourceExhausted, "etcdserver: too many requests")
	stream := must(kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}))(t)
	_, err = stream.Recv()
	refuses(t, err, codes.ResourceExhausted, "etcdserver: too many requests")

	must(pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{}))(t)
	must(pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{}))(t)
	must(grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}))(t)
	_, err = pb.NewLeaseClient(conn).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 9})
	refuses(t, err, codes.NotFound, "etcdserver: requested lease not found")
	alive := must(pb.NewLeaseClient(conn).LeaseKeepAlive(t.Context()))(t)
	if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: 9}); err != nil {
		t.Fatal(err)
	}
	must(alive.Recv())(t)
	close(g.let)
	puts.Wait()
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}))(t)
}

// journal collects what is logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func TestASlowCallIsToldOfWithWhatItTakesToActOnIt(t *testing.T) {
	s, j := newSolo(t), &journal{}
	conn, _ := servingMember(t, s, s, Options{SlowRequest: time.Nanosecond}, j.logger())
	kv := pb.NewKVClient(conn)
	put(t, kv, "some/key", "a secret")
	must(kv.Txn(t.Context(), &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("c"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("a secret")}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b")}}}},
	}))(t)
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("s"), RangeEnd: []byte{0}}))(t)
	text := j.String()
	for _, want := range []string{
		"method=/etcdserverpb.KV/Put", "remote=127.0.0.1:", `span="\"some/key\""`, "took=", "expected=1ns", "log=", "read-index=", "rest=",
		"request-bytes=20", "reply-bytes=", `span="if \"c\", else delete [\"a\", \"b\")"`, `span="[\"s\", …)"`, "code=OK",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "secret") {
		t.Errorf("a value is in the log:\n%s", text)
	}
}

func TestAWatchThatNobodyReadsIsEndedWithTheReason(t *testing.T) {
	s, j := newSolo(t), &journal{}
	conn, a := servingMember(t, s, s, Options{WatchStall: 500 * time.Millisecond}, j.logger())
	stream := must(pb.NewWatchClient(conn).Watch(t.Context()))(t)
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}
	if err := stream.Send(create); err != nil {
		t.Fatal(err)
	}
	must(stream.Recv())(t)
	kv := pb.NewKVClient(conn)
	for range 40 { // more than any window lets through
		put(t, kv, "k", strings.Repeat("x", 1<<20))
	}
	for end := time.Now().Add(20 * time.Second); s.hub.Watchers() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the watcher is still there")
		}
	}
	var err error
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "was not read for 500ms") {
		t.Errorf("ended with %v", err)
	}
	if !strings.Contains(j.String(), "its client does not read") {
		t.Errorf("the log says\n%s", j.String())
	}
	if n := counted(t, a.metrics.stalled); n != 1 {
		t.Errorf("%v counted", n)
	}
}

// counted reads a counter.
func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestTheAuditSaysWhoDidWhatAndNeverAValue(t *testing.T) {
	for _, mode := range []Audit{AuditNone, AuditWrites, AuditAll} {
		s, j := newSolo(t), &journal{}
		conn, _ := servingMember(t, s, s, Options{Audit: mode}, j.logger())
		kv := pb.NewKVClient(conn)
		put(t, kv, "written", "a secret")
		must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("ranged")}))(t)
		must(kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("in a txn")}}}}}))(t)
		stream := must(kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("streamed")}))(t)
		for err := error(nil); err == nil; {
			_, err = stream.Recv()
		}
		watching := must(pb.NewWatchClient(conn).Watch(t.Context()))(t)
		if err := watching.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("watched")}}}); err != nil {
			t.Fatal(err)
		}
		must(watching.Recv())(t)
		_, err := pb.NewLeaseClient(conn).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 0xbad})
		refuses(t, err, codes.NotFound, "etcdserver: requested lease not found")
		said := j.String()
		for word, least := range map[string]Audit{
			`span="\"written\""`: AuditWrites, `span="lease bad"`: AuditWrites, "code=NotFound": AuditWrites,
			"message_id=" + messageAudit: AuditWrites, "remote=127.0.0.1:": AuditWrites,
			`span="\"ranged\""`: AuditAll, `in a txn`: AuditAll, `streamed`: AuditAll, `watched`: AuditAll,
		} {
			if strings.Contains(said, word) != (mode >= least) {
				t.Errorf("audit %d: %s: %v, in\n%s", mode, word, mode < least, said)
			}
		}
		if strings.Contains(said, "secret") {
			t.Errorf("a value is in the log:\n%s", said)
		}
	}
}
