package robust

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A load is concurrent clients, watchers and holders of leases, and all that
// they saw.
type load struct {
	*cluster
	begin time.Time
	stop  chan struct{} // closed when clients and tenants are to end
	ended atomic.Bool
	last  atomic.Int64 // observers end when they were told of this revision; 0: not yet
	acked [16]atomic.Int64

	listening context.Context
	hurry     context.CancelFunc

	before  [groups][inGroup]held // what is there at the beginning
	mayMiss int64                 // revisions that an observer may not see for compactions

	clients   []*client
	tenants   []*tenant
	observers []*observer // the first asks any member
	callers   sync.WaitGroup
	watchers  sync.WaitGroup
}

// load begins to use the cluster. It must be ended.
func (c *cluster) load() *load {
	c.t.Helper()
	l := &load{cluster: c, begin: time.Now(), stop: make(chan struct{})}
	l.listening, l.hurry = context.WithCancel(context.Background())
	r, err := pb.NewKVClient(c.dial(c.running()[0])).Range(context.Background(), &pb.RangeRequest{Key: []byte(keySpace), RangeEnd: []byte("k0")})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		if group, i, ok := placeOf(kv.Key); ok {
			l.before[group][i] = held{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version}
		}
	}
	from := r.Header.Revision + 1
	random := func() *rand.Rand { return rand.New(rand.NewPCG(c.Uint64(), 0)) }
	for i := range clients {
		l.clients = append(l.clients, &client{Rand: random(), load: l, number: i, conns: connections{}})
	}
	for range tenants {
		l.tenants = append(l.tenants, &tenant{Rand: random(), load: l, conns: connections{}})
	}
	l.observers = append(l.observers, newObserver(l, random(), anyone, from))
	for i := range c.members {
		l.observers = append(l.observers, newObserver(l, random(), i, from))
	}
	for _, o := range l.observers {
		l.watchers.Go(o.run)
	}
	for _, one := range l.clients {
		l.callers.Go(one.run)
	}
	for _, one := range l.tenants {
		l.callers.Go(one.run)
	}
	c.t.Cleanup(func() { // a test that gave up
		l.end()
		l.last.CompareAndSwap(0, 1)
		l.hurry()
		l.watchers.Wait()
	})
	return l
}

// now is the time since the load began.
func (l *load) now() time.Duration { return time.Since(l.begin) }

// over tells whether clients are to end.
func (l *load) over() bool { return l.ended.Load() }

// rest pauses, but not past the end.
func (l *load) rest(pause time.Duration) {
	select {
	case <-l.stop:
	case <-time.After(pause):
	}
}

// watched tells whether an observer that was told of a revision may end.
func (l *load) watched(revision int64) bool {
	last := l.last.Load()
	return last > 0 && revision >= last
}

// acknowledged counts a write that a member acknowledged.
func (l *load) acknowledged(member int) { l.acked[member].Add(1) }

// moves waits until each of the members given has acknowledged some more
// writes of those that begin now.
func (l *load) moves(members ...int) {
	l.t.Helper()
	const some = 2 + clients // at most so many have begun already
	var at [len(l.acked)]int64
	for i := range l.acked {
		at[i] = l.acked[i].Load()
	}
	l.eventually(fmt.Sprintf("writes go on through members %v", members), func(context.Context) error {
		for _, i := range members {
			if n := l.acked[i].Load() - at[i]; n < some {
				return fmt.Errorf("member %d has acknowledged %d", i, n)
			}
		}
		return nil
	})
}

// lasts lets the load run for a while.
func (l *load) lasts(d time.Duration) { l.rest(d) }

// end stops clients and tenants and waits for their last answers.
func (l *load) end() {
	if l.ended.CompareAndSwap(false, true) {
		close(l.stop)
	}
	l.callers.Wait()
}

// finish ends the load on a cluster that is whole again, and judges what was
// seen.
func (l *load) finish() {
	l.t.Helper()
	l.end()
	which := l.running()
	for _, i := range which {
		l.serves(i)
	}
	l.lapse(which[0])
	revision := l.agree()
	l.last.Store(revision)
	l.hurry()
	done := make(chan struct{})
	go func() {
		l.watchers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(healsIn):
		l.last.Store(1)
		<-done
	}
	l.judge(revision)
}

// streams is what the observers' streams live in. Those that are open when
// everything has been said are broken, so that all observers look up.
func (l *load) streams() context.Context {
	if l.last.Load() > 0 {
		return context.Background()
	}
	return l.listening
}

// lapse waits until nothing of the leases is left.
func (l *load) lapse(member int) {
	l.t.Helper()
	conn := l.dial(member)
	defer conn.Close()
	l.eventually("leases lapse", func(ctx context.Context) error {
		r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{
			Key: []byte(leaseSpace), RangeEnd: []byte("lease0"), CountOnly: true,
		})
		if err == nil && r.Count > 0 {
			return fmt.Errorf("%d keys with a lease are left", r.Count)
		}
		return err
	})
}
