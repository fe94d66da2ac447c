package lease

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// CheckpointInterval is how often the time left of a long lease is noted.
	CheckpointInterval = 5 * time.Minute

	defaultRetry = 7 * time.Second

	// With this many leases a new leader spreads their ends, so that those
	// that would end together do not take all that may be revoked.
	crowd     = 1000
	perSecond = 750 // of a crowd, at most
)

// Deadlines is the leader's list of when leases end. It is nobody's but the
// leader's: a deadline is never in the log. The zero value is empty.
type Deadlines struct {
	Retry       time.Duration // until what was returned as due is returned again; 0 is 7 s
	Checkpoints bool          // whether Schedule and Promote plan any

	ends   queue // of every lease; one whose end is proposed has left the heap
	checks queue
}

// Set lets the lease end at the time, whatever was set before.
func (d *Deadlines) Set(id ID, at time.Time) { d.ends.set(id, at) }

// SetNew is Set for a lease that has no deadline yet; others keep theirs.
func (d *Deadlines) SetNew(id ID, at time.Time) { d.ends.setNew(id, at) }

// Remove forgets a lease.
func (d *Deadlines) Remove(id ID) {
	d.ends.remove(id)
	d.checks.remove(id)
}

// Clear forgets every lease: the member leads no more.
func (d *Deadlines) Clear() { d.ends, d.checks = queue{}, queue{} }

// Len is the number of leases.
func (d *Deadlines) Len() int { return len(d.ends.byID) }

// Deadline is when the lease ends, or has ended.
func (d *Deadlines) Deadline(id ID) (at time.Time, ok bool) {
	e, ok := d.ends.byID[id]
	if !ok {
		return time.Time{}, false
	}
	return e.at, true
}

// Order returns every lease, the one that ends first in front.
func (d *Deadlines) Order() []ID {
	all := slices.SortedFunc(maps.Values(d.ends.byID), func(a, b *entry) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.id, b.id))
	})
	ids := make([]ID, len(all))
	for i, e := range all {
		ids[i] = e.id
	}
	return ids
}

// Next is when Expired may have something to return.
func (d *Deadlines) Next() (at time.Time, ok bool) {
	if len(d.ends.heap) == 0 {
		return time.Time{}, false
	}
	return d.ends.heap[0].due, true
}

// Expired returns up to most leases that have ended, the longest ended first.
// A lease is returned again after Retry, until it is removed, set anew, or its
// revocation is Proposed.
func (d *Deadlines) Expired(now time.Time, most int) []ID {
	var ids []ID
	for len(ids) < most {
		id, ok := d.ends.due(now)
		if !ok {
			break
		}
		d.ends.postpone(id, now.Add(d.retry()))
		ids = append(ids, id)
	}
	return ids
}

// Proposed says that the revocation is in the leader's log, where it stays for as
// long as that one leads. A second one could end a lease that was granted under
// the same ID behind the first.
func (d *Deadlines) Proposed(id ID) { d.ends.rest(id) }

func (d *Deadlines) retry() time.Duration { return cmp.Or(d.Retry, defaultRetry) }

// Promote sets every lease anew, by the clock of a new leader: nobody knows
// what the last one had promised, so each gets what it has left at its last
// checkpoint, or all of its time, and extend on top.
func (d *Deadlines) Promote(v View, now time.Time, extend time.Duration) {
	d.Clear()
	type term struct {
		id   ID
		left time.Duration
	}
	terms := make([]term, 0, v.Len())
	for _, l := range v.All() {
		terms = append(terms, term{l.ID, seconds(l.Left())})
		d.Set(l.ID, now.Add(extend+seconds(l.Left())))
		d.Schedule(l, now)
	}
	if len(terms) < crowd {
		return
	}
	slices.SortStableFunc(terms, func(a, b term) int { return cmp.Compare(a.left, b.left) })
	from := terms[0].left
	to := from + time.Second
	n := 0
	for _, t := range terms {
		if t.left > to { // a new window
			from, to, n = t.left, t.left+time.Second, 1
			continue
		}
		if n++; n <= perSecond {
			continue
		}
		// The n-th of a window ends n/perSecond seconds after its beginning.
		delay := time.Duration(float64(time.Second)*float64(n)/perSecond) - (t.left - from)
		to = from + delay
		d.Set(t.id, now.Add(extend+t.left+delay))
	}
}

// Checkpoint is what a lease has left, in seconds.
type Checkpoint struct {
	ID        ID
	Remaining int64
}

// Schedule plans the next checkpoint of a lease that was granted or
// checkpointed now. A short one has none.
func (d *Deadlines) Schedule(l Lease, now time.Time) {
	if d.Checkpoints && seconds(l.Left()) > CheckpointInterval {
		d.checks.set(l.ID, now.Add(CheckpointInterval))
		return
	}
	d.checks.remove(l.ID)
}

// DueCheckpoints returns up to most checkpoints to be put in the log. Once
// applied, the lease is to be scheduled again; until then it is returned again
// after Retry, as by Expired.
func (d *Deadlines) DueCheckpoints(v View, now time.Time, most int) []Checkpoint {
	var checkpoints []Checkpoint
	for len(checkpoints) < most {
		id, ok := d.checks.due(now)
		if !ok {
			break
		}
		l, known := v.Lease(id)
		at, running := d.Deadline(id)
		if !known || !running || !now.Before(at) {
			d.checks.remove(id)
			continue
		}
		left := int64(math.Ceil(at.Sub(now).Seconds()))
		if left >= l.TTL { // just renewed
			d.Schedule(l, now)
			continue
		}
		d.checks.postpone(id, now.Add(d.retry()))
		checkpoints = append(checkpoints, Checkpoint{id, left})
	}
	return checkpoints
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
