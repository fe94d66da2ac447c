package sim

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/replica"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

const (
	electionTicks = 10
	keepEntries   = 6  // in memory behind what is applied, for members that are behind
	markEntries   = 10 // between two snapshots of the log
	removalGrace  = 60 // steps that a removed member goes on
)

// node is one member: what survives a crash, and what does not.
type node struct {
	w  *world
	id uint64

	disk   *disk
	store  *store.Mem
	images map[uint64]*store.Mem // received, by the entry they are at

	up, paused bool
	sent       []delivery // snapshots that have come through or not while it was paused
	removed    bool       // it has applied its own removal,
	leaves     int64      // and stops at this step, so that the others have heard of it

	log       *wal.Log
	core      *replica.Core
	machine   *state.Machine
	appends   []*raftpb.Message // for the appender
	applies   []order           // for the applier
	rows      []*store.Batch    // for the flusher
	view      *state.View       // shows what the rows lead to
	led       uint64            // the term in which it leads and has applied an entry
	inOffice  bool              // it keeps the deadlines of leases
	deadlines lease.Deadlines
	doubts    uint64         // the read that would end a leader's doubts; 0: it has none
	marked    uint64         // entry of the last snapshot of the log
	kept      uint64         // entries up to here are out of memory
	pending   map[uint64]*op // writes proposed here, by request ID
	reads     map[uint64]*op // read rounds on their way
	behind    []*op          // reads that wait for an entry to be applied
}

// delivery is what has become of a snapshot.
type delivery struct {
	to      uint64
	arrived bool
}

// order is one thing for the applier.
type order struct {
	entries  *raftpb.Message
	snapshot *raftpb.Snapshot
}

func newNode(w *world, id uint64) *node {
	return &node{w: w, id: id, disk: newDisk(), store: store.NewMem(), images: map[uint64]*store.Mem{}}
}

// found begins the log of a first member, as a new cluster does; others is
// everybody. A member that joins has an empty log.
func (n *node) found(others []uint64) {
	log, err := wal.Create("/m/wal", wal.Identity{Member: n.id, Cluster: 7}, n.walOptions())
	must(err)
	one, none, last := uint64(1), uint64(0), uint64(len(others))
	var entries []*raftpb.Entry
	for i, id := range others {
		data, err := proto.Marshal(addition(id, false).Entry(0))
		must(err)
		index := uint64(i + 1)
		entries = append(entries, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: &one, Index: &index, Data: data})
	}
	if len(entries) > 0 {
		must(log.Append(&raftpb.HardState{Term: &one, Vote: &none, Commit: &last}, entries, true))
	}
	must(log.Close())
}

func (n *node) walOptions() wal.Options { return wal.Options{Files: n.disk, SegmentBytes: 256 << 10} }

// start brings the member up from what is on its disk.
func (n *node) start() {
	log, err := wal.Open("/m/wal", n.walOptions())
	must(err)
	n.log = log
	if start := log.Start().Index; start > n.stamp().Index { // it crashed while a snapshot was taken over
		n.w.check(n.images[start] != nil, "member %d: the log begins behind %d, the store is at %d, and there is no image", n.id, start, n.stamp().Index)
		n.store = n.images[start]
	}
	n.load()
	at := n.stamp()
	log.SetConfState(n.machine.Members().ConfState())
	n.core, err = replica.NewCore(replica.CoreOptions{
		Self: n.id, ElectionTicks: electionTicks, PreVote: true, Applied: at.Index,
	}, replica.StorageOf(log, at.Index), slog.New(slog.DiscardHandler))
	must(err)
	n.up, n.paused = true, false
	n.appends, n.applies, n.rows, n.led, n.behind = nil, nil, nil, 0, nil
	n.sent = nil
	n.inOffice, n.doubts, n.deadlines = false, 0, lease.Deadlines{}
	n.marked, n.kept = log.Start().Index, log.Start().Index
	n.pending, n.reads = map[uint64]*op{}, map[uint64]*op{}
	n.work()
}

func (n *node) load() {
	reader, err := n.store.Read()
	must(err)
	n.machine, err = state.Load(reader, n.read, state.Options{MinLeaseTTL: 1, Keys: mvcc.Options{}})
	must(err)
	must(reader.Close())
	n.view = n.machine.View()
}

func (n *node) read() (store.Reader, error) { return n.store.Read() }

func (n *node) stamp() store.Stamp {
	reader, err := n.store.Read()
	must(err)
	defer reader.Close()
	return reader.Stamp()
}

// resume lets a member go on that stood still, if it is up.
func (n *node) resume() {
	n.paused = false
	if !n.up {
		return
	}
	for _, d := range n.sent {
		n.core.SnapshotSent(d.to, d.arrived)
	}
	n.sent = nil
	n.doubt()
}

