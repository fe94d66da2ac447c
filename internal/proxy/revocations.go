package proxy

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// revocations tell what becomes of ownership keys, the proxy's own and others'.
type revocations struct {
	mu    sync.Mutex
	waits map[string]map[*wait]bool // by ownership key
}

// wait is somebody who waits for an ownership key to go.
type wait struct {
	key  string
	over chan struct{} // closed once it went
}

func (rs *revocations) enter(key string) *wait {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	w := &wait{key, make(chan struct{})}
	if rs.waits[key] == nil {
		rs.waits[key] = map[*wait]bool{}
	}
	rs.waits[key][w] = true
	return w
}

func (rs *revocations) leave(w *wait) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.leaveLocked(w)
}

func (rs *revocations) leaveLocked(w *wait) {
	delete(rs.waits[w.key], w)
	if len(rs.waits[w.key]) == 0 {
		delete(rs.waits, w.key)
	}
}

func (rs *revocations) went(key string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for w := range rs.waits[key] {
		rs.leaveLocked(w)
		close(w.over)
	}
}

// errMissed is that events of ownership keys are gone that were not seen.
var errMissed = errors.New("changes of ownership keys were compacted before they were seen")

// watch follows the ownership keys until ctx ends, at one member after another.
// What it misses costs the session.
func (l *leasing) watch(ctx context.Context) {
	next, pause := int64(0), feedBackoff
	for ctx.Err() == nil {
		before := next
		err := l.watchOnce(ctx, &next)
		if ctx.Err() != nil {
			return
		}
		l.proxy.log.Debug("the watch of ownership keys looks for another member", "error", err)
		if next > before {
			pause = feedBackoff
		}
		if errors.Is(err, errMissed) {
			l.keys.watch(false)
			l.restart()
			next = 0
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxFeedBackoff)
	}
}

func (l *leasing) watchOnce(ctx context.Context, next *int64) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "hasleader", "true")) // a member that is cut off hears nothing
	defer cancel()
	out, err := l.proxy.direct().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, watchMethod)
	if err != nil {
		return err
	}
	create := &pb.WatchCreateRequest{Key: []byte(l.prefix), RangeEnd: namespace(l.prefix).end(), StartRevision: *next, ProgressNotify: true}
	if err := out.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		var r pb.WatchResponse
		if err := out.RecvMsg(&r); err != nil {
			return err
		}
		switch {
		case r.CompactRevision != 0:
			return errMissed
		case r.Canceled:
			return errors.New("the watch was ended: " + r.CancelReason)
		case r.Created && *next == 0:
			*next = r.Header.GetRevision() + 1
			l.keys.watch(true)
		case r.Created:
		default:
			for _, e := range r.Events {
				l.changed(e)
			}
			*next = max(*next, r.Header.GetRevision()+1)
		}
	}
}

// changed takes note of what has become of an ownership key.
func (l *leasing) changed(e *mvccpb.Event) {
	key := strings.TrimPrefix(string(e.Kv.Key), l.prefix)
	switch {
	case e.Type == mvccpb.Event_DELETE:
		l.keys.deleted(key, e.Kv.ModRevision)
		l.revocations.went(string(e.Kv.Key))
	case string(e.Kv.Value) == revokeValue:
		l.keys.wanted(key, e.Kv.CreateRevision, e.Kv.ModRevision, e.Kv.Lease)
	}
}

// leave deletes the ownership keys that are given up, until ctx ends.
func (l *leasing) leave(ctx context.Context) {
	for {
		some := l.keys.goes(leaveAtOnce)
		var wake <-chan struct{}
		if len(some) == 0 {
			wake = l.keys.wake
		}
		var again <-chan time.Time
		if len(some) > 0 {
			if err := l.leaveSome(ctx, some); err == nil {
				l.keys.went(some)
				continue
			}
			again = time.After(leaveAgain) // a session that ends meanwhile takes them along
		}
		select {
		case <-wake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

const (
	leaveAtOnce = 64 // ownership keys that one transaction deletes
	leaveAgain  = 200 * time.Millisecond
)

func (l *leasing) leaveSome(ctx context.Context, some map[string]int64) error {
	ctx, cancel := context.WithTimeout(ctx, sessionLimit)
	defer cancel()
	var r pb.TxnRequest
	for key, created := range some {
		one := []byte(l.prefix + key)
		r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: ifStill(one, created, deleteOp(one))}})
	}
	return l.proxy.invoke(ctx, txn, &r, &pb.TxnResponse{})
}
