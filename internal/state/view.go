package state

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/auth"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
)

// View is the state after one entry, immutable, for any goroutine. Methods that
// read keys may return mvcc.ErrCollected: take a newer view and ask again.
type View struct {
	Keys          *mvcc.View
	Leases        lease.View
	Users         *auth.View
	Members       member.View
	Alarms        []Alarm // by type, then member; read-only
	Applied, Term uint64  // the last entry applied
	Swept         int64   // newest compaction whose removals are complete

	counts Counts // but for what is read from views
	reads  *reads
}

// View returns the state as it is now. It is cheap; the applier makes one
// after each batch of entries.
func (m *Machine) View() *View {
	counts := m.counts
	counts.Removed = uint64(m.keys.Removed())
	return &View{
		Keys:    m.keys.View(),
		Leases:  m.leases.View(),
		Users:   m.users.View(),
		Members: m.members.View(),
		Alarms:  m.alarms,
		Applied: m.applied,
		Term:    m.term,
		Swept:   m.keys.Swept(),
		counts:  counts,
		reads:   m.reads,
	}
}

// Within returns the view for one answer: spend is told of the bytes that it
// gathers, and may end it with an error. Nil counts nothing.
func (v *View) Within(spend func(bytes int) error) *View {
	if spend == nil {
		return v
	}
	one := *v
	one.Keys = v.Keys.Within(spend)
	return &one
}

// Range answers a RangeRequest.
func (v *View) Range(r *pb.RangeRequest) (*RangeReply, error) {
	v.reads.ranges.Add(1)
	page, err := v.Keys.Range(query(r))
	if err != nil {
		return nil, err
	}
	return rangeReply(page), nil
}

// Chunk answers a RangeRequest as Range does, but looks no further than its
// limit: Count is not that of the span.
func (v *View) Chunk(r *pb.RangeRequest) (*RangeReply, error) {
	v.reads.ranges.Add(1)
	q := query(r)
	q.Partial = true
	page, err := v.Keys.Range(q)
	if err != nil {
		return nil, err
	}
	return rangeReply(page), nil
}

// Alarmed reports whether any member has raised an alarm of this type.
func (v *View) Alarmed(kind pb.AlarmType) bool {
	for _, a := range v.Alarms {
		if a.Type == kind {
			return true
		}
	}
	return false
}
