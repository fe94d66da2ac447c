package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// finding is a Finder that notes when it is asked.
type finding struct {
	mu   sync.Mutex
	urls []string
	err  error
	at   []time.Time
}

func (f *finding) Find(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = append(f.at, time.Now())
	return slices.Clone(f.urls), f.err
}

func (f *finding) set(err error, urls ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urls, f.err, f.at = urls, err, nil
}

// times are when it was asked since it was set.
func (f *finding) times() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.at)
}

// TestMembersAreLookedForAtTheRefreshInterval, and those that are known are kept
// while nobody tells.
func TestMembersAreLookedForAtTheRefreshInterval(t *testing.T) {
	const interval = 50 * time.Millisecond
	one, two := startFake(t, newHistory()), startFake(t, newHistory())
	f := &finding{urls: []string{one.address}}
	p := New(Options{Refresh: interval, DialTimeout: time.Second, Grace: time.Second},
		Parts{Finder: f, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	eventually(t, "it was asked five times", func() bool { return len(f.times()) >= 5 })
	at := f.times()
	for i := 1; i < len(at); i++ {
		if gap := at[i].Sub(at[i-1]); gap < interval {
			t.Errorf("it is asked again after %s", gap)
		}
	}
	known := func(want ...string) bool {
		var urls []string
		for _, e := range p.Endpoints() {
			urls = append(urls, e.URL)
		}
		slices.Sort(want)
		slices.Sort(urls)
		return slices.Equal(urls, want)
	}
	f.set(nil, one.address, two.address)
	eventually(t, "the second member is known", func() bool { return known(one.address, two.address) })
	f.set(errors.New("nobody answers"))
	eventually(t, "nobody answers", func() bool { return len(f.times()) >= 3 })
	if !known(one.address, two.address) {
		t.Errorf("what was known is forgotten: %v", p.Endpoints())
	}
	f.set(nil, two.address)
	eventually(t, "the first member is gone", func() bool { return known(two.address) })
}

// TestMembersAreLookedForEverySecondWhileNoneIsKnown, whatever the interval is.
func TestMembersAreLookedForEverySecondWhileNoneIsKnown(t *testing.T) {
	f := &finding{err: errors.New("nobody answers")}
	p := New(Options{Refresh: time.Hour, Grace: time.Second},
		Parts{Finder: f, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	eventually(t, "it was asked three times", func() bool { return len(f.times()) >= 3 })
}

// TestAnEndpointThatFailedIsSetAsideForTheFailureWait, if there is another.
func TestAnEndpointThatFailedIsSetAsideForTheFailureWait(t *testing.T) {
	const wait = 300 * time.Millisecond
	ill, well := startFake(t, newHistory()), startFake(t, newHistory())
	es := newEndpoints(slog.New(slog.DiscardHandler), wait, nil)
	defer es.close()
	es.replace([]string{ill.address, well.address})
	eventually(t, "both are connected", func() bool { return es.healthy() == 2 })
	failed := es.pick(nil)
	before := time.Now()
	es.setAside(failed, "it did not answer")
	if states := es.states(); !slices.ContainsFunc(states, func(e Endpoint) bool {
		return e.URL == failed.url && e.State == "set aside" && e.Reason == "it did not answer"
	}) {
		t.Errorf("the endpoints are %v", states)
	}
	for time.Since(before) < wait {
		if e := es.pick(nil); e == failed && time.Since(before) < wait {
			t.Fatalf("it is used again after %s", time.Since(before))
		}
		time.Sleep(time.Millisecond)
	}
	eventually(t, "it is used again", func() bool { return es.pick(nil) == failed })

	es.setAside(failed, "once more")
	es.replace([]string{failed.url})
	if es.pick(nil) != failed {
		t.Error("the only one is not used as it is set aside")
	}
}

// TestAStreamThatIsNotReadIsEnded when the client has not read it for the time that
// it has.
func TestAStreamThatIsNotReadIsEnded(t *testing.T) {
	h := newHistory()
	p, conn := startProxy(t, Options{WatchBuffer: 4 << 10, WatchStall: 2 * time.Second}, startFake(t, h))
	read, unread := watchK(t, conn, 0), watchK(t, conn, 0)
	value := string(make([]byte, 100<<10))
	for range 300 { // more than flow control lets through, each a message of its own
		read.until(h.put("k", value))
	}
	eventually(t, "the stream is ended", func() bool {
		p.watches.streams.Lock()
		defer p.watches.streams.Unlock()
		return len(p.watches.open) == 1
	})
	for {
		_, err := unread.stream.Recv()
		if err == nil {
			continue // what was on its way
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("ended by %v", err)
		}
		break
	}
	h.put("k", "last")
	read.until(302)
	read.exactly(2, 302)
}

// TestCallsWithinTheProcessAreAsThoseFromOutside: they are joined with others, and
// answered from what is kept.
func TestCallsWithinTheProcessAreAsThoseFromOutside(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	p, conn := startProxy(t, Options{CacheBytes: 1 << 20}, member)
	outside := watchK(t, conn, 0)
	s, err := pb.NewWatchClient(p.Local()).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inside := watching{t: t, stream: s}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || !r.Created {
		t.Fatalf("created: %v, %v", r, err)
	}
	for range 3 {
		h.put("k", "v")
	}
	for _, w := range []*watching{outside, &inside} {
		w.until(4)
		w.exactly(2, 4)
	}
	if n := counted(member, func() int { return member.watches }); n != 1 {
		t.Errorf("there are %d watches at the member", n)
	}
	member.setRevision(4)
	eventually(t, "a range is answered without the member", func() bool {
		before := rangesAt(member)
		r, err := pb.NewKVClient(p.Local()).Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		return err == nil && r.Header.Revision == 4 && rangesAt(member) == before
	})
	renewals, err := pb.NewLeaseClient(p.Local()).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := renewals.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
		t.Fatal(err)
	}
	if r, err := renewals.Recv(); err != nil || r.TTL != 7 {
		t.Errorf("renewed: %v, %v", r, err)
	}
	if err := renewals.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := renewals.Recv(); err == nil {
		t.Errorf("after its end comes %v", r)
	}
	ended, cancel := context.WithCancel(t.Context())
	other, err := pb.NewWatchClient(p.Local()).Watch(ended)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := other.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("a call that was cancelled ends with %v", err)
	}
	member.refuse = errDown
	if _, err := pb.NewKVClient(p.Local()).Range(t.Context(), &pb.RangeRequest{Key: []byte("j")}); status.Convert(err).Message() != status.Convert(errDown).Message() {
		t.Errorf("a refusal arrives as %v", err)
	}
}
