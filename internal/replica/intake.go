package replica

import (
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/state"
)

const (
	maxPending      = 1 << 16   // proposals not answered
	maxPendingBytes = 512 << 20 // of them
	maxCalls        = 1 << 16   // waiting for the loop's next round
	maxMessages4me  = 4096      // of peers, waiting for the loop's next round,
	maxMessageQueue = 512 << 20 // and bytes of entries in them; one message may exceed it
)

// proposal is an entry on its way into the log.
type proposal struct {
	id   uint64
	kind raftpb.EntryType
	data []byte
}

// waiter waits for the answer to one proposal.
type waiter struct {
	id      uint64
	bytes   int
	request *state.Request // nil for a change of members
	due     int64          // by the loop's clock, in nanoseconds
	done    chan answer    // holds one
}

type answer struct {
	reply any
	err   error
}

// rent returns a waiter.
func (in *intake) rent() *waiter { return in.waiters.Get().(*waiter) }

// recycle gives a waiter back that nobody will answer (again).
func (in *intake) recycle(w *waiter) {
	w.request = nil
	in.waiters.Put(w)
}

// call is a question to the loop, which answers it in its own time.
type call func(*loop)

// intake is the loop's inbox, and the proposals that wait for their answers.
type intake struct {
	wake    chan struct{} // one signal at most
	waiters sync.Pool     // of *waiter

	mu        sync.Mutex
	refusing  error // once the member stops
	proposals []proposal
	pending   map[uint64]*waiter
	bytes     int   // of pending
	earliest  int64 // no pending waiter is due before
	received  int   // bytes of entries in notes.messages
	notes           // for the next round
}

// notes are what happened since the loop's last round.
type notes struct {
	calls    []call
	messages []*raftpb.Message // from peers
	lost     []uint64          // members that something sent to them did not reach, each once
	copies   []copyEnd         // of snapshots for other members; as many as are on their way
	written  []written         // from the appender
	applied  []applied         // from the applier
}

// written says that messages of the loop are in the log.
type written struct {
	appends int
	answers []*raftpb.Message
}

// applied says that the machine has gone on, and the view with it.
type applied struct {
	begun   uint64 // newest term whose empty entry was among them, or 0
	changes []*raftpb.ConfChange
	leases  []state.LeaseChange
	answers []*raftpb.Message
	late    []late // answers to give when raft knows of the above
}

// urgent reports whether the loop has to act on the note.
func (a *applied) urgent() bool {
	return a.begun != 0 || len(a.changes) > 0 || len(a.leases) > 0 || len(a.late) > 0
}

type late struct {
	w *waiter
	a answer
}

func newIntake() *intake {
	in := &intake{wake: make(chan struct{}, 1), pending: map[uint64]*waiter{}}
	in.waiters.New = func() any { return &waiter{done: make(chan answer, 1)} }
	return in
}

func (in *intake) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// propose registers w for the answer, and the proposal for the next round.
func (in *intake) propose(p proposal, w *waiter) error {
	in.mu.Lock()
	switch {
	case in.refusing != nil:
		in.mu.Unlock()
		return in.refusing
	case len(in.pending) >= maxPending || in.bytes+len(p.data) > maxPendingBytes && len(in.pending) > 0:
		in.mu.Unlock()
		return ErrTooManyRequests
	}
	if len(in.pending) == 0 {
		in.earliest = w.due
	}
	w.id, w.bytes = p.id, len(p.data)
	in.pending[p.id] = w
	in.bytes += w.bytes
	in.proposals = append(in.proposals, p)
	first := len(in.proposals) == 1
	in.mu.Unlock()
	if first { // else the one who was first has woken the loop
		in.signal()
	}
	return nil
}

// ask hands a call to the loop.
func (in *intake) ask(c call) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.refusing != nil:
		return in.refusing
	case len(in.calls) >= maxCalls:
		return ErrTooManyRequests
	}
	in.calls = append(in.calls, c)
	in.signal()
	return nil
}

// deliver takes a message of a peer, or drops it.
func (in *intake) deliver(m *raftpb.Message) {
	if !sound(m) {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.messages) >= maxMessages4me || in.refusing != nil {
		return
	}
	bytes := 0
	for _, e := range m.GetEntries() {
		bytes += len(e.GetData())
	}
	if in.received > 0 && in.received+bytes > maxMessageQueue {
		return
	}
	in.received += bytes
	in.messages = append(in.messages, m)
	in.signal()
}

// sound keeps out what no member sends: raft trusts its peers, and would take
// a storage message for our own.
func sound(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		n := len(m.GetContext())
		return m.GetFrom() != 0 && (n == 0 || n == readContextLength)
	case raftpb.MsgProp, raftpb.MsgReadIndex:
		return len(m.GetEntries()) > 0
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgSnap, raftpb.MsgReadIndexResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow:
		return m.GetFrom() != 0
	}
	return false
}

