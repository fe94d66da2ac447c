package replica

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// bench is cores with logs in memory, driven by hand: nothing happens unless
// the test says so.
type bench struct {
	t     *testing.T
	cores map[uint64]*bencher
}

type bencher struct {
	core    *Core
	log     *raft.MemoryStorage
	appends []*raftpb.Message // not done yet
	applied []string
	reads   []raft.ReadState
	moves   int
}

func newBench(t *testing.T, voters ...uint64) *bench {
	b := &bench{t: t, cores: map[uint64]*bencher{}}
	for _, id := range voters {
		log := raft.NewMemoryStorage()
		one := uint64(1)
		must(t, log.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: &one, Term: &one, ConfState: &raftpb.ConfState{Voters: voters},
		}}))
		b.restart(id, log, 1)
	}
	return b
}

func (b *bench) restart(id uint64, log *raft.MemoryStorage, applied uint64) *bencher {
	core, err := NewCore(CoreOptions{Self: id, ElectionTicks: 10, PreVote: true, Applied: applied}, log, slog.New(slog.DiscardHandler))
	must(b.t, err)
	b.cores[id] = &bencher{core: core, log: log}
	return b.cores[id]
}

// work does everything that is to be done, appends too unless they are held.
func (b *bench) work(hold ...uint64) {
	for again := true; again; {
		again = false
		for _, id := range b.ids() {
			c := b.cores[id]
			for {
				w, ok := c.core.Work()
				if !ok {
					break
				}
				again = true
				b.do(c, w)
			}
			if slices.Contains(hold, id) {
				continue
			}
			for _, m := range c.appends {
				again = true
				b.append(c, m)
			}
			c.appends = nil
		}
	}
}

