package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

const (
	leaseIDs   = 5
	stepTime   = 10 * time.Millisecond // what one step is for a lease
	mostTTL    = 4                     // seconds: 400 steps
	handover   = 25 * time.Second      // what a new leader adds: an old one may not have noticed for so long
	expireMost = 10
)

// clock is the time by which leases end. All members have the same.
func (w *world) clock() time.Time { return time.Unix(0, 0).Add(time.Duration(w.now) * stepTime) }

// promises is what the holders of leases were told, and who asked for what.
type promises struct {
	until   map[lease.ID]time.Time // not before this may a lease end by itself
	asked   map[uint64]time.Time   // grants, by request ID: when
	expired map[uint64]uint64      // revocations by a leader, by request ID: the leader
	applied uint64                 // entries up to here were judged
	newest  int64                  // ID of a lease

	granted, renewed, ended int
}

func newPromises() promises {
	return promises{until: map[lease.ID]time.Time{}, asked: map[uint64]time.Time{}, expired: map[uint64]uint64{}}
}

// lease has somebody take, renew, use or give back a lease.
func (w *world) lease() {
	n := w.some(works)
	if n == nil {
		return
	}
	// No ID is given twice: an entry that ends a lease names the ID alone.
	id := lease.ID(max(1, w.promises.newest-int64(w.random.IntN(leaseIDs))))
	switch w.random.IntN(12) {
	case 0, 1, 2:
		w.promises.newest++
		id = lease.ID(w.promises.newest)
		ttl := int64(w.random.IntN(mostTTL) + 1)
		w.promises.asked[w.request+1] = w.clock()
		w.note("member %d: lease %d for %d s, request %d", n.id, id, ttl, w.request+1)
		w.propose(n, nil, &state.Request{LeaseGrant: &pb.LeaseGrantRequest{ID: int64(id), TTL: ttl}})
	case 3:
		w.propose(n, nil, &state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(id)}})
	case 4:
		w.propose(n, nil, &state.Request{Put: &pb.PutRequest{Key: fmt.Append(nil, "leased", id), Lease: int64(id)}})
	default:
		n.renew(id)
	}
}

// office begins or ends the keeping of deadlines: a leader keeps them that has
// applied all that was agreed on before it.
func (n *node) office() {
	switch {
	case n.led == 0 && n.inOffice:
		n.inOffice = false
		if n.w.bug != staleDeadlines {
			n.deadlines.Clear()
		}
	case n.led != 0 && !n.inOffice:
		n.inOffice, n.doubts = true, 0
		n.deadlines.Promote(n.view.Leases, n.w.clock(), handover)
		for _, l := range n.view.Leases.All() { // who may have renewed it at the old leader
			n.w.promises.promise(l.ID, n.w.clock().Add(time.Duration(l.TTL)*time.Second))
		}
	}
}

// doubt is for a leader that stood still: until a round of reads tells it that it
// leads, it decides nothing.
func (n *node) doubt() {
	n.w.request++
	n.doubts = n.w.request
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], n.doubts)
	n.core.Read(id)
	n.work()
}

func (n *node) renew(id lease.ID) {
	now := n.w.clock()
	at, known := n.deadlines.Deadline(id)
	found, ok := n.view.Leases.Lease(id)
	if !n.inOffice || n.doubts != 0 || !known || !ok || !at.After(now) {
		return
	}
	until := now.Add(time.Duration(found.TTL) * time.Second)
	n.deadlines.Set(id, until)
	n.w.promises.promise(id, until)
	n.w.promises.renewed++
	n.w.note("member %d renews lease %d", n.id, id)
}

// expire proposes the end of leases that are over.
func (n *node) expire() {
	if (!n.inOffice || n.doubts != 0) && n.w.bug != staleDeadlines {
		return
	}
	for _, id := range n.deadlines.Expired(n.w.clock(), expireMost) {
		n.w.note("member %d finds lease %d at its end, request %d", n.id, id, n.w.request+1)
		n.w.promises.expired[n.w.request+1] = n.id
		if n.w.propose(n, nil, &state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(id)}}) {
			n.deadlines.Proposed(id)
		}
	}
}

// follow is told of what an entry has done to leases.
func (n *node) follow(index, request uint64, changes []state.LeaseChange) {
	for _, c := range changes {
		n.w.promises.judge(n.w, index, request, c)
		switch {
		case c.Ended:
			n.deadlines.Remove(c.Lease.ID)
		case n.inOffice:
			if _, known := n.deadlines.Deadline(c.Lease.ID); !known {
				n.deadlines.Set(c.Lease.ID, n.w.clock().Add(time.Duration(c.Lease.TTL)*time.Second))
			}
		}
	}
}

func (p *promises) promise(id lease.ID, until time.Time) {
	if until.After(p.until[id]) {
		p.until[id] = until
	}
}

// judge checks, where an entry is applied first, that no leader has ended a lease
// before the time that its holder was promised.
func (p *promises) judge(w *world, index, request uint64, c state.LeaseChange) {
	if index <= p.applied {
		return
	}
	p.applied = index
	id := c.Lease.ID
	w.note("entry %d, request %d: lease %d, ended: %v", index, request, id, c.Ended)
	if !c.Ended {
		p.granted++
		p.until[id] = p.asked[request].Add(time.Duration(c.Lease.TTL) * time.Second)
		return
	}
	if by, itself := p.expired[request]; itself {
		p.ended++
		w.check(!w.clock().Before(p.until[id]), "member %d has ended lease %d %v early", by, id, p.until[id].Sub(w.clock()))
	}
	delete(p.until, id)
}
