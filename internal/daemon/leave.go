package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kvd/internal/member"
)

// removalGrace is how long a member goes on that has applied its own removal, so
// that the others hear from it that the change is committed.
const removalGrace = time.Second

// lingering is how long a leader that was removed waits for the last voter to
// take over.
const lingering = 30 * time.Second

// RemovedError says that the cluster has removed this member. Starting it again
// is of no use.
type RemovedError struct {
	Member  member.ID
	DataDir string
}

func (e *RemovedError) Error() string {
	return fmt.Sprintf("member %s has been permanently removed from the cluster; the data-dir used by this member must be removed: "+
		"move %s away, and add the host as a new member to use it again", e.Member, e.DataDir)
}

// removed is what ends a member that the cluster does not know any more.
func (m *running) removed() *RemovedError {
	return &RemovedError{m.opened.ID, m.config.Member.DataDir}
}

// follow takes a new membership to who has to know of it: the transport, and
// this member itself if it is not in it any more.
func (m *running) follow(v member.View) {
	m.transport.Follow(v)
	if v.Removed(m.opened.ID) {
		select {
		case m.gone <- struct{}{}:
		default:
		}
	}
}

// linger reports whether a member that was removed has to go on for a while. Of
// two voters the one that stays cannot go on alone before it knows that the
// removal is committed, which it hears from the leader or finds out as a leader
// with the other's help. So if this member still leads, it lets the last voter
// take over.
func (m *running) linger(ctx context.Context) bool {
	voters := m.otherVoters()
	if len(voters) != 1 || !m.replica.Status().Leading() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, removalGrace)
	defer cancel()
	if err := m.replica.Transfer(ctx, voters[0]); err != nil {
		m.log.Warn("removed, but the one voter that is left does not take over; waiting for it",
			"remote-peer-id", voters[0].String(), "at-most", lingering, "error", err)
		return true
	}
	m.log.Info("handed leadership over", "to", voters[0].String())
	return true
}

// otherVoters are the voters but for this member.
func (m *running) otherVoters() (all []member.ID) {
	for _, other := range m.replica.View().Members.Members() {
		if !other.Learner && other.ID != m.opened.ID {
			all = append(all, other.ID)
		}
	}
	return all
}

// handOver lets another voter lead before this member stops, so that nobody has
// to wait for an election. It is the one that has been connected the longest.
func (m *running) handOver(ctx context.Context) {
	if !m.replica.Status().Leading() {
		return
	}
	voters := m.otherVoters()
	if len(voters) == 0 {
		return
	}
	var to member.ID
	var since time.Time
	for _, other := range voters {
		active := m.transport.ActiveSince(other)
		if !active.IsZero() && (to == 0 || active.Before(since)) {
			to, since = other, active
		}
	}
	if to == 0 {
		m.log.Warn("no other member is connected that could lead; stopping without handing over")
		return
	}
	m.progress("stopping: handing leadership over to " + to.String())
	began := time.Now()
	err := m.replica.Transfer(ctx, to)
	switch {
	case err == nil:
		m.log.Info("handed leadership over", "to", to.String(), "took", time.Since(began))
	case errors.Is(err, context.Canceled):
	default:
		m.log.Warn("leadership was not handed over", "to", to.String(), "error", err)
	}
}
