package replica

import (
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/mvcc"
	"kvd/internal/state"
)

// Retention says how much of the past a leader keeps of its own accord: so much
// time, or so many revisions. Both zero: all of it, until a client compacts.
type Retention struct {
	Window    time.Duration
	Revisions int64
}

const (
	longestInterval = time.Hour       // between two compactions by Window
	samplesInOne    = 10              // of them
	lookInterval    = 5 * time.Minute // between two by Revisions
)

// compactor decides when a leader compacts, and to which revision. It has no
// clock: the loop asks it on every tick. It goes on sampling on a member that
// does not lead, so that a new leader knows the past.
type compactor struct {
	keep     Retention
	slot     time.Time // when to look again; the slots are a grid, whatever the ticks
	begun    time.Time // slot of the last compaction that went well, or the first
	wait     time.Duration
	samples  []sample  // oldest first; the first alone is more than a step older than Window
	last     int64     // revision of the last compaction that went well
	proposed int64     // and of the one on its way; 0: none
	at       time.Time // slot that it was proposed in
}

// sample is the revision of a moment.
type sample struct {
	at       time.Time
	revision int64
}

// newCompactor returns nil if everything is to be kept.
func newCompactor(keep Retention, now time.Time) *compactor {
	c := &compactor{keep: keep, slot: now, begun: now, wait: keep.Window}
	switch {
	case keep.Window > 0:
		return c
	case keep.Revisions > 0:
		c.slot = now.Add(lookInterval)
		return c
	}
	return nil
}

// interval is the time between two compactions.
func (c *compactor) interval() time.Duration { return min(c.keep.Window, longestInterval) }

// step is the time between two looks. One that came to nothing is made up for
// after it.
func (c *compactor) step() time.Duration {
	if c.keep.Window > 0 {
		return c.interval() / samplesInOne
	}
	return lookInterval
}

// look returns the revision to compact to, if it is time. There is none while
// the last one has not been reported as done.
func (c *compactor) look(now time.Time, revision int64, leading bool) (target int64, due bool) {
	if now.Before(c.slot) {
		return 0, false
	}
	slot := c.slot
	if c.slot = slot.Add(c.step()); !now.Before(c.slot) {
		slot, c.slot = now, now.Add(c.step()) // a slot was missed; a new grid
	}
	if c.keep.Window > 0 {
		target, due = c.byTime(now, slot, revision)
	} else {
		target = revision - c.keep.Revisions
		due = target > 0
	}
	if !due || !leading || c.proposed != 0 || target == c.last {
		return 0, false
	}
	c.proposed, c.at = target, slot
	return target, true
}

// byTime takes a sample and returns the newest that is old enough: a step older
// than the window, as etcd's, whose slots begin with the sample of the one before.
func (c *compactor) byTime(now, slot time.Time, revision int64) (target int64, due bool) {
	c.samples = append(c.samples, sample{now, revision})
	age := func(s sample) time.Duration { return now.Sub(s.at) }
	for len(c.samples) > 1 && age(c.samples[1]) >= c.keep.Window+c.step() {
		c.samples = c.samples[1:]
	}
	if age(c.samples[0]) < c.keep.Window || slot.Sub(c.begun) < c.wait {
		return 0, false
	}
	c.wait = c.interval() // the first one waits for a whole window
	return c.samples[0].revision, true
}

// done reports what became of the revision that look returned.
func (c *compactor) done(ok bool) {
	if ok {
		c.last, c.begun = c.proposed, c.at
	}
	c.proposed = 0
}

// compactKeys proposes a compaction if it is time for one. What it leaves to
// remove goes at the pace of any other.
func (l *loop) compactKeys() {
	if l.compactor == nil {
		return
	}
	target, due := l.compactor.look(l.now, l.r.view.Load().Keys.Revision(), l.core.Leading())
	if !due {
		return
	}
	mode := "periodic"
	if l.compactor.keep.Window == 0 {
		mode = "revision"
	}
	began, log := l.now, l.r.log.With("revision", target)
	log.Info("starting auto " + mode + " compaction")
	l.errands.send(&state.Request{Compaction: &pb.CompactionRequest{Revision: target}}, func(err error) {
		ok := err == nil || errors.Is(err, mvcc.ErrCompacted) // a client was faster
		l.compactor.done(ok)
		if !ok {
			log.Warn("failed auto "+mode+" compaction", "retry-interval", l.compactor.step(), "error", err)
			return
		}
		log.Info("completed auto "+mode+" compaction", "took", l.now.Sub(began))
	})
}
