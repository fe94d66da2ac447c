package replica

import (
	"context"
	"math"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
)

const (
	// maxOutgoing copies are on their way at once. For another one raft is told
	// that it failed, and asks again.
	maxOutgoing = 4
	// holdSent is how long the entries behind a copy that has arrived are kept
	// for a member that does not ask for them.
	holdSent = 30 * time.Second
)

// snapshots are copies of the store on their way to members that the log no
// longer reaches back to. The loop owns it. Entries behind a copy stay in memory
// until its receiver has gone on from there: else it would need the next copy.
type snapshots struct {
	loop *loop
	out  map[uint64]*outgoing // by member
}

// outgoing is one copy.
type outgoing struct {
	index uint64    // entries from here on are kept for it
	until time.Time // for so long; zero while it is being sent
}

// copyEnd is what became of one.
type copyEnd struct {
	to uint64
	ok bool
}

// extract takes the snapshots out of what raft wants sent.
func (s *snapshots) extract(send []*raftpb.Message) []*raftpb.Message {
	found := false
	for _, m := range send {
		found = found || m.GetType() == raftpb.MsgSnap
	}
	if !found {
		return send
	}
	kept := send[:0:0]
	for _, m := range send {
		if m.GetType() == raftpb.MsgSnap {
			s.send(m)
		} else {
			kept = append(kept, m)
		}
	}
	return kept
}

// send has the flusher make a copy, which the transport then sends.
func (s *snapshots) send(m *raftpb.Message) {
	l, to := s.loop, m.GetTo()
	if o := s.out[to]; o != nil && o.until.IsZero() || len(s.out) >= maxOutgoing {
		l.core.SnapshotSent(to, false)
		return
	}
	s.out[to] = &outgoing{index: l.r.applied.Load()}
	f := l.r.flusher
	f.queue.put(task{
		run: func(context.Context) error { return f.export(m) },
		done: func(err error) {
			if err != nil {
				l.r.log.Warn("snapshot not sent", "to", member.ID(to).String(), "error", err)
				l.r.SnapshotSent(member.ID(to), false)
			}
		},
	})
}

// export hands a copy of the store, as of the last commit, to the transport.
// The message that raft made is of some entry before; the copy is what counts.
func (f *flusher) export(m *raftpb.Message) error {
	image, err := f.r.parts.Store.Copy()
	if err != nil {
		return err
	}
	view := f.committed
	out := proto.CloneOf(m)
	out.Snapshot = &raftpb.Snapshot{
		Data:     view.Members.Tree(),
		Metadata: &raftpb.SnapshotMetadata{ConfState: view.Members.ConfState(), Index: &view.Applied, Term: &view.Term},
	}
	f.r.log.Info("sending merged snapshot", "to", member.ID(m.GetTo()).String(), "snapshot-index", view.Applied, "bytes", image.Size())
	f.r.parts.SendSnapshot(out, image)
	return nil
}

// sent notes what became of a copy.
func (s *snapshots) sent(to uint64, ok bool) {
	s.loop.core.SnapshotSent(to, ok)
	if o := s.out[to]; o != nil && ok {
		o.until = s.loop.now.Add(holdSent)
		return
	}
	delete(s.out, to)
}

// tick lets go of entries that are not needed any more.
func (s *snapshots) tick() {
	if len(s.out) == 0 {
		return
	}
	match := map[uint64]uint64{}
	s.loop.core.Progress(func(id, at uint64) { match[id] = at })
	for to, o := range s.out {
		if !o.until.IsZero() && (s.loop.now.After(o.until) || match[to] >= o.index || !s.loop.core.Leading()) {
			delete(s.out, to)
		}
	}
}

// oldest is the entry that some receiver goes on from.
func (s *snapshots) oldest() uint64 {
	oldest := uint64(math.MaxUint64)
	for _, o := range s.out {
		oldest = min(oldest, o.index)
	}
	return oldest
}

// offer tells raft which snapshot it may offer instead of the entries that are
// about to go. The copy that is sent will be newer.
func (s *snapshots) offer() {
	view := s.loop.r.view.Load()
	s.loop.r.parts.Log.SetMemorySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: view.Members.ConfState(), Index: &view.Applied, Term: &view.Term,
	}})
}

// SnapshotSent tells what became of a copy that Parts.SendSnapshot was given.
func (r *Replica) SnapshotSent(id member.ID, ok bool) { r.intake.copied(copyEnd{uint64(id), ok}) }

// Unreachable tells that something sent to another member was lost.
func (r *Replica) Unreachable(id member.ID) { r.intake.unreachable(uint64(id)) }

// Progress is the last entry that each member is known to have, this one
// included. Only the leader knows.
func (r *Replica) Progress(ctx context.Context) (map[member.ID]uint64, error) {
	return ask(ctx, r, func(l *loop, reply reply[map[member.ID]uint64]) {
		if !l.core.Leading() {
			reply(nil, ErrNotLeader)
			return
		}
		all := map[member.ID]uint64{}
		l.core.Progress(func(id, match uint64) { all[member.ID(id)] = match })
		reply(all, nil)
	})
}
