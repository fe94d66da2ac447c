package robust

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kvd/test/oracle"
)

const (
	proxyWatchers = 1000
	proxyStreams  = 100 // that they are spread over
)

// TestAThousandWatchersThroughAProxyMissAndRepeatNothing kills and restarts each
// member in turn, with one of either kind in the cluster, while somebody writes.
func TestAThousandWatchersThroughAProxyMissAndRepeatNothing(t *testing.T) {
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Kvd(t), oracle.Kvd(t), oracle.Etcd(t)}, oracle.ClusterOptions{})
	p := oracle.Start(t, oracle.Kvd(t), oracle.Options{
		Name: "proxy", Proxy: "on", Cluster: c.Members[0].Cluster, Args: []string{"--proxy-refresh-interval=500ms", "--proxy-failure-wait=500ms"},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conns := []*grpc.ClientConn{p.Dial(), p.Dial(), p.Dial(), p.Dial()}
	var crowd []*watching
	for i := range proxyStreams {
		crowd = append(crowd, watchMany(t, ctx, conns[i%len(conns)], proxyWatchers/proxyStreams))
	}
	if n := memberWatches(t, p); n != "1" {
		t.Errorf("%d watchers of one key have %s watches at members", proxyWatchers, n)
	}

	stop := make(chan struct{})
	var writing sync.WaitGroup
	var written atomic.Int64
	more := func() {
		t.Helper()
		for aim, end := written.Load()+30, time.Now().Add(oracle.SettleWithin); written.Load() < aim; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("writes do not come through")
			}
		}
	}
	writing.Go(func() {
		kv := pb.NewKVClient(p.Dial())
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond): // the watchers share two cores with all the rest
			}
			limited, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := kv.Put(limited, &pb.PutRequest{Key: []byte("k"), Value: fmt.Appendf(nil, "%d", i)}) // if not, the history says whether it was done
			if err == nil {
				written.Add(1)
			}
			cancel()
		}
	})
	for _, m := range c.Members {
		m.Kill()
		more()
		m.Restart()
		more()
	}
	close(stop)
	writing.Wait()

	// The last write is one that is known to be done.
	last := lastWrite(t, p)
	want := history(t, c.Members[0], last)
	t.Logf("%d revisions of the key", len(want))
	for i, w := range crowd {
		w.until(last)
		for id, seen := range w.seen {
			if !slices.Equal(seen, want) {
				t.Fatalf("watcher %d of stream %d saw %d revisions of %d: %s", id, i, len(seen), len(want), firstDifference(seen, want))
			}
		}
	}
}

// watching is one stream with several watches of the key k.
type watching struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	seen   map[int64][]int64 // revisions, by watch
	mu     sync.Mutex
	moved  chan struct{} // one signal
	ended  error
}

func watchMany(t *testing.T, ctx context.Context, conn *grpc.ClientConn, n int) *watching {
	t.Helper()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, stream: stream, seen: map[int64][]int64{}, moved: make(chan struct{}, 1)}
	for range n {
		create := &pb.WatchCreateRequest{Key: []byte("k")}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		r, err := stream.Recv()
		if err != nil || !r.Created || r.Canceled {
			t.Fatalf("created: %v, %v", r, err)
		}
		w.seen[r.WatchId] = nil
	}
	go w.receive() // ends with the stream
	return w
}

func (w *watching) receive() {
	for {
		r, err := w.stream.Recv()
		w.mu.Lock()
		switch {
		case err != nil:
			w.ended = err
		case r.Canceled || r.Created:
			w.ended = fmt.Errorf("the proxy says %v", r)
		default:
			for _, e := range r.Events {
				w.seen[r.WatchId] = append(w.seen[r.WatchId], e.Kv.ModRevision)
			}
		}
		ended := w.ended
		w.mu.Unlock()
		select {
		case w.moved <- struct{}{}:
		default:
		}
		if ended != nil {
			return
		}
	}
}

// until waits until all watches have seen a revision.
func (w *watching) until(revision int64) {
	w.t.Helper()
	timeout := time.After(oracle.SettleWithin)
	for {
		w.mu.Lock()
		behind, ended := 0, w.ended
		for _, seen := range w.seen {
			if len(seen) == 0 || seen[len(seen)-1] < revision {
				behind++
			}
		}
		w.mu.Unlock()
		switch {
		case behind == 0:
			return
		case ended != nil:
			w.t.Fatalf("a stream through the proxy ended: %v", ended)
		}
		select {
		case <-w.moved:
		case <-timeout:
			w.t.Fatalf("%d watches have not seen revision %d", behind, revision)
		}
	}
}

// lastWrite writes once more, until it is done.
func lastWrite(t *testing.T, p *oracle.Member) int64 {
	t.Helper()
	kv := pb.NewKVClient(p.Dial())
	for end := time.Now().Add(oracle.SettleWithin); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		r, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("last")})
		cancel()
		if err == nil {
			return r.Header.Revision
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// history are all revisions of the key up to one, as a member tells them itself.
func history(t *testing.T, m *oracle.Member, last int64) (revisions []int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), oracle.SettleWithin)
	defer cancel()
	s, err := pb.NewWatchClient(m.Dial()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 1}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	for len(revisions) == 0 || revisions[len(revisions)-1] < last {
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			revisions = append(revisions, e.Kv.ModRevision)
		}
	}
	return revisions
}

func memberWatches(t *testing.T, p *oracle.Member) string {
	t.Helper()
	_, body, err := p.Get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if n, ok := strings.CutPrefix(line, "kvd_proxy_member_watches "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "no metric"
}

func firstDifference(seen, want []int64) string {
	for i := range min(len(seen), len(want)) {
		if seen[i] != want[i] {
			return fmt.Sprintf("revision %d where %d was next", seen[i], want[i])
		}
	}
	return "one is the beginning of the other"
}
