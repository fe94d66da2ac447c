package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

const (
	maxMessageBytes   = 1 << 20  // of entries in one message to a peer
	maxMessages       = 512      // on their way to one peer
	maxApplyBytes     = 16 << 20 // handed to the applier and not applied
	maxUncommitted    = 1 << 30  // past it raft drops proposals; the intake refuses them before
	readContextLength = 8
)

// Core is raft as the loop sees it: it takes ticks, messages and proposals and
// hands out work. It has no goroutine and no clock; one goroutine uses it.
type Core struct {
	node *raft.RawNode
	self uint64

	leader  uint64
	state   raft.StateType
	term    uint64
	commit  uint64
	applied uint64 // as raft has been told; <= commit
	settled uint64 // term of the last entry that was handed out to be applied
	conf    *raftpb.ConfState
	replies []*raftpb.Message // to reads of others that needed no round
}

// CoreOptions say how raft runs. All fields are needed.
type CoreOptions struct {
	Self          uint64
	ElectionTicks int // ticks without a leader before an election; a heartbeat is one tick
	PreVote       bool
	Applied       uint64 // the machine is at this entry; raft hands out what comes after it
}

// NewCore starts raft from its log.
func NewCore(o CoreOptions, storage raft.Storage, log *slog.Logger) (*Core, error) {
	hard, conf, err := storage.InitialState()
	if err != nil {
		return nil, fmt.Errorf("read the log's state: %w", err)
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID:                        o.Self,
		ElectionTick:              o.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   storage,
		Applied:                   o.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxInflightMsgs:           maxMessages,
		MaxCommittedSizePerReady:  maxApplyBytes,
		MaxUncommittedEntriesSize: maxUncommitted,
		CheckQuorum:               true,
		PreVote:                   o.PreVote,
		Logger:                    raftLogger{log},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c := &Core{node: node, self: o.Self, conf: conf, applied: o.Applied}
	c.term, c.commit = hard.GetTerm(), max(hard.GetCommit(), o.Applied)
	return c, nil
}

// Tick is one heartbeat interval gone by.
func (c *Core) Tick() { c.node.Tick() }

// Step takes a message: from a peer, or an answer that the appender or the
// applier delivers. What raft cannot place is no error: messages get lost and
// come late.
func (c *Core) Step(m *raftpb.Message) error {
	if index, ok := c.Vouched(m); ok {
		c.replies = append(c.replies, c.reply(m, index))
		return nil
	}
	if m.GetType() == raftpb.MsgReadIndex && c.Superseded() {
		return nil
	}
	err := c.node.Step(m)
	if errors.Is(err, raft.ErrStepPeerNotFound) || errors.Is(err, raft.ErrProposalDropped) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("step %s: %w", m.GetType(), err)
	}
	switch m.GetType() {
	case raftpb.MsgStorageApplyResp:
		if n := len(m.GetEntries()); n > 0 {
			c.applied = max(c.applied, m.GetEntries()[n-1].GetIndex())
		}
	case raftpb.MsgStorageAppendResp:
		if s := m.GetSnapshot(); s != nil {
			c.applied = max(c.applied, s.GetMetadata().GetIndex())
		}
	}
	return nil
}

// Propose offers entries for the log, in one message. It reports whether they
// were taken: without a leader, or while the leader hands over, they are not. A
// leader copies the entries; a follower keeps them.
func (c *Core) Propose(entries []*raftpb.Entry) bool {
	err := c.node.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: &c.self, Entries: entries})
	return err == nil
}

// Read asks for the index that a linearizable read with this context has to
// wait for; the answer comes as Work.Reads. It may get lost.
func (c *Core) Read(id [readContextLength]byte) {
	if !c.Superseded() {
		c.node.ReadIndex(id[:])
	}
}

// Superseded reports whether this member may still lead but has been removed,
// and one voter is left, who can elect itself unasked. Raft would answer reads
// without asking anybody, since there is one voter alone.
func (c *Core) Superseded() bool {
	voters := c.conf.GetVoters()
	return len(voters) == 1 && voters[0] != c.self && c.node.BasicStatus().RaftState == raft.StateLeader
}

// Vouched reports whether m is a read of another member that a leader may
// answer at once, and with which index: where two of the voters are a majority,
// the request is as good as an answer to a heartbeat. When the member sent it,
// after its readers had come, it had not voted in a later term than this
// leader's, or it would not have turned to it; nor has the leader. So nobody
// had been elected later, by these voters or by those that one change makes of
// them, and whatever had been acknowledged is committed here.
func (c *Core) Vouched(m *raftpb.Message) (index uint64, ok bool) {
	if m.GetType() != raftpb.MsgReadIndex || m.GetFrom() == c.self || m.GetTerm() != 0 || !c.Leading() || len(m.GetEntries()) != 1 {
		return 0, false
	}
	voters := c.conf.GetVoters()
	if len(voters) > 3 || len(c.conf.GetVotersOutgoing()) > 0 || !slices.Contains(voters, m.GetFrom()) || !slices.Contains(voters, c.self) {
		return 0, false
	}
	// Raft may have moved on since the last Work. A leader knows what is committed
	// once an entry of its own term is.
	now := c.node.BasicStatus()
	return now.GetCommit(), now.RaftState == raft.StateLeader && now.GetTerm() == c.settled
}

