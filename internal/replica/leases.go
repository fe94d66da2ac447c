package replica

import (
	"context"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

const (
	expiryInterval = 500 * time.Millisecond
	expiryBatch    = 500         // leases revoked in one go
	catchUpTimeout = time.Second // for what is committed to be applied
)

// Renew gives a lease its full time again and returns its TTL in seconds. Only
// the leader can. For a lease that is over but not yet revoked it waits, and
// ends with lease.ErrNotFound as for one that never was.
func (r *Replica) Renew(ctx context.Context, id lease.ID) (ttl int64, err error) {
	return ask(ctx, r, func(l *loop, reply reply[int64]) { l.renewals.renew(id, reply) })
}

// RenewNow renews leases in their order, up to the first that takes more than a
// look: one that is over, say, or all if this member is not in office. It returns
// how many it has renewed and puts their TTLs, in seconds, into ttls, which must be
// as long as ids. One call of the loop does for all.
func (r *Replica) RenewNow(ctx context.Context, ids []lease.ID, ttls []int64) (n int, err error) {
	return ask(ctx, r, func(l *loop, reply reply[int]) {
		n := 0
		for n < len(ids) {
			ttl, ok := l.renewals.now(ids[n])
			if !ok {
				break
			}
			ttls[n] = ttl
			n++
		}
		reply(n, nil)
	})
}

// Remaining is the time that a lease has left; it is negative for one that is
// over but not yet revoked. Only the leader can tell.
func (r *Replica) Remaining(ctx context.Context, id lease.ID) (time.Duration, error) {
	return ask(ctx, r, func(l *loop, reply reply[time.Duration]) { l.renewals.remaining(id, reply) })
}

// Leases are all leases, in the order in which they end on the leader; another
// member does not know it and returns them by ID.
func (r *Replica) Leases(ctx context.Context) ([]lease.ID, error) {
	return ask(ctx, r, func(l *loop, reply reply[[]lease.ID]) {
		if l.core.Leading() && l.led != 0 {
			reply(l.renewals.deadlines.Order(), nil)
			return
		}
		var ids []lease.ID
		for _, found := range l.r.view.Load().Leases.All() {
			ids = append(ids, found.ID)
		}
		reply(ids, nil)
	})
}

// renewals keeps the deadlines of leases on the leader, lets who holds one move
// it, and proposes the end of those that have passed. The loop owns it.
type renewals struct {
	loop      *loop
	deadlines lease.Deadlines // empty unless this member leads
	scan      time.Time       // when to look for passed deadlines again
	revokes   []revocation    // to propose
	revoking  map[lease.ID]bool
	ending    map[lease.ID][]reply[int64] // renewals of leases that are over
	resets    map[lease.ID][]reply[int64] // and those that wait for a checkpoint to be taken back
	parked    []parked
}

// revocation is an entry that ends a lease.
type revocation struct {
	id   lease.ID
	data []byte
}

// parked is a call that waits for an index to be applied, or for this member,
// which has won its election, to be in office.
type parked struct {
	index uint64
	due   time.Time
	again func()
	fail  func(error)
}

func newRenewals(l *loop) renewals {
	return renewals{
		loop: l, deadlines: lease.Deadlines{Retry: l.r.options.requestTimeout(), Checkpoints: l.r.options.LeaseCheckpoints},
		revoking: map[lease.ID]bool{}, ending: map[lease.ID][]reply[int64]{}, resets: map[lease.ID][]reply[int64]{},
	}
}

// now renews a lease if nothing stands in the way.
func (rn *renewals) now(id lease.ID) (ttl int64, ok bool) {
	l := rn.loop
	if !l.core.Leading() || l.health.doubt || l.led == 0 {
		return 0, false
	}
	found, ok := l.r.view.Load().Leases.Lease(id)
	if !ok || rn.deadlines.Checkpoints && found.Remaining > 0 {
		return 0, false
	}
	if at, ok := rn.deadlines.Deadline(id); ok && !at.After(l.now) {
		return 0, false
	}
	return rn.extend(found), true
}

// extend gives a lease its time again, and returns its TTL.
func (rn *renewals) extend(found lease.Lease) (ttl int64) {
	rn.deadlines.Set(found.ID, rn.loop.now.Add(seconds(found.Left())))
	rn.loop.r.metrics.renewed.Inc()
	return found.TTL
}

func (rn *renewals) renew(id lease.ID, answer reply[int64]) {
	if ttl, ok := rn.now(id); ok {
		answer(ttl, nil)
		return
	}
	l := rn.loop
	fail := func(err error) { answer(0, err) }
	again := func() { rn.renew(id, answer) }
	if !rn.inOffice(again, fail) {
		return
	}
	found, ok := l.r.view.Load().Leases.Lease(id)
	if !ok {
		if !rn.park(again, fail) {
			fail(lease.ErrNotFound)
		}
		return
	}
	if at, ok := rn.deadlines.Deadline(id); ok && !at.After(l.now) {
		rn.ending[id] = append(rn.ending[id], answer)
		return
	}
	if rn.deadlines.Checkpoints && found.Remaining > 0 {
		rn.reset(id, answer)
		return
	}
	answer(rn.extend(found), nil)
}

func (rn *renewals) remaining(id lease.ID, answer reply[time.Duration]) {
	fail := func(err error) { answer(0, err) }
	again := func() { rn.remaining(id, answer) }
	if !rn.inOffice(again, fail) || rn.park(again, fail) {
		return
	}
	found, ok := rn.loop.r.view.Load().Leases.Lease(id)
	if !ok {
		fail(lease.ErrNotFound)
		return
	}
	left := seconds(found.Left())
	if at, ok := rn.deadlines.Deadline(id); ok {
		left = at.Sub(rn.loop.now)
	}
	answer(left, nil)
}

func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(n, most)) * time.Second
}

