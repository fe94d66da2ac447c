package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/state"
)

const (
	// maxBehind is how many entries may be committed and not applied before
	// proposals are refused,
	maxBehind = 5000
	// and maxBehindFirst before those are that go first.
	maxBehindFirst = 2 * maxBehind
)

// Propose puts a command into the log and returns what it came to, once that is
// durable and View shows it. It sets the ID in the request's header. Raw, if not
// nil, is the command as the client serialized it (state.Encode).
//
// The request is not looked at after Propose has returned, so its bytes may
// then be used again. Errors are those of this package, those of package state
// (the command was refused; nothing changed) and ctx's own: with the latter,
// and with the timeouts, the command may be executed all the same.
// context.DeadlineExceeded without an end of ctx says that no leader was found
// in time, so that nothing was proposed.
func (r *Replica) Propose(ctx context.Context, request *state.Request, raw []byte) (any, error) {
	if r.behind(request) {
		return nil, ErrTooManyRequests
	}
	if request.Header == nil {
		request.Header = &pb.RequestHeader{}
	}
	request.Header.ID = r.ids.Next()
	began := time.Now()
	data, err := state.Encode(request, raw)
	if err != nil {
		return nil, err
	}
	var reply any
	if len(data) > r.options.MaxRequestBytes {
		err = ErrTooLarge
	} else {
		p := proposal{id: request.Header.ID, kind: raftpb.EntryNormal, data: data}
		reply, err = r.propose(ctx, p, request)
	}
	r.metrics.request(request, err, time.Since(began))
	return reply, err
}

// Change changes the members of the cluster. The errors are those of Propose
// and package member's.
func (r *Replica) Change(ctx context.Context, change member.Change) error {
	if r.behind(nil) {
		return ErrTooManyRequests
	}
	id := r.ids.Next()
	data, err := proto.Marshal(change.Entry(id))
	if err != nil {
		return fmt.Errorf("encode a change of members: %w", err)
	}
	_, err = r.propose(ctx, proposal{id: id, kind: raftpb.EntryConfChange, data: data}, nil)
	return err
}

// behind reports whether too much is waiting to be applied for the request to
// be taken.
func (r *Replica) behind(request *state.Request) bool {
	most := uint64(maxBehind)
	if r.options.RevokesFirst && request != nil && request.LeaseRevoke != nil {
		most = maxBehindFirst
	}
	applied := r.applied.Load() // before commit, which runs ahead of it
	return r.commit.Load() > applied+most
}

func (r *Replica) propose(ctx context.Context, p proposal, request *state.Request) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := r.intake.rent()
	w.request = request
	w.due = r.loop.clock.Load() + int64(r.options.requestTimeout())
	if err := r.intake.propose(p, w); err != nil {
		r.intake.recycle(w)
		return nil, err
	}
	select {
	case a := <-w.done:
		r.intake.recycle(w)
		return a.reply, a.err
	case <-ctx.Done():
	}
	if r.intake.leave(w) {
		r.intake.recycle(w)
		r.metrics.failed.Inc()
		return nil, ctx.Err()
	}
	if request.GetCompaction().GetPhysical() {
		return nil, ctx.Err() // its removals may take long; the answer will find nobody, and its waiter is not used again
	}
	// It is being applied or answered just now. As the applier may be reading
	// the request, which is the caller's again once we return, wait.
	a := <-w.done
	r.intake.recycle(w)
	return a.reply, a.err
}

// Barrier returns when View holds every write that was acknowledged, by any
// member, before the call.
func (r *Replica) Barrier(ctx context.Context) error {
	if r.alone.Load() {
		return nil
	}
	_, err := ask(ctx, r, func(l *loop, reply reply[struct{}]) {
		l.reads.join(waiting[struct{}]{reply, l.now.Add(r.options.requestTimeout())})
	})
	return err
}

// Flush returns when every row applied before the call is in the store.
func (r *Replica) Flush(ctx context.Context) error {
	return r.flusher.do(ctx, func(context.Context) error { return nil })
}

// Deliver takes a message from another member.
func (r *Replica) Deliver(m *raftpb.Message) { r.intake.deliver(m) }

// Pulse returns when loop and applier have both taken notice of the call; when
// the loop has, while the applier may be busy for long, with taking a snapshot over.
func (r *Replica) Pulse(ctx context.Context) error {
	_, err := ask(ctx, r, func(_ *loop, reply reply[struct{}]) {
		if r.installing.Load() {
			reply(struct{}{}, nil) // that is no fault
			return
		}
		r.applier.queue.put(order{pulse: func() { reply(struct{}{}, nil) }})
	})
	return err
}

// Transfer hands leadership to another member and returns when that member
// leads. Only the leader can.
func (r *Replica) Transfer(ctx context.Context, to member.ID) error {
	_, err := ask(ctx, r, func(l *loop, reply reply[struct{}]) {
		l.transfer(uint64(to), waiting[struct{}]{reply, l.now.Add(r.options.requestTimeout())})
	})
	return err
}

// reply answers a call, once. It does not block.
type reply[T any] func(T, error)

// waiting is a call that the loop cannot answer yet.
type waiting[T any] struct {
	reply reply[T]
	due   time.Time
}

// ask has the loop run f, and waits for the reply.
func ask[T any](ctx context.Context, r *Replica, f func(*loop, reply[T])) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	var none T
	err := r.intake.ask(func(l *loop) {
		f(l, func(value T, err error) { done <- result{value, err} })
	})
	if err != nil {
		return none, err
	}
	select {
	case res := <-done:
		return res.value, res.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-r.applier.ended: // the loop ends before the applier
	}
	select {
	case res := <-done:
		return res.value, res.err
	default:
		return none, ErrStopped
	}
}

// ErrTimeoutConnection is ErrTimeout when those were not connected on whom the
// proposal depended.
var ErrTimeoutConnection = errors.New("request timed out, possibly due to connection lost")

// timeoutOf says which error a proposal of start gets when its time is up.
func (r *Replica) timeoutOf(start time.Time) error {
	at := r.standing.Load()
	if !at.since.IsZero() && start.Before(at.since) && start.After(at.since.Add(-2*r.options.Election)) {
		return ErrTimeoutLeaderFailed
	}
	if at.leader != 0 && !r.linked(member.ID(at.leader), start) {
		return ErrTimeoutConnection
	}
	return ErrTimeout
}

// linked reports whether the leader, or a quorum if this member leads, has been
// connected since then.
func (r *Replica) linked(leader member.ID, since time.Time) bool {
	if r.parts.Linked == nil {
		return true
	}
	if leader != member.ID(r.parts.Member) {
		return r.parts.Linked(leader, since)
	}
	members, connected := r.view.Load().Members.Members(), 0
	for _, m := range members {
		if m.ID == leader || r.parts.Linked(m.ID, since) {
			connected++
		}
	}
	return connected > len(members)/2
}