func (b *bench) ids() (ids []uint64) {
	for id := range b.cores {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (b *bench) do(c *bencher, w Work) {
	b.send(w.Send)
	if w.Append != nil {
		c.appends = append(c.appends, w.Append)
	}
	c.reads = append(c.reads, w.Reads...)
	if w.Moved {
		c.moves++
	}
	if w.Apply == nil {
		return
	}
	for _, e := range w.Apply.GetEntries() {
		c.applied = append(c.applied, string(e.GetData()))
	}
	b.send(w.Apply.GetResponses())
}

func (b *bench) append(c *bencher, m *raftpb.Message) {
	if m.GetTerm() != 0 {
		must(b.t, c.log.SetHardState(&raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}))
	}
	must(b.t, c.log.Append(m.GetEntries()))
	b.send(m.GetResponses())
}

func (b *bench) send(ms []*raftpb.Message) {
	for _, m := range ms {
		if to := b.cores[m.GetTo()]; to != nil {
			must(b.t, to.core.Step(m))
		}
	}
}

func (b *bench) propose(c *bencher, data ...string) bool {
	var entries []*raftpb.Entry
	for _, d := range data {
		entries = append(entries, &raftpb.Entry{Data: []byte(d)})
	}
	return c.core.Propose(entries)
}

func TestCoreAloneElectsItself(t *testing.T) {
	b := newBench(t, 1)
	c := b.cores[1]
	if b.propose(c, "early") {
		t.Error("proposed without a leader")
	}
	must(t, c.core.Campaign())
	b.work()
	if !c.core.Leading() || !c.core.Alone() || c.core.leader != 1 || c.moves == 0 {
		t.Fatalf("leading %v alone %v leader %d moves %d", c.core.Leading(), c.core.Alone(), c.core.leader, c.moves)
	}
	if !b.propose(c, "a", "b") {
		t.Error("not proposed")
	}
	b.work()
	if want := []string{"", "a", "b"}; !slices.Equal(c.applied, want) {
		t.Errorf("applied %q, want %q", c.applied, want)
	}
	if c.core.applied != 4 || c.core.commit != 4 {
		t.Errorf("applied %d commit %d, want 4", c.core.applied, c.core.commit)
	}
}

func TestCoreAppliesNothingThatIsNotInTheLog(t *testing.T) {
	b := newBench(t, 1)
	c := b.cores[1]
	must(t, c.core.Campaign())
	b.work()
	b.propose(c, "a")
	b.work(1) // the append is on its way
	if slices.Contains(c.applied, "a") {
		t.Fatal("applied before it was appended")
	}
	b.propose(c, "b")
	b.work(1)
	if len(c.appends) != 2 {
		t.Fatalf("%d appends on their way, want 2", len(c.appends))
	}
	b.work()
	if want := []string{"", "a", "b"}; !slices.Equal(c.applied, want) {
		t.Errorf("applied %q, want %q", c.applied, want)
	}
}

func TestCoreStartsBehindWhatIsApplied(t *testing.T) {
	b := newBench(t, 1)
	c := b.cores[1]
	must(t, c.core.Campaign())
	b.work()
	b.propose(c, "a", "b", "c")
	b.work()
	again := b.restart(1, c.log, 4) // 2 is the empty entry, 3 a, 4 b
	must(t, again.core.Campaign())
	b.work()
	if want := []string{"c", ""}; !slices.Equal(again.applied, want) {
		t.Errorf("applied %q, want %q", again.applied, want)
	}
}

func TestCoreAnswersAReadOnceAQuorumAgrees(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	lead := b.cores[1]
	must(t, lead.core.Campaign())
	b.work()
	if !lead.core.Leading() || lead.core.Alone() || lead.core.Electing() {
		t.Fatal("1 does not lead, or believes to be alone")
	}
	b.propose(lead, "a")
	b.work()
	for id := range b.cores {
		b.cores[id].core.Read([8]byte{byte(id)})
	}
	b.work()
	for id, c := range b.cores {
		if len(c.reads) != 1 || c.reads[0].RequestCtx[0] != byte(id) || c.reads[0].Index != lead.core.commit {
			t.Errorf("core %d: reads %v, commit %d", id, c.reads, lead.core.commit)
		}
	}
	delete(b.cores, 2)
	delete(b.cores, 3)
	lead.reads = nil
	lead.core.Read([8]byte{9})
	b.work()
	if len(lead.reads) != 0 {
		t.Error("a read was answered without a quorum")
	}
}

func TestALeaderThatWasRemovedAnswersNoReadForTheLastVoter(t *testing.T) {
	b := newBench(t, 1, 2)
	lead, last := b.cores[1], b.cores[2]
	must(t, lead.core.Campaign())
	b.work()
	b.propose(lead, "a")
	b.work()
	request := b.ask(2)
	for _, c := range b.cores {
		c.core.Change(&raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(1))})
	}
	must(t, last.core.Campaign()) // its own vote is enough
	delete(b.cores, 1)            // and who was removed hears nothing of it
	b.work()
	b.propose(last, "b")
	b.work()
	if !last.core.Leading() || !lead.core.Leading() {
		t.Fatal("not both of them believe to lead")
	}
	lead.reads = nil
	lead.core.Read([8]byte{9})
	must(t, lead.core.Step(request))
	for w, ok := lead.core.Work(); ok; w, ok = lead.core.Work() {
		if len(w.Reads) > 0 {
			t.Errorf("it answers a read of its own: %v", w.Reads)
		}
		for _, m := range w.Send {
			if m.GetType() == raftpb.MsgReadIndexResp {
				t.Errorf("it answers a read of the other: %v", m)
			}
		}
	}
}

// ask has a member ask for a read, and returns its request.
func (b *bench) ask(id uint64) *raftpb.Message {
	b.t.Helper()
	b.cores[id].core.Read([8]byte{byte(id)})
	w, ok := b.cores[id].core.Work()
	if !ok || len(w.Send) != 1 || w.Send[0].GetType() != raftpb.MsgReadIndex {
		b.t.Fatalf("core %d asks with %v", id, w.Send)
	}
	return w.Send[0]
}

