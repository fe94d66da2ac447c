package daemon

import (
	"fmt"
	"time"

	"kvd/internal/member"
	"kvd/internal/replica"
)

const (
	reportStart = time.Second     // between two looks at a start
	reportReady = 5 * time.Second // and at a member that serves
)

// report keeps the service manager's status line true.
type report struct {
	m     *running
	ready bool
	first uint64 // applied when the member was opened
	last  string // what was said
}

func newReport(m *running) *report {
	r := &report{m: m, first: m.replica.Status().Applied}
	r.look()
	return r
}

func (r *report) interval() time.Duration {
	if r.ready {
		return reportReady
	}
	return reportStart
}

// look says where the member is, if that has changed. A start gets more time.
func (r *report) look() {
	text := r.m.standing()
	if !r.ready {
		text = waiting(r.m.replica.Status(), r.first)
		r.m.extend()
	}
	if text != r.last {
		r.m.status(text)
		r.last = text
	}
}

// waiting says what a member waits for that has not joined; first is the entry
// that its database ended with.
func waiting(s replica.Status, first uint64) string {
	switch {
	case s.Commit > s.Applied:
		return fmt.Sprintf("replaying the log, %d %%", 100*(s.Applied-first)/(s.Commit-first))
	case s.Leader == 0:
		return "waiting for a leader"
	}
	return "making this member known"
}

// standing says in a line how a member that serves is doing.
func (m *running) standing() string {
	s := m.replica.Status()
	if m.corrupt.Load() {
		return "CORRUPT: its data is not what the other members hold; replace it with 'kvd member rejoin'"
	}
	role := "no leader"
	switch {
	case s.Leading():
		role = "leader"
	case s.Leader != 0:
		role = "following " + member.ID(s.Leader).String()
	}
	return fmt.Sprintf("%s, term %d, revision %d, database %s", role, s.Term, m.replica.View().Keys.Revision(), m.fullness()) +
		m.clients.remark(time.Now()) + m.peers.remark(time.Now()) + m.exposedRemark()
}

// amount is a number of bytes as a person would write it.
func amount(bytes int64) string {
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < 4 {
		value /= 1024
		unit++
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%d %s", int64(value), units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

var units = [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