// copied notes what became of a snapshot for a member. It is never refused: raft
// would wait for it for ever.
func (in *intake) copied(end copyEnd) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refusing == nil {
		in.copies = append(in.copies, end)
		in.signal()
	}
}

// unreachable notes that something sent to a member was lost.
func (in *intake) unreachable(id uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refusing == nil && !slices.Contains(in.lost, id) {
		in.lost = append(in.lost, id)
		in.signal()
	}
}

func (in *intake) wrote(w written) {
	in.mu.Lock()
	in.written = append(in.written, w)
	in.mu.Unlock()
	in.signal()
}

// apply takes the applier's note. Unless it is urgent the loop sees it when
// something else wakes it, with the next tick at the latest.
func (in *intake) apply(a applied, urgent bool) {
	in.mu.Lock()
	in.applied = append(in.applied, a)
	in.mu.Unlock()
	if urgent {
		in.signal()
	}
}

// take exchanges the notes for old, whose contents are given up.
func (in *intake) take(old notes) notes {
	clear(old.calls)
	clear(old.messages)
	clear(old.written)
	clear(old.applied)
	old = notes{old.calls[:0], old.messages[:0], old.lost[:0], old.copies[:0], old.written[:0], old.applied[:0]}
	in.mu.Lock()
	defer in.mu.Unlock()
	fresh := in.notes
	in.notes, in.received = old, 0
	return fresh
}

// proposing reports whether proposals wait.
func (in *intake) proposing() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.proposals) > 0
}

// takeProposals returns proposals of up to most bytes, but one at least. Old,
// whose contents are given up, may be used for others.
func (in *intake) takeProposals(old []proposal, most int) (fresh []proposal) {
	clear(old)
	in.mu.Lock()
	defer in.mu.Unlock()
	n := len(in.proposals)
	if in.bytes > most { // of all that are pending; look closer
		sum := 0
		n = 0
		for n < len(in.proposals) && (n == 0 || sum+len(in.proposals[n].data) <= most) {
			sum += len(in.proposals[n].data)
			n++
		}
	}
	fresh, in.proposals = in.proposals[:n], append(old[:0], in.proposals[n:]...)
	return fresh
}

// giveBack puts proposals that raft did not take in front of those that wait.
func (in *intake) giveBack(refused []proposal) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.proposals = append(append([]proposal(nil), refused...), in.proposals...)
}

// claim takes the waiters of these request IDs; a place of found stays nil
// where nobody waits here. Whoever claims a waiter answers it. It returns how
// many go on waiting.
func (in *intake) claim(ids []uint64, found []*waiter) (left int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.pending) == 0 {
		return 0
	}
	for i, id := range ids {
		if id == 0 {
			continue
		}
		if w := in.pending[id]; w != nil {
			in.dropLocked(w)
			found[i] = w
		}
	}
	return len(in.pending)
}

// leave takes back a waiter. False: somebody else has claimed it already.
func (in *intake) leave(w *waiter) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pending[w.id] != w {
		return false
	}
	in.dropLocked(w)
	return true
}

func (in *intake) dropLocked(w *waiter) {
	delete(in.pending, w.id)
	in.bytes -= w.bytes
}

// overdue is a waiter whose time is up.
type overdue struct {
	w        *waiter
	proposed bool // raft has it; else it will never be proposed
}

// expire claims the waiters that are due. Those whose proposal has not been
// taken yet take it with them.
func (in *intake) expire(now int64, timeout time.Duration) []overdue {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.pending) == 0 || now < in.earliest {
		return nil
	}
	var out []overdue
	in.earliest = now + int64(timeout)
	for _, w := range in.pending {
		if w.due > now {
			in.earliest = min(in.earliest, w.due)
			continue
		}
		in.dropLocked(w)
		out = append(out, overdue{w: w, proposed: true})
	}
	if len(out) > 0 && len(in.proposals) > 0 {
		in.withdrawLocked(out)
	}
	return out
}

// withdrawLocked removes the proposals of those who have stopped waiting.
func (in *intake) withdrawLocked(gone []overdue) {
	byID := make(map[uint64]int, len(gone))
	for i, o := range gone {
		byID[o.w.id] = i
	}
	kept := in.proposals[:0]
	for _, p := range in.proposals {
		if i, ok := byID[p.id]; ok {
			gone[i].proposed = false
			continue
		}
		kept = append(kept, p)
	}
	clear(in.proposals[len(kept):])
	in.proposals = kept
}

// refuse lets nothing more in.
func (in *intake) refuse() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refusing == nil {
		in.refusing = ErrStopped
	}
}

// close lets nothing more in and sends away all who wait. Calls are dropped:
// their callers look at the end of the loop, too.
func (in *intake) close() {
	in.refuse()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.pending {
		in.dropLocked(w)
		w.done <- answer{err: ErrStopped}
	}
	in.proposals = nil
	for _, a := range in.applied {
		for _, l := range a.late {
			l.w.done <- l.a
		}
	}
	in.notes = notes{}
}
