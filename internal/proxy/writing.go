package proxy

import (
	"context"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// writePatience is how long a write waits for others to give its keys up. An
	// owner that is gone loses its keys after a minute, if it is etcd's.
	writePatience = 75 * time.Second
	soon          = 5 * time.Millisecond
	askAgain      = time.Second // between two looks whether a key has been given up, if nothing is heard of it
	maxWaiting    = 1024        // writes that wait at once
	mostGuards    = 32          // keys that are guarded one by one; members take 128 in a transaction
	mostBlockers  = 64          // ownership keys that are looked at together
	revokeValue   = "REVOKE"    // what an owner is asked with
)

var (
	errWaiting  = status.Error(codes.ResourceExhausted, "kvd proxy: too many writes wait for keys that others own")
	errNotGiven = status.Error(codes.Unavailable, "kvd proxy: the key is owned by another proxy or client, which does not give it up; nothing was written")
)

// span is a range of keys, or one key if it has no end. It is of the leasing
// proxy's clients: not in the namespace yet.
type span struct{ key, end string }

// holds reports whether a key is in the span.
func (s span) holds(key string) bool {
	switch s.end {
	case "":
		return key == s.key
	case "\x00":
		return key >= s.key
	}
	return key >= s.key && key < s.end
}

// writing is a write under way.
type writing struct {
	owned   *owned
	entries []*entry // of ours that it touches
	guards  []guard
}

// guard is that a write is only done if no ownership key of a span was created
// behind a revision, which is that of our own.
type guard struct {
	span  span // of ownership keys
	owned int64
}

// begin marks the keys that a write touches: what they hold is not known until it
// ends. Whole ranges are given up.
func (o *owned) begin(prefix string, spans []span) *writing {
	w := &writing{owned: o}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range spans {
		if s.end != "" {
			for _, e := range o.all {
				if s.holds(e.key) || s.holds(prefix+e.key) {
					o.giveUpLocked(e)
				}
			}
			w.guards = append(w.guards, rangeGuards(prefix, s)...)
			continue
		}
		g := guard{span: span{key: prefix + s.key}}
		if e := o.all[s.key]; e != nil {
			e.writes++
			e.changes++
			e.known = false
			w.entries = append(w.entries, e)
			g.owned = e.created
		}
		w.guards = append(w.guards, g)
	}
	return w
}

// rangeGuards guard the ownership of the keys in a range, and the ownership keys
// that are in it themselves.
func rangeGuards(prefix string, s span) []guard {
	end := string(namespace(prefix).end())
	g := guard{span: span{prefix + s.key, prefix + s.end}}
	if s.end == "\x00" {
		g.span.end = end
	}
	guards := []guard{g}
	if low := max(s.key, prefix); s.end == "\x00" || low < s.end {
		if s.end != "\x00" && (end == "\x00" || s.end < end) {
			end = s.end
		}
		if low < end || end == "\x00" {
			guards = append(guards, guard{span: span{low, end}})
		}
	}
	return guards
}

// end is that the write is over. One of which nobody knows whether it is done, or
// will be, costs the ownership: when that is new, the write cannot be done any more.
func (w *writing) end(err error) {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	for _, e := range w.entries {
		e.writes--
		if unsure(err) && w.owned.all[e.key] == e {
			w.owned.giveUpLocked(e)
		}
	}
}

// unsure reports whether a write that failed with err may be done all the same.
func unsure(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange,
		codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted, codes.Unimplemented:
		return false
	}
	return true
}

// spansWritten are what operations may write, whichever are done.
func spansWritten(ops []*pb.RequestOp) (all []span) {
	for _, op := range ops {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			all = append(all, span{key: string(r.RequestPut.GetKey())})
		case *pb.RequestOp_RequestDeleteRange:
			d := r.RequestDeleteRange
			all = append(all, span{string(d.GetKey()), string(d.GetRangeEnd())})
		case *pb.RequestOp_RequestTxn:
			all = append(all, spansWritten(r.RequestTxn.GetSuccess())...)
			all = append(all, spansWritten(r.RequestTxn.GetFailure())...)
		}
	}
	return all
}

// narrow makes many single keys one range, each key once, and leaves out those that
// are ownership keys: who writes them plays the protocol.
func narrow(prefix string, all []span) []span {
	var spans []span
	seen := map[span]bool{}
	low, high := "", ""
	for _, s := range all {
		if seen[s] || s.end == "" && strings.HasPrefix(s.key, prefix) {
			continue
		}
		if len(seen) == 0 {
			low, high = s.key, s.key
		}
		seen[s] = true
		low, high = min(low, s.key), max(high, s.key, s.end)
		spans = append(spans, s)
	}
	if len(spans) <= mostGuards {
		return spans
	}
	for s := range seen {
		if s.end == "\x00" {
			return []span{{low, "\x00"}}
		}
	}
	return []span{{low, high + "\x00"}}
}