func TestOfThreeVotersTheOneThatAsksIsTheQuorum(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	lead := b.cores[1].core
	must(t, lead.Campaign())
	b.work()
	b.propose(b.cores[1], "a")
	b.work()
	must(t, lead.Step(b.ask(2)))
	w, _ := lead.Work()
	if len(w.Send) != 1 || w.Send[0].GetType() != raftpb.MsgReadIndexResp || w.Send[0].GetTo() != 2 || w.Send[0].GetIndex() != lead.commit {
		t.Errorf("the leader sends %v, want the answer and nothing else", w.Send)
	}
}

func TestALeaderVouchesForNobodyBeforeItKnowsWhatIsCommitted(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	must(t, b.cores[1].core.Campaign())
	b.work()
	request := b.ask(2)
	for range 25 { // until 1 finds itself without the others
		b.cores[1].core.Tick()
	}
	b.cores[1].core.Work()
	must(t, b.cores[3].core.Forget())
	must(t, b.cores[2].core.Forget())
	must(t, b.cores[3].core.Campaign())
	b.work(3) // the entry of its term is not in its log, so nothing of it is committed
	lead := b.cores[3].core
	if !lead.Leading() {
		t.Fatal("3 does not lead")
	}
	if _, ok := lead.Vouched(request); ok {
		t.Error("it vouched for what is committed without an entry of its own term")
	}
	b.work()
	if _, ok := lead.Vouched(request); !ok {
		t.Error("it does not vouch though an entry of its term is committed")
	}
}

func TestALeaderVouchesOnlyWhileItLeadsAndOnlyWithAMajority(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	lead := b.cores[1].core
	must(t, lead.Campaign())
	b.work()
	request := b.ask(2)
	learner, local := proto.CloneOf(request), proto.CloneOf(request)
	learner.From, local.From = new(uint64(9)), new(uint64(1))
	for name, m := range map[string]*raftpb.Message{"one without a vote": learner, "itself": local} {
		if _, ok := lead.Vouched(m); ok {
			t.Errorf("it vouched on the word of %s", name)
		}
	}
	must(t, lead.Step(&raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(uint64(3)), To: new(uint64(1)), Term: new(lead.term + 1), Index: new(uint64(1)), LogTerm: new(uint64(1)),
	}))
	if _, ok := lead.Vouched(request); ok || !lead.Leading() {
		t.Error("it vouched after it had heard of a later leader, before it said so")
	}

	b = newBench(t, 1, 2, 3)
	lead = b.cores[1].core
	must(t, lead.Campaign())
	b.work()
	request = b.ask(2)
	for range 25 {
		lead.Tick()
	}
	if _, ok := lead.Vouched(request); ok || !lead.Leading() {
		t.Error("it vouched after it had lost its quorum, before it said so")
	}

	b = newBench(t, 1, 2, 3, 4, 5)
	lead = b.cores[1].core
	must(t, lead.Campaign())
	b.work()
	if _, ok := lead.Vouched(b.ask(2)); ok {
		t.Error("two of five were a majority to it")
	}
}

func TestCoreKeepsWhatItAcknowledgedThroughACrash(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	lead := b.cores[1]
	must(t, lead.core.Campaign())
	b.work()
	for i := range 10 {
		b.propose(lead, fmt.Sprint(i))
		b.work(3) // 3 falls behind
	}
	delete(b.cores, 1)
	b.cores[3].appends = nil // and loses what it had not written
	b.restart(3, b.cores[3].log, 1)
	for range 50 {
		for _, c := range b.cores {
			c.core.Tick()
		}
		b.work()
	}
	if !b.cores[2].core.Leading() {
		t.Fatal("2 has the entries and does not lead")
	}
	if got := b.cores[3].applied; !slices.Contains(got, "9") {
		t.Errorf("3 has applied %q", got)
	}
}

func TestCoreIsNotAloneWithALearner(t *testing.T) {
	b := newBench(t, 1)
	c := b.cores[1].core
	id := uint64(2)
	c.Change(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &id})
	if c.Alone() || !c.Electing() {
		t.Errorf("alone %v electing %v", c.Alone(), c.Electing())
	}
	none := uint64(0)
	c.Change(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &none}) // refused
	if !c.Electing() {
		t.Error("a refused change has changed something")
	}
}
