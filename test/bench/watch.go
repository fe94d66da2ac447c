package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	watchers      = 100
	watchConns    = 4
	watchWriters  = 8
	pacedPerS     = 500  // puts a second, all writers together
	floodPerS     = 1000 // puts in all for each second of the stage's duration
	sampleEvents  = 64   // one answer in so many is decoded by each watcher
	drainPatience = 2 * time.Minute
)

// watched is the prefix under which nothing is put but for the watchers.
var watched = space{prefix: "/registry/events/bench/event-", n: 1000, bytes: 256}

// watchPaced measures events when the writers keep a fixed pace.
func watchPaced(ctx context.Context, st *stage) (metrics, error) {
	puts := int64(float64(pacedPerS) * st.duration.Seconds())
	return watch(ctx, st, "watch", puts, pacedPerS)
}

// watchFlood measures events when the writers put as fast as they can. The
// number of puts is fixed, so that the faster server is not given more to do.
func watchFlood(ctx context.Context, st *stage) (metrics, error) {
	puts := int64(float64(floodPerS) * st.duration.Seconds())
	return watch(ctx, st, "watchflood", puts, 0)
}

// watch opens the watchers, lets the writers put, and waits until every
// watcher has received every event. One operation is one event delivered to
// one watcher; the puts are part of the cost and nothing is subtracted.
func watch(ctx context.Context, st *stage, name string, puts, perSecond int64) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*st.duration+drainPatience)
	defer cancel()
	a, err := openAudience(ctx, st.process.addr, everyEvent)
	if err != nil {
		return nil, err
	}
	defer a.close()
	return st.audience(ctx, a, name, st.process.addr, puts, perSecond)
}

// audience measures what it costs to tell the audience of puts at a server.
func (st *stage) audience(ctx context.Context, a *audience, name, at string, puts, perSecond int64) (metrics, error) {
	writers, closeAll, err := dialMany(at, 2)
	if err != nil {
		return nil, err
	}
	defer closeAll()

	warm := max(1, int64(float64(puts)*st.warm.Seconds()/st.duration.Seconds()))
	if _, err := a.play(ctx, writers, warm, perSecond); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	a.forgetLatencies()
	var putRate float64
	m, err := st.window(name, func() (t tally, err error) {
		at := time.Now()
		written, err := a.play(ctx, writers, puts, perSecond)
		if err != nil {
			return tally{}, err
		}
		putRate = float64(puts) / written.Seconds()
		return tally{ops: puts * int64(len(a.members)), wall: time.Since(at), latencies: a.latencies()}, nil
	})
	if err != nil {
		return nil, err
	}
	m["puts_per_s"] = putRate
	return m, nil
}

// crowd says who watches what.
type crowd struct {
	watchers, conns int
	keys            space  // that the writers put
	request         []byte // that creates a watch
}

var everyEvent = crowd{watchers, watchConns, watched, appendWatch(nil, []byte(watched.prefix), watched.end())}

// audience is the watchers and what they have heard.
type audience struct {
	crowd
	close    func()
	members  []*watcher
	due      int64 // events that all watchers together should have had by now
	arrived  atomic.Int64
	failed   chan error // the first failure of any watcher
	receives sync.WaitGroup
}

// watcher receives one watch stream.
type watcher struct {
	audience *audience
	stream   grpc.ClientStream
	out      reply
	answers  int          // and at first a number of its own, so that not all look at once
	got      atomic.Int64 // events
	last     int64        // revision of the last event looked at

	mu        sync.Mutex
	latencies []int64 // of sampled events, from before the put to the decoded event
}

// openAudience creates all watchers and waits until the server has confirmed
// each.
func openAudience(ctx context.Context, addr string, who crowd) (*audience, error) {
	ctx, cancel := context.WithCancel(ctx)
	conns, closeConns, err := dialMany(addr, who.conns)
	if err != nil {
		cancel()
		return nil, err
	}
	a := &audience{crowd: who, failed: make(chan error, 1)}
	a.close = func() {
		cancel()
		a.receives.Wait()
		closeConns()
	}
	for i := range who.watchers {
		w, err := a.open(ctx, conns[i%len(conns)])
		if err != nil {
			a.close()
			return nil, fmt.Errorf("open watcher %d: %w", i, err)
		}
		w.answers = i
		a.members = append(a.members, w)
	}
	for _, w := range a.members {
		a.receives.Go(func() {
			select {
			case a.failed <- w.receive():
			default: // the first failure is enough
			}
		})
	}
	return a, nil
}

