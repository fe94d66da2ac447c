package compat

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// A model is what the session remembers of the oracle's answers, to make
// requests that hit and to know which watch messages are due.
type model struct {
	revision  int64
	compacted int64             // -1 before the first compaction
	leases    map[int64]int64   // granted seconds by id
	alarms    map[alarm]bool    // active
	streams   map[int]*watching // open watch streams
	history   []event           // everything that happened, in order
	behind    bool              // watchers may still be reading history
	stale     bool              // etcd remembers a hash of revision 0
}

type alarm struct {
	member uint64
	kind   pb.AlarmType
}

// watching is what is known of one watch stream.
type watching struct {
	watchers map[int64]*watcher
	stuck    map[int64]bool // ids that a compaction ended and nobody cancelled
	control  int            // control messages that were compared
}

// A watcher is one that both servers have announced.
type watcher struct {
	key, end []byte // end as requested: empty is one key, "\x00" is no end
	from     int64  // first revision it delivers
	start    int64  // as requested
	live     bool   // read no history
	put, del bool   // filtered out
	at       int    // index in history of the next event to consider
	seen     int    // events that were compared
}

// An event is one change that a watcher is told of.
type event = *mvccpb.Event

func newModel() *model {
	return &model{
		revision: 1, compacted: -1,
		leases: map[int64]int64{}, alarms: map[alarm]bool{}, streams: map[int]*watching{},
	}
}

// wants tells whether a watcher is to deliver an event.
func (w *watcher) wants(e event) bool {
	switch {
	case e.Kv.ModRevision < w.from:
		return false
	case e.Type == mvccpb.PUT && w.put, e.Type == mvccpb.DELETE && w.del:
		return false
	case len(w.end) == 0:
		return bytes.Equal(e.Kv.Key, w.key)
	case bytes.Equal(w.end, []byte{0}):
		return bytes.Compare(e.Kv.Key, w.key) >= 0
	default:
		return bytes.Compare(e.Kv.Key, w.key) >= 0 && bytes.Compare(e.Kv.Key, w.end) < 0
	}
}

// due returns the events of the history that a watcher must have delivered
// beyond those that were compared.
func (m *model) due(w *watcher) []event {
	var due []event
	for _, e := range m.history[w.at:] {
		if w.wants(e) {
			due = append(due, e)
		}
	}
	return due
}

// answersProgress tells whether a manual progress request on a stream will be
// answered: it has watchers, all of them live by now, and none stuck.
func (m *model) answersProgress(w *watching) bool {
	for _, one := range w.watchers {
		if one.start > m.revision {
			return false
		}
	}
	return len(w.watchers) > 0 && len(w.stuck) == 0
}

// spared returns the revision to compact instead of one at which a transaction
// deleted a key, from another on, and put it again. etcd 3.7.3 compacts such a
// key away, and ends at the next Range that meets it; what kvd does is in
// TestCompactionKeepsWhatItsRevisionPutAgain.
func (m *model) spared(revision int64) int64 {
	seen := map[string]bool{}
	for _, e := range m.history {
		if e.Kv.ModRevision != revision {
			continue
		}
		if seen[string(e.Kv.Key)] {
			return m.spared(revision - 1)
		}
		seen[string(e.Kv.Key)] = true
	}
	return revision
}

// learn takes from the oracle's answer what later requests build on.
func (m *model) learn(o op, a answer) {
	if h, ok := a.msg.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader().GetRevision() > m.revision {
		m.revision = h.GetHeader().GetRevision()
	}
	if a.msg == nil {
		return
	}
	switch req := o.req.(type) {
	case *pb.CompactionRequest:
		m.compacted = req.Revision
		m.stale = m.stale || req.Revision == 0
	case *pb.LeaseGrantRequest:
		m.leases[req.ID] = a.msg.(*pb.LeaseGrantResponse).TTL
	case *pb.LeaseRevokeRequest:
		delete(m.leases, req.ID)
	case *pb.AlarmRequest:
		for _, one := range a.msg.(*pb.AlarmResponse).Alarms {
			switch key := (alarm{one.MemberID, one.Alarm}); req.Action {
			case pb.AlarmRequest_ACTIVATE:
				m.alarms[key] = true
			case pb.AlarmRequest_DEACTIVATE:
				delete(m.alarms, key)
			}
		}
	}
}
