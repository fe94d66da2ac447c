package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
)

// bug is what a run may be given to find.
type bug int

const (
	none           bug = iota
	lyingDisks         // syncs do nothing
	staleReads         // reads do not ask the leader
	staleDeadlines     // who leads no more goes on to end leases
)

// world is all members, the network between them, and their clients.
type world struct {
	random *rand.Rand
	bug    bug
	now    int64 // steps so far

	nodes   map[uint64]*node
	net     []*packet
	blocked map[[2]uint64]bool

	clients [clients]*op
	history []*op
	seen    [keys]string // what a client saw of each key, for its next comparison
	value   int
	request uint64
	next    uint64 // ID of the next new member

	leaders  map[uint64]uint64 // by term
	commits  map[uint64]uint64 // by member, since it started
	promises promises
	did      map[string]int // what has happened, by kind
	entries  []uint64       // hash of each entry that was applied somewhere

	trace []string // the newest lines
	sum   uint64   // of all lines
}

// packet is a message on its way.
type packet struct {
	from, to uint64
	m        *raftpb.Message
	image    *store.Mem // that comes with a snapshot
}

const (
	traceLines = 200
	runSteps   = 5000
	settleIn   = 60_000 // steps
)

func newWorld(seed uint64, b bug) *world {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 1)), bug: b, nodes: map[uint64]*node{}, blocked: map[[2]uint64]bool{},
		leaders: map[uint64]uint64{}, commits: map[uint64]uint64{}, next: 4,
		promises: newPromises(), did: map[string]int{},
	}
	first := []uint64{1, 2, 3}
	for _, id := range first {
		n := newNode(w, id)
		n.disk.lies = b == lyingDisks
		n.found(first)
		w.nodes[id] = n
		n.start()
	}
	return w
}

// failure ends a run.
type failure struct{ text string }

func (w *world) check(holds bool, format string, args ...any) {
	if !holds {
		panic(failure{fmt.Sprintf(format, args...)})
	}
}

func must(err error) {
	if err != nil {
		panic(failure{err.Error()})
	}
}

// note adds a line to the trace.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%5d %s", w.now, fmt.Sprintf(format, args...))
	h := fnv.New64a()
	fmt.Fprintf(h, "%d", w.sum)
	io.WriteString(h, line)
	w.sum = h.Sum64()
	if w.trace = append(w.trace, line); len(w.trace) > 2*traceLines {
		w.trace = slices.Clone(w.trace[traceLines:])
	}
}

// run lets everything happen, then heals, and judges. It returns what did not
// hold, or nothing.
func (w *world) run() (fault string) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			fault = p.text
		default:
			fault = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	for ; w.now < runSteps; w.now++ {
		w.turn()
	}
	w.settle()
	w.compare()
	return w.judge()
}

func (w *world) tail() string {
	return strings.Join(w.trace[max(0, len(w.trace)-traceLines):], "\n")
}

// ids are the members in order: no choice may come from a map.
func (w *world) ids() []uint64 { return slices.Sorted(maps.Keys(w.nodes)) }

