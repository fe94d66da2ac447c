package proxy

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// fake is a member as far as a proxy needs one: it keeps the history of its
// puts, watches it, and counts what it is asked. Two may share one history.
type fake struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer

	history  *history
	address  string
	server   *grpc.Server
	mu       sync.Mutex
	tokens   []string // of the calls, in order
	watches  int      // that were created here
	renewals int
	ranges   int
	revision int64         // of ranges
	refuse   error         // of puts
	held     chan struct{} // a renewal waits for it; nil: none does
}

// history is the puts of a cluster.
type history struct {
	mu      sync.Mutex
	events  []*mvccpb.Event // of revision 2 and on
	changed chan struct{}   // closed with each put
}

func (h *history) put(key, value string) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	rev := int64(len(h.events) + 2)
	h.events = append(h.events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev, CreateRevision: rev, Version: 1}})
	close(h.changed)
	h.changed = make(chan struct{})
	return rev
}

// from are the events from a revision on, the newest revision, and a channel
// that closes with the next.
func (h *history) from(rev int64) ([]*mvccpb.Event, int64, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	newest := int64(len(h.events) + 1)
	var events []*mvccpb.Event
	if i := rev - 2; i < int64(len(h.events)) {
		events = h.events[max(i, 0):]
	}
	return events, newest, h.changed
}

func startFake(t *testing.T, h *history) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{history: h, address: "http://" + l.Addr().String(), server: grpc.NewServer()}
	pb.RegisterKVServer(f.server, f)
	pb.RegisterWatchServer(f.server, f)
	pb.RegisterLeaseServer(f.server, f)
	var serving sync.WaitGroup
	serving.Go(func() { _ = f.server.Serve(l) })
	t.Cleanup(func() { f.server.Stop(); serving.Wait() })
	return f
}

func (f *fake) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	f.mu.Lock()
	f.tokens = append(f.tokens, metadata.ValueFromIncomingContext(ctx, "token")...)
	refuse := f.refuse
	f.mu.Unlock()
	if refuse != nil {
		return nil, refuse
	}
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: f.history.put(string(r.Key), string(r.Value))}}, nil
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ranges++
	if f.refuse != nil {
		return nil, f.refuse
	}
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: f.revision}, Count: 1, Kvs: []*mvccpb.KeyValue{{Key: r.Key, Value: []byte(f.address)}}}, nil
}

func (f *fake) setRevision(to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revision = to
}

func (f *fake) Watch(s pb.Watch_WatchServer) error {
	requests := make(chan *pb.WatchRequest)
	ended := make(chan error, 1)
	go func() {
		for {
			r, err := s.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-s.Context().Done():
			}
		}
	}()
	next, newest, changed := int64(0), int64(0), (<-chan struct{})(nil)
	send := func(r *pb.WatchResponse) error {
		r.Header = &pb.ResponseHeader{Revision: newest}
		return s.Send(r)
	}
	for {
		if next > 0 {
			var events []*mvccpb.Event
			if events, newest, changed = f.history.from(next); len(events) > 0 {
				next = events[len(events)-1].Kv.ModRevision + 1
				if err := send(&pb.WatchResponse{Events: events}); err != nil {
					return err
				}
			}
		}
		select {
		case r := <-requests:
			_, newest, changed = f.history.from(1 << 40)
			switch {
			case r.GetCreateRequest().GetWatchId() != 0: // a probe
				if err := send(&pb.WatchResponse{Created: true, WatchId: r.GetCreateRequest().WatchId}); err != nil {
					return err
				}
			case r.GetCancelRequest() != nil:
				if err := send(&pb.WatchResponse{Canceled: true, WatchId: r.GetCancelRequest().WatchId}); err != nil {
					return err
				}
			case r.GetCreateRequest() != nil:
				f.mu.Lock()
				f.watches++
				f.mu.Unlock()
				if next = r.GetCreateRequest().StartRevision; next == 0 {
					next = newest + 1
				}
				if err := send(&pb.WatchResponse{Created: true}); err != nil {
					return err
				}
			case r.GetProgressRequest() != nil:
				if err := send(&pb.WatchResponse{WatchId: -1}); err != nil {
					return err
				}
			}
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

func (f *fake) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.renewals++
		held := f.held
		f.mu.Unlock()
		if held != nil {
			<-held
		}
		if err := s.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: 7}); err != nil {
			return err
		}
	}
}

// counted is a number that a fake counts.
func counted(f *fake, what func() int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return what()
}

// startProxy starts a proxy in front of members, and returns a connection to it.
func startProxy(t *testing.T, o Options, members ...*fake) (*Proxy, *grpc.ClientConn) {
	t.Helper()
	var urls Fixed
	for _, f := range members {
		urls = append(urls, f.address)
	}
	o.Refresh, o.FailureWait, o.DialTimeout, o.Grace = time.Hour, time.Second, 10*time.Second, time.Second
	p := New(o, Parts{Finder: urls, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))) // as etcd's client
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
	})
	eventually(t, "all members are connected", func() bool { return p.Healthy() == len(members) })
	return p, conn
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !true(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func newHistory() *history { return &history{changed: make(chan struct{})} }

var errDown = status.Error(codes.Unavailable, "etcdserver: no leader")
