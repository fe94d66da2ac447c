package replica

import (
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// readRetry is when a round is asked for again that has not been answered.
const readRetry = 500 * time.Millisecond

// maxAsked is how many requests of other members a leader holds for its next
// round. A member has one on its way, and another each readRetry.
const maxAsked = 1024

// reads brings linearizable reads together: at any time one round is on its
// way to raft, and who comes meanwhile waits for the next. A leader's rounds
// serve the other members, too, if they take a round: given to raft one by one,
// each request would cost heartbeats of its own.
type reads struct {
	loop    *loop
	next    []waiting[struct{}]
	asked   []*raftpb.Message // MsgReadIndex of others, for the next round
	round   []waiting[struct{}]
	serving []*raftpb.Message // asked, in the round
	ids     map[uint64]bool   // contexts that were sent for the round; nil: none is on its way
	again   time.Time         // when to send another
	behind  []behind          // rounds that raft has answered, by index
}

// behind is a round that waits for an index to be applied.
type behind struct {
	index uint64
	round []waiting[struct{}]
}

func (rs *reads) join(w waiting[struct{}]) { rs.next = append(rs.next, w) }

// ask takes the request of another member for the leader's next round. One too
// many is dropped; who sent it asks again.
func (rs *reads) ask(m *raftpb.Message) {
	if len(rs.asked) < maxAsked {
		rs.asked = append(rs.asked, m)
	}
}

// begin starts a round if one is wanted and possible. A leader first has to
// apply an entry of its own term: a leader without other voters would answer
// from a commit index that it may not have caught up with.
func (rs *reads) begin() {
	l := rs.loop
	if rs.ids != nil || len(rs.next)+len(rs.asked) == 0 || l.core.leader == 0 || l.core.Leading() && l.led == 0 {
		return
	}
	rs.round, rs.next = rs.next, nil
	rs.serving, rs.asked = rs.asked, nil
	rs.ids = map[uint64]bool{}
	rs.send()
}

func (rs *reads) send() {
	id := rs.loop.r.ids.Next()
	rs.ids[id] = true
	rs.again = rs.loop.now.Add(readRetry)
	var context [readContextLength]byte
	binary.BigEndian.PutUint64(context[:], id)
	rs.loop.core.Read(context)
}

// answered takes raft's answer.
func (rs *reads) answered(s raft.ReadState) {
	if len(s.RequestCtx) != readContextLength || !rs.ids[binary.BigEndian.Uint64(s.RequestCtx)] {
		rs.loop.r.metrics.slowReads.Inc() // of a round that is over
		return
	}
	if len(rs.round) > 0 {
		rs.behind = append(rs.behind, behind{s.Index, rs.round})
	}
	rs.answer(s.Index)
	rs.round, rs.ids = nil, nil
	rs.release(rs.loop.r.applied.Load())
}

// answer tells the members that the round serves the index that raft returned.
func (rs *reads) answer(index uint64) {
	if len(rs.serving) == 0 {
		return
	}
	for i, m := range rs.serving {
		rs.serving[i] = rs.loop.core.reply(m, index)
	}
	if send := rs.loop.health.mute(rs.serving); len(send) > 0 {
		rs.loop.r.parts.Send(send)
	}
	rs.serving = nil
}

// disown forgets the requests of others: this member does not lead any more.
func (rs *reads) disown() {
	rs.asked, rs.serving = nil, nil
	rs.idle()
}

// idle ends a round that nobody waits for any more.
func (rs *reads) idle() {
	if len(rs.round)+len(rs.serving) == 0 {
		rs.ids = nil
	}
}

// release answers the rounds that applied has reached.
func (rs *reads) release(applied uint64) {
	kept := rs.behind[:0]
	for _, b := range rs.behind {
		if b.index > applied {
			kept = append(kept, b)
			continue
		}
		for _, w := range b.round {
			w.reply(struct{}{}, nil)
		}
	}
	clear(rs.behind[len(kept):])
	rs.behind = kept
	rs.begin()
}

// tick sends a lost round again and sends away who has waited too long.
func (rs *reads) tick() {
	now := rs.loop.now
	rs.next = rs.overdue(rs.next, now)
	rs.round = rs.overdue(rs.round, now)
	for i := range rs.behind {
		rs.behind[i].round = rs.overdue(rs.behind[i].round, now)
	}
	rs.idle()
	if rs.ids != nil && !now.Before(rs.again) {
		rs.loop.r.log.Warn("no answer to a read round yet; asking again")
		rs.send()
	}
}

func (rs *reads) overdue(in []waiting[struct{}], now time.Time) []waiting[struct{}] {
	kept := dropOverdue(in, now, ErrTimeout)
	rs.loop.r.metrics.failedReads.Add(float64(len(in) - len(kept)))
	return kept
}

// fail sends everybody away who waits for raft.
func (rs *reads) fail(err error) {
	n := 0
	for _, w := range rs.round {
		w.reply(struct{}{}, err)
		n++
	}
	rs.round, rs.serving, rs.ids = nil, nil, nil
	if errors.Is(err, ErrStopped) {
		for _, w := range rs.next {
			w.reply(struct{}{}, err)
		}
		for _, b := range rs.behind {
			for _, w := range b.round {
				w.reply(struct{}{}, err)
			}
		}
		rs.next, rs.behind = nil, nil
	}
	rs.loop.r.metrics.failedReads.Add(float64(n))
}