// reply tells another member which index its read has to wait for.
func (c *Core) reply(m *raftpb.Message, index uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgReadIndexResp.Enum(), To: m.From, From: &c.self, Term: new(c.term), Index: &index, Entries: m.GetEntries(),
	}
}

// Change makes a committed change of members take effect. A change that the
// machine has refused comes with node ID 0.
func (c *Core) Change(change *raftpb.ConfChange) { c.conf = c.node.ApplyConfChange(change) }

// Forget makes a follower that has reason to believe that the leader is dead
// grant pre-votes at once.
func (c *Core) Forget() error { return c.node.ForgetLeader() }

// Campaign starts an election at once.
func (c *Core) Campaign() error { return c.node.Campaign() }

// Transfer asks that another member be made leader. Nothing says that it will.
func (c *Core) Transfer(to uint64) { c.node.TransferLeader(to) }

// Unreachable tells raft that something for this member was lost.
func (c *Core) Unreachable(id uint64) { c.node.ReportUnreachable(id) }

// SnapshotSent tells raft what became of a snapshot for this member.
func (c *Core) SnapshotSent(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.node.ReportSnapshot(id, status)
}

// Progress visits the last entry that each member is known to have, this one's
// included; 0 while it waits for a snapshot. Only a leader knows any.
func (c *Core) Progress(visit func(id, match uint64)) {
	c.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if p.State == tracker.StateSnapshot {
			p.Match = 0
		}
		visit(id, p.Match)
	})
}

// Work is what raft wants done. Send may go out at once. Append and Apply are
// for the appender and the applier, each in the order they were handed out.
type Work struct {
	Send   []*raftpb.Message
	Append *raftpb.Message // MsgStorageAppend
	Apply  *raftpb.Message // MsgStorageApply
	Reads  []raft.ReadState
	Moved  bool // leader, role or term are not what they were
}

// Work hands out what is to be done and has not been handed out before.
func (c *Core) Work() (Work, bool) {
	if !c.node.HasReady() {
		w := Work{Send: c.replies}
		c.replies = nil
		return w, len(w.Send) > 0
	}
	ready := c.node.Ready()
	w := Work{Send: ready.Messages, Reads: ready.ReadStates}
	// Raft puts its storage messages last: the append, then the apply.
	for n := len(w.Send); n > 0; n = len(w.Send) {
		last := w.Send[n-1]
		switch last.GetTo() {
		case raft.LocalApplyThread:
			w.Apply = last
		case raft.LocalAppendThread:
			w.Append = last
		default:
			n = 0
		}
		if n == 0 {
			break
		}
		w.Send = w.Send[:n-1]
	}
	if n := len(w.Apply.GetEntries()); n > 0 {
		c.settled = w.Apply.GetEntries()[n-1].GetTerm()
	}
	if s := w.Append.GetSnapshot(); s != nil {
		c.conf = raftpb.EnsureConfState(s.GetMetadata().GetConfState())
	}
	if ready.SoftState != nil {
		c.leader, c.state, w.Moved = ready.Lead, ready.RaftState, true
	}
	if hard := ready.HardState; hard != nil {
		w.Moved = w.Moved || hard.GetTerm() != c.term
		c.term, c.commit = hard.GetTerm(), hard.GetCommit()
	}
	return w, true
}

// Leading reports whether this member leads.
func (c *Core) Leading() bool { return c.state == raft.StateLeader }

// Electing reports whether this member's vote is all that an election takes.
func (c *Core) Electing() bool {
	return len(c.conf.GetVoters()) == 1 && c.conf.GetVoters()[0] == c.self && len(c.conf.GetVotersOutgoing()) == 0
}

// Alone reports whether there is no other member, not even a learner.
func (c *Core) Alone() bool {
	return c.Electing() && len(c.conf.GetLearners()) == 0 && len(c.conf.GetLearnersNext()) == 0
}

// Standing is where raft stands.
type Standing struct {
	Leader, Term    uint64
	Commit, Applied uint64
	State           raft.StateType
}

// Standing is where raft stands, as of the last Work.
func (c *Core) Standing() Standing {
	return Standing{Leader: c.leader, Term: c.term, Commit: c.commit, Applied: c.applied, State: c.state}
}

// Voters are the members that have a vote.
func (c *Core) Voters() []uint64 { return c.conf.GetVoters() }
