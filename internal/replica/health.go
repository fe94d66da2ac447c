package replica

import (
	"log/slog"
	"math"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/sd"
)

const (
	// suspended heartbeat intervals without a turn of the loop put a leader in
	// doubt: the process stood still, and another may lead by now.
	suspended = 3
	// startGrace is how long a member that has just started looks whether the
	// others are up, so that it need not wait a whole election timeout.
	startGrace = 5 * time.Second
)

// health watches over this member's fitness to lead. A leader whose disk does
// not answer could go on heartbeating for ever; one that stood still may have
// been deposed without knowing it. The loop owns it.
type health struct {
	loop     *loop
	turned   time.Time // when the loop last looked at the clock
	begun    time.Time // the first time
	advanced bool      // the election's clock has been put forward, or need not be
	oldest   time.Time // since when the appender owes an answer; zero: it does not
	applied  uint64    // where the applier was,
	idle     time.Time // and since when, while it has something to do
	muted    bool      // said so in the log
	doubt    bool      // whether it still leads has to be asked
	asking   bool
}

// look notices that the process stood still.
func (h *health) look() {
	now := h.loop.now
	late := !h.turned.IsZero() && now.Sub(h.turned) > suspended*h.loop.r.options.Heartbeat
	h.turned = now
	if late { // the disk and the applier may have stood still with it
		h.idle = now
		if !h.oldest.IsZero() {
			h.oldest = now
		}
	}
	if late && h.loop.core.Leading() && !h.loop.core.Alone() {
		h.doubt = true
	}
	h.confirm()
}

// confirm asks the others, by a read round, whether this member still leads.
func (h *health) confirm() {
	l := h.loop
	if !h.doubt || h.asking {
		return
	}
	h.asking = true
	l.reads.join(waiting[struct{}]{func(_ struct{}, err error) {
		h.asking = false
		if err == nil {
			h.doubt = false
			l.renewals.caughtUp(math.MaxUint64)
		}
	}, l.now.Add(l.r.options.requestTimeout())})
}

func (h *health) appends() {
	if h.oldest.IsZero() {
		h.oldest = h.loop.now
	}
}

func (h *health) wrote() {
	h.oldest = time.Time{}
	if h.loop.appending > 0 {
		h.oldest = h.loop.now
	}
}

// stalled is how long the log's disk has owed an answer, or the applier has not
// moved though it has work, which it may do a few times as long.
func (h *health) stalled() time.Duration {
	l := h.loop
	var stalled time.Duration
	if !h.oldest.IsZero() {
		stalled = l.now.Sub(h.oldest)
	}
	applied := l.r.applied.Load()
	if h.idle.IsZero() || applied != h.applied || applied >= l.handed || l.r.installing.Load() {
		h.applied, h.idle = applied, l.now
	}
	return max(stalled, l.now.Sub(h.idle)/4)
}

// tick passes one heartbeat interval on to raft.
func (h *health) tick() {
	l := h.loop
	if h.begun.IsZero() {
		h.begun = l.now
	}
	limit := 2 * l.r.options.Election
	stalled := h.stalled() >= limit
	if stalled != h.muted {
		h.muted = stalled
		if stalled {
			l.r.log.Error("the disk does not answer; this member does not lead until it does", sd.Message(sd.MessageDisk), slog.Duration("waited", limit))
		} else {
			l.r.log.Info("the disk answers again")
		}
	}
	if stalled && !l.core.Leading() {
		return // time stands still: it does not stand for election
	}
	l.core.Tick()
	h.advance()
}

// advance puts the election's clock forward once, when the others turn out to be
// up: whoever leads has had time to say so.
func (h *health) advance() {
	l := h.loop
	switch {
	case h.advanced:
	case !l.r.options.AdvanceTicks, l.core.leader != 0, l.now.Sub(h.begun) > startGrace:
		h.advanced = true
	case l.r.parts.Connected() > 1:
		h.advanced = true
		for range int(l.r.options.Election/l.r.options.Heartbeat) - 2 {
			l.core.Tick()
		}
	}
}

// mute holds back what keeps the others from electing somebody else while this
// member's disk does not answer. Raft then finds it without a quorum.
func (h *health) mute(send []*raftpb.Message) []*raftpb.Message {
	if !h.muted {
		return send
	}
	kept := send[:0:0]
	for _, m := range send {
		switch m.GetType() {
		case raftpb.MsgHeartbeat, raftpb.MsgApp, raftpb.MsgSnap:
		default:
			kept = append(kept, m)
		}
	}
	return kept
}
