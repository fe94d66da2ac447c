package state

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/mvcc"
)

func (m *Machine) grant(r *pb.LeaseGrantRequest) Outcome {
	l, err := m.leases.Grant(lease.ID(r.ID), r.TTL, max(m.options.MinLeaseTTL, 1), m.batch)
	if err != nil {
		return Outcome{Err: err}
	}
	m.counts.Granted++
	return Outcome{
		Reply:  &GrantReply{Revision: m.keys.Revision(), ID: l.ID, TTL: l.TTL},
		Leases: []LeaseChange{{Lease: l}},
	}
}

// revoke ends a lease and deletes its keys in one revision.
func (m *Machine) revoke(r *pb.LeaseRevokeRequest) Outcome {
	id := lease.ID(r.ID)
	keys, err := m.leases.Revoke(id, m.batch)
	if err != nil {
		return Outcome{Err: err}
	}
	m.counts.Revoked++
	defer m.counts.close(m.counts.calls())
	w := m.keys.Begin()
	for _, key := range keys {
		m.counts.Deletes++
		w.Delete(mvcc.Span{Key: []byte(key)}, func(string, mvcc.Item) {})
	}
	out := ended(w, nil)
	out.Reply = &RevokeReply{Revision: out.Revision}
	out.Leases = []LeaseChange{{Lease: lease.Lease{ID: id}, Ended: true}}
	return out
}

func (m *Machine) checkpoint(r *pb.LeaseCheckpointRequest) Outcome {
	out := Outcome{Reply: m.done()}
	for _, c := range r.Checkpoints {
		m.leases.Checkpoint(lease.ID(c.ID), c.Remaining_TTL, m.batch)
		if l, ok := m.leases.Lease(lease.ID(c.ID)); ok {
			out.Leases = append(out.Leases, LeaseChange{Lease: l})
		}
	}
	return out
}
