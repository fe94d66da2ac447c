package mixed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/test/oracle"
)

const (
	writers = 4
	pause   = 4 * time.Millisecond // of a writer between two calls
	callEnd = 5 * time.Second      // what has no answer by then may have happened or not
)

// A load writes through all members that are there, one key for each
// acknowledged write and others that are changed, deleted and compacted, and
// watches.
type load struct {
	t       *testing.T
	c       *oracle.Cluster
	ctx     context.Context
	end     context.CancelFunc
	done    sync.WaitGroup
	watched sync.WaitGroup
	acked   atomic.Int64
	told    atomic.Int64 // the watcher was told of everything up to here
	last    atomic.Int64 // and ends when that is this revision

	mu      sync.Mutex
	places  map[string]*clientv3.Client // by client URL
	written map[string]string           // every acknowledged write of a key of its own
	events  map[int64]int               // of the own keys, by revision
	faults  []string
}

// begin starts a load. It must be finished.
func begin(t *testing.T, c *oracle.Cluster) *load {
	l := &load{t: t, c: c, places: map[string]*clientv3.Client{}, written: map[string]string{}, events: map[int64]int{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.watched.Go(l.watch)
	for i := range writers {
		l.done.Go(func() { l.write(i) })
	}
	t.Cleanup(func() {
		l.last.CompareAndSwap(0, 1)
		l.end()
		l.done.Wait()
		l.watched.Wait()
	})
	return l
}

// through is a client of some member that runs.
func (l *load) through(random *rand.Rand) (*clientv3.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	which := live(l.c)
	m := l.c.Members[which[random.IntN(len(which))]]
	if client := l.places[m.ClientURL]; client != nil {
		return client, nil
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Logger: zap.NewNop(), DialKeepAliveTime: time.Second})
	if err == nil {
		l.places[m.ClientURL] = client
		l.t.Cleanup(func() { client.Close() })
	}
	return client, err
}

// write makes every kind of change until the load ends.
func (l *load) write(number int) {
	random := rand.New(rand.NewPCG(uint64(number), 7))
	for n := 0; l.ctx.Err() == nil; n++ {
		time.Sleep(pause)
		client, err := l.through(random)
		if err != nil {
			l.fault("client: %v", err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), callEnd)
		own, value := fmt.Sprintf("own/%d-%d", number, n), fmt.Sprint(random.Uint64())
		shared := fmt.Sprintf("shared/%d", random.IntN(40))
		var rev int64
		switch random.IntN(8) {
		case 0:
			_, err = client.Delete(ctx, shared, clientv3.WithPrefix())
		case 1: // nested, with both ways
			_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.Version(shared), ">", int64(random.IntN(3)))).
				Then(clientv3.OpTxn(
					[]clientv3.Cmp{clientv3.Compare(clientv3.Value(shared), "!=", "x")},
					[]clientv3.Op{clientv3.OpPut(shared, value), clientv3.OpDelete(shared + "x")}, nil,
				)).
				Else(clientv3.OpPut(shared, value), clientv3.OpGet("shared/", clientv3.WithPrefix())).Commit()
		case 2:
			var lease *clientv3.LeaseGrantResponse
			if lease, err = client.Grant(ctx, 2); err == nil {
				_, err = client.Put(ctx, shared+"x", value, clientv3.WithLease(lease.ID))
			}
		case 3:
			if rev = min(l.acked.Load()-150, l.told.Load()); rev > 50 && random.IntN(10) == 0 {
				_, err = client.Compact(ctx, rev)
				if errors.Is(err, rpctypes.ErrCompacted) {
					err = nil
				}
			}
		default:
			var put *clientv3.PutResponse
			if put, err = client.Put(ctx, own, value); err == nil {
				l.mu.Lock()
				l.written[own] = value
				l.mu.Unlock()
				for at := l.acked.Load(); at < put.Header.Revision && !l.acked.CompareAndSwap(at, put.Header.Revision); at = l.acked.Load() {
				}
			}
		}
		cancel()
		if err != nil {
			time.Sleep(10 * pause) // the member is down, or has no leader
		}
	}
}

// watch follows the own keys through any member, from where it was, until it was
// told of all.
func (l *load) watch() {
	random := rand.New(rand.NewPCG(9, 9))
	next := int64(1)
	for l.last.Load() == 0 || next <= l.last.Load() {
		client, err := l.through(random)
		if err != nil {
			l.fault("client: %v", err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second+time.Duration(random.Int64N(int64(2*time.Second))))
		for answer := range client.Watch(clientv3.WithRequireLeader(ctx), "own/", clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithProgressNotify()) {
			if answer.CompactRevision > next {
				l.fault("compacted to %d before %d was told", answer.CompactRevision, next)
				next = answer.CompactRevision
			}
			for _, e := range answer.Events {
				if e.Kv.ModRevision < next {
					l.fault("%d was told after %d was asked for", e.Kv.ModRevision, next)
				}
				l.mu.Lock()
				l.events[e.Kv.ModRevision]++
				l.mu.Unlock()
			}
			if n := len(answer.Events); n > 0 {
				next = answer.Events[n-1].Kv.ModRevision + 1
				l.told.Store(next - 1)
			}
			if last := l.last.Load(); last > 0 && next > last {
				break
			}
		}
		cancel()
		if l.last.Load() == 1 {
			return
		}
	}
}

func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// moves waits until so many more writes were acknowledged.
func (l *load) moves(more int) {
	l.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.written)
	}
	for from, end := count(), time.Now().Add(patience); count() < from+more; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%d writes were acknowledged within %s, not %d", count()-from, patience, more)
		}
	}
}

// change does something to the members while nobody looks for one.
func (l *load) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// finish ends the load, on a cluster of which every member runs, and judges.
func (l *load) finish() {
	l.t.Helper()
	l.end()
	l.done.Wait()
	agree(l.t, l.c)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	mark, err := l.c.Client(l.t, live(l.c)[0]).Put(ctx, "own/last", "")
	if err != nil {
		l.t.Fatal(err)
	}
	l.last.Store(mark.Header.Revision)
	told := make(chan struct{})
	go func() { l.watched.Wait(); close(told) }()
	select {
	case <-told:
	case <-time.After(patience):
		l.t.Error("the watcher is not told of everything")
		l.last.Store(1)
		<-told
	}
	for _, f := range l.faults {
		l.t.Error(f)
	}
	l.judge(ctx)
}

// judge looks for what was acknowledged, and whether the watcher was told of it
// once.
func (l *load) judge(ctx context.Context) {
	l.t.Helper()
	for _, i := range live(l.c) {
		got, err := l.c.Client(l.t, i).Get(ctx, "own/", clientv3.WithPrefix())
		if err != nil {
			l.t.Fatal(err)
		}
		there := map[string]string{}
		for _, kv := range got.Kvs {
			there[string(kv.Key)] = string(kv.Value)
			if n := l.events[kv.ModRevision]; n != 1 {
				l.t.Errorf("the watcher was told %d times of %s at %d", n, kv.Key, kv.ModRevision)
			}
		}
		lost := 0
		for key, value := range l.written {
			if there[key] != value {
				lost++
			}
		}
		if lost > 0 {
			l.t.Errorf("member %d: %d of %d acknowledged writes are lost", i, lost, len(l.written))
		}
	}
	l.t.Logf("%d acknowledged writes, %d revisions watched", len(l.written), len(l.events))
}
