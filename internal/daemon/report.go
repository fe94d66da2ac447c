package daemon

import (
	"fmt"
	"strings"
	"time"

	"kvd/internal/member"
	"kvd/internal/replica"
)

const (
	// reportLook is how soon a change of role, leader, term or members shows.
	reportLook = 200 * time.Millisecond
	// reportPace is how often the status line may follow the rest: revision and
	// space change with every write.
	reportPace = time.Second
)

// report keeps the service manager's status line true.
type report struct {
	m     *running
	ready bool
	first uint64 // applied when the member was opened
	key   reportKey
	said  time.Time
	last  string // what was said
}

// reportKey is what the status line follows at once.
type reportKey struct {
	leader, term uint64
	leading      bool
	up, members  int
	alarms       int
	ready        bool
}

func newReport(m *running) *report {
	r := &report{m: m, first: m.replica.Status().Applied}
	r.look(time.Now())
	return r
}

// becomeReady follows a member that has joined and told so with a status line.
func (r *report) becomeReady(told string) {
	r.ready, r.last, r.said = true, told, time.Now()
	r.key = r.m.reportKey(true)
}

// look says where the member is, if that has changed. A start gets more time.
func (r *report) look(now time.Time) {
	key := r.m.reportKey(r.ready)
	if key == r.key && now.Sub(r.said) < reportPace {
		return
	}
	r.key, r.said = key, now
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

func (m *running) reportKey(ready bool) reportKey {
	s, view := m.replica.Status(), m.replica.View()
	up, members := m.up()
	return reportKey{
		leader: s.Leader, term: s.Term, leading: s.Leading(),
		up: up, members: members, alarms: len(view.Alarms), ready: ready,
	}
}

// up counts the members that this one is connected with, itself included, and
// all.
func (m *running) up() (up, members int) {
	all := m.replica.View().Members.Members()
	for _, other := range all {
		if other.ID == m.opened.ID || !m.transport.ActiveSince(other.ID).IsZero() {
			up++
		}
	}
	return up, len(all)
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
	if m.proxy != nil {
		return m.proxyStanding()
	}
	s, view := m.replica.Status(), m.replica.View()
	if m.corrupt.Load() {
		return "CORRUPT: its data is not what the other members hold; replace it with 'kvd member rejoin'"
	}
	up, members := m.up()
	text := fmt.Sprintf("%s, term %d, %d of %d members up, %s, revision %d", m.role(s), s.Term, up, members, m.fullness(), view.Keys.Revision()) +
		m.clients.remark(time.Now()) + m.peers.remark(time.Now()) + m.exposedRemark()
	var alarms []string
	for _, a := range view.Alarms {
		alarms = append(alarms, a.Type.String()+" of "+m.nameOf(a.Member))
	}
	if len(alarms) > 0 {
		text = "ALARM " + strings.Join(alarms, ", ") + "; " + text
	}
	return text
}

// role is what this member is to the others.
func (m *running) role(s replica.Status) string {
	self, _ := m.replica.View().Members.Member(m.opened.ID)
	switch {
	case s.Leading():
		return "leader"
	case s.Leader == 0:
		return "no leader"
	case self.Learner:
		return "learner of " + m.nameOf(member.ID(s.Leader))
	}
	return "follower of " + m.nameOf(member.ID(s.Leader))
}

// nameOf is what the operator calls a member, or its ID as long as it has not
// told its name.
func (m *running) nameOf(id member.ID) string {
	if it, ok := m.replica.View().Members.Member(id); ok && it.Name != "" {
		return it.Name
	}
	return id.String()
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
