package state

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/mvcc"
)

// query translates a RangeRequest.
func query(r *pb.RangeRequest) mvcc.Query {
	return mvcc.Query{
		Span:     mvcc.Span{Key: r.Key, End: r.RangeEnd},
		Revision: r.Revision, Limit: r.Limit,
		KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		Order: mvcc.Order(r.SortOrder), Target: mvcc.Target(r.SortTarget),
		MinMod: r.MinModRevision, MaxMod: r.MaxModRevision,
		MinCreate: r.MinCreateRevision, MaxCreate: r.MaxCreateRevision,
	}
}

func rangeReply(p mvcc.Page) *RangeReply {
	return &RangeReply{Revision: p.Revision, KVs: p.KVs, More: p.More, Count: p.Count}
}

// rangeInLog answers a Range that came through the log: only for the one who
// waits, as it changes nothing.
func (m *Machine) rangeInLog(r *pb.RangeRequest, wanted bool) Outcome {
	if !wanted {
		return Outcome{Reply: m.done()}
	}
	m.counts.Ranges++
	page, err := m.keys.View().Range(query(r))
	if err != nil {
		return Outcome{Err: err}
	}
	return Outcome{Reply: rangeReply(page)}
}

// ended closes a write and makes the outcome of it.
func ended(w *mvcc.Write, reply any) Outcome {
	rev, events := w.End()
	return Outcome{Reply: reply, Revision: rev, Events: events}
}

func (m *Machine) put(r *pb.PutRequest) Outcome {
	defer m.counts.close(m.counts.calls())
	w := m.keys.Begin()
	if err := m.checkPut(w, r); err != nil {
		w.End()
		return Outcome{Err: err}
	}
	reply, err := m.runPut(w, r)
	if err != nil {
		w.End()
		return Outcome{Fatal: err}
	}
	return ended(w, reply)
}

// checkPut is what may refuse a put; w shows the state that it is judged by.
func (m *Machine) checkPut(w *mvcc.Write, r *pb.PutRequest) error {
	if r.Lease != 0 {
		if _, ok := m.leases.Lease(lease.ID(r.Lease)); !ok {
			return lease.ErrNotFound
		}
	}
	if looks(r) {
		m.counts.Ranges++
	}
	if r.IgnoreValue || r.IgnoreLease {
		if _, ok := w.Item(r.Key); !ok {
			return ErrKeyNotFound
		}
	}
	return nil
}

// runPut cannot be refused any more: an error means that the store could not
// be read.
func (m *Machine) runPut(w *mvcc.Write, r *pb.PutRequest) (*PutReply, error) {
	value, id := r.Value, r.Lease
	reply := &PutReply{}
	if looks(r) {
		if item, ok := w.Item(r.Key); ok {
			wire, err := w.Wire(item)
			if err != nil {
				return nil, err
			}
			if r.PrevKv {
				reply.Previous = wire
			}
			if r.IgnoreLease {
				id = item.Lease()
			}
			if r.IgnoreValue {
				old, err := mvcc.Parse(wire)
				if err != nil {
					return nil, err
				}
				value = old.Value
			}
		}
	}
	m.counts.Puts++
	m.counts.PutBytes += uint64(len(r.Key) + len(value))
	before, existed := w.Put(r.Key, value, id)
	var old int64
	if existed {
		old = before.Lease()
	}
	if old != id {
		key := string(r.Key)
		if old != 0 {
			m.leases.Detach(lease.ID(old), key)
		}
		if id != 0 {
			m.leases.Attach(lease.ID(id), key)
		}
	}
	reply.Revision = w.Revision()
	return reply, nil
}

func (m *Machine) deleteRange(r *pb.DeleteRangeRequest) Outcome {
	defer m.counts.close(m.counts.calls())
	w := m.keys.Begin()
	reply, err := m.runDelete(w, r)
	if err != nil {
		w.End()
		return Outcome{Fatal: err}
	}
	return ended(w, reply)
}

func (m *Machine) runDelete(w *mvcc.Write, r *pb.DeleteRangeRequest) (*DeleteReply, error) {
	m.counts.Deletes++
	if r.PrevKv {
		m.counts.Ranges++
	}
	var doomed []mvcc.Item
	deleted := w.Delete(mvcc.Span{Key: r.Key, End: r.RangeEnd}, func(key string, before mvcc.Item) {
		if id := before.Lease(); id != 0 {
			m.leases.Detach(lease.ID(id), key)
		}
		if r.PrevKv {
			doomed = append(doomed, before)
		}
	})
	reply := &DeleteReply{Revision: w.Revision(), Deleted: deleted}
	for _, item := range doomed {
		wire, err := w.Wire(item)
		if err != nil {
			return nil, err
		}
		reply.Previous = append(reply.Previous, wire)
	}
	return reply, nil
}

func (m *Machine) compact(r *pb.CompactionRequest) Outcome {
	if err := m.keys.Compact(r.Revision); err != nil {
		return Outcome{Err: err, AfterSweep: r.Physical && err == mvcc.ErrCompacted} //nolint:errorlint // Compact returns it bare
	}
	return Outcome{Reply: &CompactReply{Revision: m.keys.Revision()}, AfterSweep: r.Physical}
}
