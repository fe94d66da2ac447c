package member

import (
	"errors"
	"fmt"
	"time"
)

// What a change is refused for before it is proposed. Unlike those of Validate
// these are one member's opinion of the moment.
var (
	ErrNotEnoughStarted = errors.New("re-configuration failed due to not enough started members")
	ErrUnhealthy        = errors.New("unhealthy cluster")
)

// steady is how long a member must have been connected to be counted on.
const steady = 5 * time.Second

// Sight is what a member sees of the others at one moment.
type Sight struct {
	Self        ID
	Now         time.Time
	ActiveSince func(ID) time.Time // zero: not connected; not asked about Self
}

// steadily counts those that have been connected for a while, Self among them.
func (s Sight) steadily(members []Member) (n int) {
	for _, m := range members {
		if m.ID == s.Self {
			n++
		} else if since := s.ActiveSince(m.ID); !since.IsZero() && since.Before(s.Now.Add(-steady)) {
			n++
		}
	}
	return n
}

// MayAdd reports why no member should be added now: it would take away the
// quorum, as long as it does not run. A learner takes away nothing, so for one a
// quorum of the present voters is enough.
func (v View) MayAdd(learner bool, s Sight) error {
	voters := v.voters()
	n := len(voters)
	if !learner {
		// A single member may get a second one that has never run: that is how a
		// cluster grows out of a restored one.
		started := startedOf(voters)
		if started < quorum(n+1) && !(n == 1 && started == 1) {
			return fmt.Errorf("add a voter with %d of %d started: %w", started, n, ErrNotEnoughStarted)
		}
		n++
	}
	if len(voters) == 1 {
		return nil
	}
	if connected := s.steadily(voters); connected < quorum(n) {
		return fmt.Errorf("add a member with %d of %d connected for %v: %w", connected, len(voters), steady, ErrUnhealthy)
	}
	return nil
}

// MayRemove reports why a member should not be removed now: those that stay
// would have no quorum. One that is down takes nothing away, nor does a learner.
func (v View) MayRemove(id ID, s Sight) error {
	if m, ok := v.Member(id); ok && m.Learner {
		return nil
	}
	voters := v.voters()
	n, started := 0, 0
	for _, m := range voters {
		if m.ID == id {
			continue
		}
		n++
		if m.Started() {
			started++
		}
	}
	if started < quorum(n) {
		return fmt.Errorf("remove %s and leave %d of %d started: %w", id, started, n, ErrNotEnoughStarted)
	}
	if id != s.Self && s.ActiveSince(id).IsZero() {
		return nil
	}
	if connected := s.steadily(voters); connected-1 < quorum(len(voters)-1) {
		return fmt.Errorf("remove %s with %d of %d connected for %v: %w", id, connected, len(voters), steady, ErrUnhealthy)
	}
	return nil
}

// MayPromote reports why no learner should become a voter now.
func (v View) MayPromote() error {
	voters := v.voters()
	if started := startedOf(voters); started+1 < quorum(len(voters)+1) {
		return fmt.Errorf("promote a learner with %d of %d started: %w", started, len(voters), ErrNotEnoughStarted)
	}
	return nil
}

// maxBehind is how many entries a learner may lack to be promoted: as many as a
// leader usually keeps in memory, so one that has to wait for a snapshot has
// more to go.
const maxBehind = 5000

// Ready reports whether a learner that has the log up to match is fit to vote,
// where the leader's log ends at last. Etcd asks for nine tenths of the log,
// which of a long one may leave very much to do.
func Ready(match, last uint64) bool {
	return match >= last || float64(match)/float64(last) >= 0.9 && last-match <= maxBehind
}

func (v View) voters() (voters []Member) {
	for _, m := range v.Members() {
		if !m.Learner {
			voters = append(voters, m)
		}
	}
	return voters
}

func startedOf(members []Member) (n int) {
	for _, m := range members {
		if m.Started() {
			n++
		}
	}
	return n
}

func quorum(n int) int { return n/2 + 1 }