// inOffice reports whether this member may decide about leases. If it is about
// to, the call is parked, else it has failed.
func (rn *renewals) inOffice(again func(), fail func(error)) bool {
	l := rn.loop
	switch {
	case !l.core.Leading():
		fail(ErrNotLeader)
		return false
	case l.health.doubt:
		rn.parked = append(rn.parked, parked{math.MaxUint64, l.now.Add(catchUpTimeout), again, fail})
		return false
	case l.led == 0:
		rn.parked = append(rn.parked, parked{l.core.commit + 1, l.now.Add(catchUpTimeout), again, fail})
		return false
	}
	return true
}

// park parks the call if something committed is not applied.
func (rn *renewals) park(again func(), fail func(error)) bool {
	l := rn.loop
	if l.r.applied.Load() >= l.core.commit {
		return false
	}
	rn.parked = append(rn.parked, parked{l.core.commit, l.now.Add(catchUpTimeout), again, fail})
	return true
}

// caughtUp lets those try again who waited for an index up to this one.
func (rn *renewals) caughtUp(index uint64) {
	was := rn.parked
	rn.parked = nil
	for _, p := range was {
		if p.index <= index {
			p.again()
		} else {
			rn.parked = append(rn.parked, p)
		}
	}
}

// note follows what has become of leases in the log.
func (rn *renewals) note(changes []state.LeaseChange) {
	now := time.Now()
	for _, c := range changes {
		id := c.Lease.ID
		if c.Ended {
			rn.deadlines.Remove(id)
			if rn.revoking[id] {
				delete(rn.revoking, id)
				rn.loop.r.metrics.expired.Inc()
			}
			rn.release(id, lease.ErrNotFound)
			continue
		}
		if rn.loop.led == 0 {
			continue
		}
		rn.deadlines.SetNew(id, now.Add(seconds(c.Lease.Left())))
		rn.deadlines.Schedule(c.Lease, now)
	}
}

func (rn *renewals) release(id lease.ID, err error) {
	for _, answer := range rn.ending[id] {
		answer(0, err)
	}
	delete(rn.ending, id)
}

// promote begins to keep deadlines: this member leads, and has applied all that
// was agreed on before. Nobody knows when the leases were renewed last, so all
// get their time again, and what the election took.
func (rn *renewals) promote() {
	l := rn.loop
	rn.deadlines.Clear()
	rn.deadlines.Promote(l.r.view.Load().Leases, time.Now(), l.r.options.Election)
	rn.caughtUp(^uint64(0))
}

// demote forgets the deadlines: another member keeps them now.
func (rn *renewals) demote() { rn.fail(ErrNotLeader) }

func (rn *renewals) fail(err error) {
	rn.deadlines.Clear()
	rn.revokes = nil
	clear(rn.revoking)
	for id := range rn.ending {
		rn.release(id, err)
	}
	for id := range rn.resets {
		for _, answer := range rn.takeResets(id) {
			answer(0, err)
		}
	}
	was := rn.parked
	rn.parked = nil
	for _, p := range was {
		p.fail(err)
	}
}

// tick sends away who has waited too long, and now and then looks for leases
// that are over.
func (rn *renewals) tick() {
	l := rn.loop
	was := rn.parked
	rn.parked = nil
	for _, p := range was {
		if l.now.Before(p.due) {
			rn.parked = append(rn.parked, p)
		} else {
			p.fail(ErrTimeoutApply)
		}
	}
	if l.led == 0 || l.health.doubt || l.now.Before(rn.scan) {
		return
	}
	rn.scan = l.now.Add(expiryInterval)
	if !l.r.behind(&state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{}}) {
		rn.revoke()
	}
	if !l.r.behind(nil) {
		rn.checkpoint()
	}
}

// revoke proposes the end of leases that are over.
func (rn *renewals) revoke() {
	l := rn.loop
	for _, id := range rn.deadlines.Expired(l.now, expiryBatch) {
		request := &state.Request{
			Header:      l.r.own(l.r.ids.Next()),
			LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(id)},
		}
		data, err := state.Encode(request, nil)
		if err != nil {
			l.r.log.Error("lease not revoked", "lease", int64(id), "error", err)
			continue
		}
		rn.revoking[id] = true
		rn.revokes = append(rn.revokes, revocation{id, data})
	}
}

// takeRevokes returns the entries to propose. Who does not lead any more has none:
// raft would pass them on to the leader, who may have renewed the lease.
func (rn *renewals) takeRevokes() []revocation {
	taken := rn.revokes
	rn.revokes = nil
	if rn.loop.led == 0 || !rn.loop.core.Leading() {
		return nil
	}
	return taken
}

// proposed is told which revocations are in the log. The others are made again
// after the request timeout.
func (rn *renewals) proposed(taken []revocation) {
	for _, one := range taken {
		rn.deadlines.Proposed(one.id)
	}
}