// crash ends the member in the middle of whatever it was doing.
func (n *node) crash() {
	before := n.disk.Ops()
	if len(n.appends) > 0 && n.w.random.IntN(2) == 0 {
		n.write(n.appends[0]) // nobody hears that it is written
	}
	at := before + n.w.random.IntN(n.disk.Ops()-before+1)
	n.w.note("of its operations %d to %d, %d are done", before, n.disk.Ops(), at)
	n.disk = n.disk.crashed(n.w, at)
	for _, waiting := range []map[uint64]*op{n.pending, n.reads} {
		for _, id := range slices.Sorted(maps.Keys(waiting)) {
			waiting[id].leave(n.w)
		}
	}
	for _, o := range n.behind {
		o.leave(n.w)
	}
	n.up, n.core, n.machine, n.log, n.view = false, nil, nil, nil, nil
}

// work takes what raft wants done to where it is done.
func (n *node) work() {
	for {
		w, ok := n.core.Work()
		if !ok {
			break
		}
		for _, m := range w.Send {
			n.send(m)
		}
		if w.Append != nil {
			n.appends = append(n.appends, w.Append)
		}
		if w.Apply != nil {
			n.applies = append(n.applies, order{entries: w.Apply})
		}
		for _, r := range w.Reads {
			id := binary.BigEndian.Uint64(r.RequestCtx)
			if id == n.doubts {
				n.doubts = 0
			}
			if o := n.reads[id]; o != nil {
				delete(n.reads, id)
				o.index = r.Index
				n.behind = append(n.behind, o)
			}
		}
	}
	n.w.watch(n)
	n.answerReads()
}

// send puts a message on the network; a snapshot with a copy of the store.
func (n *node) send(m *raftpb.Message) {
	p := &packet{from: n.id, to: m.GetTo(), m: proto.CloneOf(m)}
	if m.GetType() == raftpb.MsgSnap {
		n.flush() // a copy is made behind a commit
		at := n.stamp()
		p.image = clone(n.store)
		reader, err := p.image.Read()
		must(err)
		book, err := member.Load(reader)
		must(err)
		must(reader.Close())
		p.m.Snapshot = &raftpb.Snapshot{Data: book.Tree(), Metadata: &raftpb.SnapshotMetadata{
			ConfState: book.ConfState(), Index: &at.Index, Term: &at.Term,
		}}
	}
	n.w.net = append(n.w.net, p)
}

// clone copies a store row by row.
func clone(from *store.Mem) *store.Mem {
	reader, err := from.Read()
	must(err)
	defer reader.Close()
	rows := &store.Batch{}
	for _, bucket := range buckets {
		reader.Scan(bucket, nil, nil, func(key, value []byte) bool {
			rows.Put(bucket, key, value)
			return true
		})
	}
	to := store.NewMem()
	must(to.Commit(reader.Stamp(), rows))
	return to
}

var buckets = []store.Bucket{
	store.Key, store.Meta, store.Lease, store.Alarm, store.Members, store.MembersRemoved, store.Cluster,
}

// tick lets time pass.
func (n *node) tick() {
	n.core.Tick()
	n.work()
	n.expire()
}

// step gives raft a message.
func (n *node) step(m *raftpb.Message) {
	if err := n.core.Step(m); err != nil {
		n.w.note("member %d: %v", n.id, err)
	}
	n.work()
}

// append does one thing of the appender's: one write, one sync, the answers.
func (n *node) append() {
	m := n.appends[0]
	n.appends = n.appends[1:]
	n.write(m)
	for _, answer := range m.GetResponses() {
		if answer.GetTo() == n.id {
			must(n.core.Step(answer))
		} else {
			n.send(answer)
		}
	}
	n.work()
}

