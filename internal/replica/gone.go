package replica

import (
	"slices"
	"time"

	"kvd/internal/member"
)

// gone is a leader whose process has ended: its port refuses connections, while
// a leader that is merely slow or cut off leaves them unanswered. Nobody has to
// wait for an election timeout then. If others have the same evidence they, too,
// forget the leader, and grant a vote before its lease is over; if not, they
// refuse, and nothing was disturbed, for what is asked for are pre-votes. The same
// goes for a leader that has been removed: it takes no proposal any more.
type gone struct {
	loop  *loop
	next  time.Time // when to campaign; zero: nobody is gone
	until time.Time // then raft's own clock takes over
}

// Refused tells that a member's port refuses connections.
func (r *Replica) Refused(id member.ID) {
	_ = r.intake.ask(func(l *loop) { l.gone.replace(uint64(id), "the leader's process has ended") }) // one that stops does not care
}

// look notices that the leader has no vote any more.
func (g *gone) look() {
	leader := g.loop.core.leader
	if leader != 0 && !slices.Contains(g.loop.core.conf.GetVoters(), leader) {
		g.replace(leader, "the leader was removed")
	}
}

// replace begins to replace the leader. The voters take turns, so that they do
// not split the votes; one whose log is too short loses its turn.
func (g *gone) replace(id uint64, why string) {
	l := g.loop
	voters := l.core.conf.GetVoters()
	if id == 0 || l.core.leader != id || l.core.self == id || !l.r.options.PreVote || !slices.Contains(voters, l.core.self) {
		return
	}
	if err := l.core.Forget(); err != nil {
		l.r.log.Debug("the leader is not forgotten", "error", err)
		return
	}
	l.r.log.Warn(why+"; electing another", "leader", member.ID(id).String())
	turn := 0
	for _, v := range voters {
		if v != id && v < l.core.self {
			turn++
		}
	}
	g.next = l.now.Add(time.Duration(2*turn) * l.r.options.Heartbeat)
	g.until = l.now.Add(l.r.options.Election)
}

// tick campaigns when it is this member's turn.
func (g *gone) tick() {
	l := g.loop
	switch {
	case g.next.IsZero():
	case l.core.leader != 0 || l.core.Leading() || l.now.After(g.until):
		g.next = time.Time{}
	case !l.now.Before(g.next):
		if err := l.core.Campaign(); err != nil {
			l.r.log.Debug("election not started", "error", err)
		}
		g.next = l.now.Add(time.Duration(2*len(l.core.conf.GetVoters())) * l.r.options.Heartbeat)
	}
}