func (a *audience) open(ctx context.Context, conn *grpc.ClientConn) (*watcher, error) {
	desc := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, &desc, methodWatch)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&request{a.request}); err != nil {
		return nil, err
	}
	w := &watcher{audience: a, stream: stream, out: reply{keep: true}}
	if err := stream.RecvMsg(&w.out); err != nil {
		return nil, err
	}
	var created pb.WatchResponse
	if err := proto.Unmarshal(w.out.body, &created); err != nil {
		return nil, err
	}
	if !created.Created || created.Canceled || len(created.Events) != 0 {
		return nil, fmt.Errorf("the first answer is not the confirmation: %v", &created)
	}
	return w, nil
}

// receive counts events until the stream ends, and says why it did.
func (w *watcher) receive() error {
	for {
		if err := w.stream.RecvMsg(&w.out); err != nil {
			return err
		}
		events := 0
		canceled := false
		err := eachField(w.out.body, func(field protowire.Number, v uint64, _ []byte) {
			switch field {
			case 4:
				canceled = v != 0
			case 11:
				events++
			}
		})
		if err != nil {
			return err
		}
		if canceled {
			return errors.New("the server cancelled a watcher")
		}
		if w.answers%sampleEvents == 0 {
			if err := w.look(); err != nil {
				return err
			}
		}
		w.answers++
		w.got.Add(int64(events))
		w.audience.arrived.Add(int64(events))
	}
}

// look decodes the answer that just came and checks its events.
func (w *watcher) look() error {
	now := sinceStart()
	var r pb.WatchResponse
	if err := proto.Unmarshal(w.out.body, &r); err != nil {
		return err
	}
	for _, e := range r.Events {
		kv := e.Kv
		if !bytes.HasPrefix(kv.GetKey(), []byte(w.audience.keys.prefix)) || len(kv.GetValue()) != w.audience.keys.bytes {
			return fmt.Errorf("an event of %q with a value of %d bytes, which nobody put", kv.GetKey(), len(kv.GetValue()))
		}
		if kv.ModRevision <= w.last {
			return fmt.Errorf("an event of revision %d after one of %d", kv.ModRevision, w.last)
		}
		w.last = kv.ModRevision
		w.mu.Lock()
		w.latencies = append(w.latencies, now-int64(binary.LittleEndian.Uint64(kv.Value)))
		w.mu.Unlock()
	}
	return nil
}

// play lets the writers put so many times, at a pace if perSecond is not
// zero, and waits until all watchers have all of it. It returns how long the
// writers took.
func (a *audience) play(ctx context.Context, conns []*grpc.ClientConn, puts, perSecond int64) (time.Duration, error) {
	start := time.Now()
	var next atomic.Int64 // number of the put to be made
	ops := make([]op, watchWriters)
	for i := range ops {
		ops[i] = a.put(conns[i%len(conns)], &next, start, perSecond)
	}
	const forever = time.Hour // the count ends it; ctx does if the server hangs
	t, err := drive(ctx, ops, forever, puts)
	if err != nil {
		return 0, err
	}
	a.due += t.ops * int64(len(a.members))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for a.arrived.Load() < a.due {
		select {
		case <-tick.C:
		case err := <-a.failed:
			return 0, err
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d events arrived: %w", a.arrived.Load(), a.due, ctx.Err())
		}
	}
	for i, w := range a.members {
		if got := w.got.Load(); got != a.due/int64(len(a.members)) {
			return 0, fmt.Errorf("watcher %d has %d events where %d were due", i, got, a.due/int64(len(a.members)))
		}
	}
	return t.wall, nil
}

// put puts a value that says when it was put, each put at its own time
// since start if there is a pace.
func (a *audience) put(conn *grpc.ClientConn, next *atomic.Int64, start time.Time, perSecond int64) op {
	u := unary{conn: conn, method: methodPut, sample: math.MaxInt, least: 4}
	value := slices.Clone(a.keys.value(0))
	return func(ctx context.Context) error {
		n := next.Add(1) - 1
		if perSecond > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(perSecond))))
		}
		binary.LittleEndian.PutUint64(value, uint64(sinceStart()))
		u.in.bytes = appendPut(u.in.bytes[:0], a.keys.key(int(n)%a.keys.n), value)
		return u.call(ctx, func([]byte) error { return nil })
	}
}

func (a *audience) forgetLatencies() {
	for _, w := range a.members {
		w.mu.Lock()
		w.latencies = nil
		w.mu.Unlock()
	}
}

func (a *audience) latencies() []int64 {
	var all []int64
	for _, w := range a.members {
		w.mu.Lock()
		all = append(all, w.latencies...)
		w.mu.Unlock()
	}
	slices.Sort(all)
	return all
}

var programStart = time.Now()

// sinceStart is a clock for both ends of an event, in nanoseconds.
func sinceStart() int64 { return int64(time.Since(programStart)) }