func (n *node) write(m *raftpb.Message) {
	var hard *raftpb.HardState
	if m.GetTerm() != 0 {
		hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	n.w.note("member %d writes %s", n.id, describe(m))
	if s := m.GetSnapshot(); s != nil {
		meta := s.GetMetadata()
		must(n.log.Reset(wal.Snapshot{Index: meta.GetIndex(), Term: meta.GetTerm(), ConfState: meta.GetConfState()}, hard))
		n.applies = append(n.applies, order{snapshot: s})
		hard = nil
	}
	if len(m.GetEntries()) > 0 || hard != nil {
		must(n.log.Append(hard, m.GetEntries(), len(m.GetEntries()) > 0))
	}
}

// describe is what an append writes.
func describe(m *raftpb.Message) (text string) {
	if s := m.GetSnapshot(); s != nil {
		text += fmt.Sprintf("snapshot %d ", s.GetMetadata().GetIndex())
	}
	if m.GetTerm() != 0 {
		text += fmt.Sprintf("term %d vote %d commit %d ", m.GetTerm(), m.GetVote(), m.GetCommit())
	}
	if es := m.GetEntries(); len(es) > 0 {
		text += fmt.Sprintf("entries %d to %d", es[0].GetIndex(), es[len(es)-1].GetIndex())
	}
	return text
}

// apply does one thing of the applier's.
func (n *node) apply() {
	o := n.applies[0]
	n.applies = n.applies[1:]
	if o.snapshot != nil {
		n.install(o.snapshot)
		return
	}
	for _, e := range o.entries.GetEntries() {
		n.run(e)
	}
	if rows := n.machine.Take(); rows != nil {
		n.rows = append(n.rows, rows)
	}
	n.view = n.machine.View()
	n.office()
	for _, answer := range o.entries.GetResponses() {
		must(n.core.Step(answer))
	}
	n.compact()
	n.work()
	if n.view.Members.Removed(member.ID(n.id)) && !n.removed {
		n.removed, n.leaves = true, n.w.now+removalGrace
		n.w.note("member %d has applied its removal", n.id)
	}
}

// run runs one entry through the machine, as every member must in the same way.
func (n *node) run(e *raftpb.Entry) {
	n.w.agree(n.id, e)
	in := state.Entry{Index: e.GetIndex(), Term: e.GetTerm()}
	var id uint64
	switch {
	case e.GetType() == raftpb.EntryConfChange:
		in.Change = &raftpb.ConfChange{}
		must(proto.Unmarshal(e.GetData(), in.Change))
	case len(e.GetData()) == 0:
		if s := n.core.Standing(); s.State == raft.StateLeader && s.Term == e.GetTerm() {
			n.led = e.GetTerm()
		}
	default:
		request, err := state.Decode(e.GetData())
		must(err)
		in.Request, id = request, request.GetHeader().GetID()
	}
	waiting := n.pending[id]
	in.Wanted = waiting != nil
	out := n.machine.Apply(in)
	must(out.Fatal)
	n.follow(in.Index, id, out.Leases)
	n.w.happened(in, out)
	if in.Change != nil {
		change := in.Change
		if out.Change != nil {
			change = out.Change
		}
		n.core.Change(change)
		if n.core.Superseded() {
			n.doubts = math.MaxUint64 // for good
		}
	}
	if waiting != nil {
		delete(n.pending, id)
		waiting.wrote(n.w, out)
	}
}

// install takes over a snapshot of another member.
func (n *node) install(s *raftpb.Snapshot) {
	index := s.GetMetadata().GetIndex()
	image := n.images[index]
	n.w.check(image != nil, "member %d: no image for the snapshot at %d", n.id, index)
	n.store, n.rows = image, nil
	n.load()
	at, _ := n.machine.Applied()
	n.w.check(at == index, "member %d: the image for %d is at %d", n.id, index, at)
	n.marked, n.kept = index, index
	n.answerReads()
}

// flush commits what has been applied, and now and then notes in the log that
// nothing before it is needed.
func (n *node) flush() {
	must(n.store.Commit(store.Stamp{Index: n.view.Applied, Term: n.view.Term}, n.rows...))
	n.rows = nil
	n.machine.Stored(n.view.Keys.Revision())
	if n.view.Applied >= n.marked+markEntries && len(n.appends) == 0 {
		n.w.note("member %d marks %d", n.id, n.view.Applied)
		must(n.log.MarkSnapshot(wal.Snapshot{Index: n.view.Applied, Term: n.view.Term, ConfState: n.view.Members.ConfState()}))
		n.marked = n.view.Applied
	}
}

// sweep removes a piece of what was compacted.
func (n *node) sweep() (more bool) {
	more, err := n.machine.Sweep(10)
	must(err)
	if rows := n.machine.Take(); rows != nil {
		n.rows = append(n.rows, rows)
	}
	n.view = n.machine.View()
	return more
}

// compact lets go of old entries, as the loop does.
func (n *node) compact() {
	applied := n.core.Standing().Applied
	if applied < n.kept+keepEntries+3 {
		return
	}
	n.kept = applied - keepEntries
	n.log.SetMemorySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: n.view.Members.ConfState(), Index: &n.view.Applied, Term: &n.view.Term,
	}})
	must(n.log.Compact(n.kept))
}

// answerReads answers the reads whose entry is applied.
func (n *node) answerReads() {
	kept := n.behind[:0]
	for _, o := range n.behind {
		if o.index > n.view.Applied {
			kept = append(kept, o)
			continue
		}
		o.read(n.w, n.view)
	}
	n.behind = kept
}

// addition adds a member, or a learner.
func addition(id uint64, learner bool) member.Change {
	c := member.Change{Type: raftpb.ConfChangeAddNode, ID: member.ID(id)}
	if learner {
		c.Type = raftpb.ConfChangeAddLearnerNode
	}
	c.Member = member.Member{ID: c.ID, PeerURLs: []string{fmt.Sprintf("http://m%d:2380", id)}, Learner: learner}
	return c
}