// write does an operation of a caller once none of the keys that it writes is
// owned by anybody else.
func (l *leasing) write(c *call, op *pb.RequestOp, spans []span) (*pb.TxnResponse, error) {
	patience := time.Now().Add(writePatience)
	for try := 1; ; try++ {
		w := l.keys.begin(l.prefix, spans)
		var r pb.TxnResponse
		err := l.proxy.invoke(c.ctx, txn, w.txn(op), &r)
		w.end(err)
		if err != nil {
			return nil, err
		}
		l.sees(r.Header)
		if r.Succeeded {
			return &r, nil
		}
		if err := l.clear(c.ctx, try, patience, r.Responses); err != nil {
			return nil, err
		}
	}
}

// txn is the operation, guarded. If it is not done it tells who is in the way.
func (w *writing) txn(op *pb.RequestOp) *pb.TxnRequest {
	r := &pb.TxnRequest{Success: []*pb.RequestOp{op}}
	for _, g := range w.guards {
		r.Compare = append(r.Compare, &pb.Compare{
			Key: []byte(g.span.key), RangeEnd: []byte(g.span.end), Target: pb.Compare_CREATE, Result: pb.Compare_LESS,
			TargetUnion: &pb.Compare_CreateRevision{CreateRevision: g.owned + 1},
		})
		r.Failure = append(r.Failure, rangeOp(&pb.RangeRequest{
			Key: []byte(g.span.key), RangeEnd: []byte(g.span.end), MinCreateRevision: g.owned + 1, Limit: mostBlockers,
		}))
	}
	return r
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// clear has those give keys up that are in the way, and waits for them, for a
// while.
func (l *leasing) clear(ctx context.Context, try int, patience time.Time, found []*pb.ResponseOp) error {
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		return errWaiting
	}
	var waits []*wait
	defer func() {
		for _, w := range waits {
			l.revocations.leave(w)
		}
	}()
	for _, one := range found {
		for _, kv := range one.GetResponseRange().GetKvs() {
			wait, err := l.revoke(ctx, kv)
			if err != nil {
				return err
			}
			if wait != nil {
				waits = append(waits, wait)
			}
		}
	}
	pause := askAgain
	if len(waits) == 0 { // it should be free now
		pause = min(time.Duration(try-1)*soon, askAgain)
	}
	again := time.NewTimer(pause)
	defer again.Stop()
	for len(waits) > 0 || pause > 0 {
		var over chan struct{}
		if len(waits) > 0 {
			over = waits[0].over
		}
		select {
		case <-over:
			l.revocations.leave(waits[0])
			waits = waits[1:]
			pause = 0
			continue
		case <-again.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		break
	}
	if time.Now().After(patience) {
		return errNotGiven
	}
	return nil
}

// revoke has one key given up. If that is another's, it returns what to wait for.
func (l *leasing) revoke(ctx context.Context, kv *mvccpb.KeyValue) (*wait, error) {
	key := strings.TrimPrefix(string(kv.Key), l.prefix)
	if l.keys.ours(kv.Lease) {
		if l.keys.holds(key, kv.CreateRevision) {
			return nil, nil // it was not, when the write began
		}
		l.keys.orphan(key, kv.CreateRevision)
		return nil, l.proxy.invoke(ctx, txn, ifStill(kv.Key, kv.CreateRevision, deleteOp(kv.Key)), &pb.TxnResponse{})
	}
	wait := l.revocations.enter(string(kv.Key))
	if string(kv.Value) == revokeValue {
		return wait, nil // somebody has asked
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
		Key: kv.Key, Value: []byte(revokeValue), IgnoreLease: true,
	}}}
	var r pb.TxnResponse
	if err := l.proxy.invoke(ctx, txn, ifStill(kv.Key, kv.CreateRevision, put), &r); err != nil {
		l.revocations.leave(wait)
		return nil, err
	}
	l.sees(r.Header)
	if !r.Succeeded { // it is gone already
		l.revocations.leave(wait)
		return nil, nil
	}
	return wait, nil
}

// ifStill does something to an ownership key if it is the one that was created at
// a revision.
func ifStill(key []byte, created int64, do *pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: created},
		}},
		Success: []*pb.RequestOp{do},
	}
}

func deleteOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

// outcome is a member's answer to the operation alone.
func outcome(done *pb.TxnResponse) (proto.Message, error) {
	if len(done.Responses) == 1 {
		switch r := done.Responses[0].Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			r.ResponsePut.Header = done.Header
			return r.ResponsePut, nil
		case *pb.ResponseOp_ResponseDeleteRange:
			r.ResponseDeleteRange.Header = done.Header
			return r.ResponseDeleteRange, nil
		case *pb.ResponseOp_ResponseTxn:
			r.ResponseTxn.Header = done.Header
			return r.ResponseTxn, nil
		}
	}
	return nil, status.Error(codes.Internal, "kvd proxy: a member's answer to a transaction is malformed")
}