// some picks one of the members that are fit.
func (w *world) some(fit func(*node) bool) *node {
	var all []*node
	for _, id := range w.ids() {
		if fit(w.nodes[id]) {
			all = append(all, w.nodes[id])
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.random.IntN(len(all))]
}

func works(n *node) bool { return n.up && !n.paused }

// depart stops those that were removed a while ago. Who leads lets the last
// voter take over first, and one without whom that could not go on stays: else
// it would take an operator to force a new cluster.
func (w *world) depart() {
	for _, id := range w.ids() {
		n := w.nodes[id]
		if !n.removed || !n.up || w.now < n.leaves {
			continue
		}
		voters := n.core.Voters()
		if last := w.nodes[voters[0]]; len(voters) > 1 || !last.counts(id) {
			n.crash()
			continue
		}
		n.leaves = w.now + removalGrace
		if works(n) && n.core.Leading() {
			n.core.Transfer(voters[0])
			n.work()
		}
	}
}

// counts reports whether the other has a vote in what this member knows, as far as
// can be seen.
func (n *node) counts(other uint64) bool { return !n.up || slices.Contains(n.core.Voters(), other) }

// turn does one thing, by chance.
func (w *world) turn() {
	w.depart()
	switch p := w.random.IntN(10_000); {
	case p < 4800:
		w.deliver()
	case p < 5500:
		if n := w.some(works); n != nil {
			n.tick()
		}
	case p < 7000:
		if n := w.some(func(n *node) bool { return works(n) && len(n.appends) > 0 }); n != nil {
			n.append()
		}
	case p < 8500:
		if n := w.some(func(n *node) bool { return works(n) && len(n.applies) > 0 }); n != nil {
			n.apply()
		}
	case p < 8800:
		if n := w.some(works); n != nil {
			n.flush()
		}
	case p < 9700:
		w.client()
	case p < 9890:
		w.lease()
	case p < 9905:
		w.cut()
	case p < 9922:
		if n := w.some(func(n *node) bool { return n.up && !n.removed }); n != nil {
			w.note("member %d crashes", n.id)
			w.did["crash"]++
			n.crash()
			w.commits[n.id] = 0
		}
	case p < 9945:
		if n := w.some(func(n *node) bool { return !n.up && !n.removed }); n != nil {
			w.note("member %d starts", n.id)
			n.start()
		}
	case p < 9960:
		if n := w.some(func(n *node) bool { return n.up }); n != nil {
			w.did["pause"]++
			w.note("member %d paused: %v", n.id, !n.paused)
			if n.paused {
				n.resume()
			} else {
				n.paused = true
			}
		}
	default:
		w.operate()
	}
}

// client lets one begin, or give up.
func (w *world) client() {
	c := w.random.IntN(clients)
	if o := w.clients[c]; o != nil && !o.over {
		if w.now-o.begin > patient {
			o.leave(w)
		}
		return
	}
	w.begin(c)
}

// happened counts what an entry has done, once for each member.
func (w *world) happened(in state.Entry, out state.Outcome) {
	switch c := out.Change; {
	case in.Request != nil && in.Request.Compaction != nil && out.Err == nil:
		w.did["compaction"]++
	case c == nil || c.GetNodeId() == 0:
	case c.GetType() == raftpb.ConfChangeRemoveNode:
		w.did["member removed"]++
	case c.GetType() == raftpb.ConfChangeAddLearnerNode:
		w.did["learner added"]++
	case c.GetNodeId() > 3:
		w.did["member added or promoted"]++
	}
}

// cut changes who can talk to whom.
func (w *world) cut() {
	w.did["cut"]++
	ids := w.ids()
	switch w.random.IntN(4) {
	case 0, 1: // everything is whole again
		clear(w.blocked)
		w.note("the network is whole")
	case 2: // one way
		from, to := ids[w.random.IntN(len(ids))], ids[w.random.IntN(len(ids))]
		w.blocked[[2]uint64{from, to}] = true
		w.note("cut %d to %d", from, to)
	default: // two sides
		side := map[uint64]bool{}
		for _, id := range ids {
			side[id] = w.random.IntN(2) == 0
		}
		for _, a := range ids {
			for _, b := range ids {
				if side[a] != side[b] {
					w.blocked[[2]uint64{a, b}] = true
				}
			}
		}
		w.note("split %v", side)
	}
}

// deliver takes one message off the network: usually an old one, and now and
// then it is lost, or comes twice. A proposal on its way to the leader does not:
// it would be carried out twice, and a transport of etcd's or ours sends it once.
func (w *world) deliver() {
	if len(w.net) == 0 {
		return
	}
	i := 0
	if w.random.IntN(4) == 0 {
		i = w.random.IntN(len(w.net))
	}
	p := w.net[i]
	lost := w.random.IntN(30) == 0
	if twice := w.random.IntN(40) == 0 && p.image == nil && p.m.GetType() != raftpb.MsgProp; !twice {
		w.net = slices.Delete(w.net, i, i+1)
	}
	w.pass(p, lost)
}

func (w *world) pass(p *packet, lost bool) {
	to := w.nodes[p.to]
	arrives := !lost && to != nil && to.up && !to.paused && !w.blocked[[2]uint64{p.from, p.to}]
	if arrives {
		w.note("%d to %d: %s", p.from, p.to, raft.DescribeMessage(p.m, func([]byte) string { return "" }))
		if p.image != nil {
			to.images[p.m.GetSnapshot().GetMetadata().GetIndex()] = p.image
		}
		to.step(proto.CloneOf(p.m))
	}
	if from := w.nodes[p.from]; from != nil && from.up {
		switch {
		case p.image != nil && from.paused:
			from.sent = append(from.sent, delivery{p.to, arrives}) // it hears of it when it goes on
		case p.image != nil:
			from.core.SnapshotSent(p.to, arrives)
			from.work()
		case from.paused:
		case !arrives && w.random.IntN(5) == 0:
			from.core.Unreachable(p.to)
			from.work()
		}
	}
}

// operate is what an operator does: change members, move the leader, compact.
func (w *world) operate() {
	n := w.some(works)
	if n == nil {
		return
	}
	all := n.view.Members.Members()
	switch w.random.IntN(6) {
	case 0, 1:
		if len(w.nodes) < 6 && len(all) < 5 {
			id := w.next
			w.next++
			fresh := newNode(w, id)
			fresh.disk.lies = w.bug == lyingDisks
			fresh.found(nil)
			w.nodes[id] = fresh
			fresh.start()
			learner := w.random.IntN(3) > 0
			w.note("member %d is added, learner: %v", id, learner)
			w.change(n, addition(id, learner))
		}
	case 2:
		for _, m := range all {
			if m.Learner {
				w.note("member %s is promoted", m.ID)
				c := addition(uint64(m.ID), false)
				c.Promote = true
				w.change(n, c)
			}
		}
	case 3:
		if len(all) > 3 {
			m := all[w.random.IntN(len(all))]
			w.note("member %s is removed", m.ID)
			w.change(n, member.Change{Type: raftpb.ConfChangeRemoveNode, ID: m.ID, Member: member.Member{ID: m.ID}})
		}
	case 4:
		if s := n.core.Standing(); s.State == raft.StateLeader && len(n.core.Voters()) > 0 {
			to := n.core.Voters()[w.random.IntN(len(n.core.Voters()))]
			w.note("member %d is to hand over to %d", n.id, to)
			n.core.Transfer(to)
			w.did["transfer"]++
			n.work()
		}
	default:
		if rev := n.view.Keys.Revision() - 5; rev > max(n.view.Keys.Compacted(), 1) {
			w.note("compacted to %d", rev)
			w.propose(n, nil, &state.Request{Compaction: &pb.CompactionRequest{Revision: rev}})
		}
	}
}

// watch checks what must hold at any time.
func (w *world) watch(n *node) {
	s := n.core.Standing()
	if s.State == raft.StateLeader {
		other, known := w.leaders[s.Term]
		w.check(!known || other == n.id, "members %d and %d both lead in term %d", other, n.id, s.Term)
		w.leaders[s.Term] = n.id
	} else if n.led != 0 {
		n.led = 0
	}
	w.check(s.Commit >= w.commits[n.id], "member %d: committed %d after %d", n.id, s.Commit, w.commits[n.id])
	w.commits[n.id] = s.Commit
	n.office()
}

// agree checks that all members apply the same entry at an index.
func (w *world) agree(id uint64, e *raftpb.Entry) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %x", e.GetTerm(), e.GetType(), e.GetData())
	at := int(e.GetIndex())
	for len(w.entries) <= at {
		w.entries = append(w.entries, 0)
	}
	if w.entries[at] == 0 {
		w.entries[at] = h.Sum64()
	}
	w.check(w.entries[at] == h.Sum64(), "member %d applies another entry at %d", id, at)
}
