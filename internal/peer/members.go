package peer

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// remote is somebody who can be posted to: a member that has made itself known
// before the membership has reached this one. A peer is one, too.
type remote struct {
	t      *Transport
	id     member.ID
	urls   *picker
	log    *slog.Logger // names the member
	count  counters
	status *status // nil: not kept
	posts  pipeline
	added  time.Time
	ctx    context.Context
	cancel context.CancelFunc
}

func newRemote(t *Transport, id member.ID, urls *picker) *remote {
	r := &remote{
		t: t, id: id, urls: urls, log: t.log.With("remote-peer-id", id.String()),
		count: t.metrics.of(id), added: time.Now(),
	}
	r.ctx, r.cancel = context.WithCancel(t.ctx)
	return r
}

// lost tells raft and the metrics of n messages that did not get through.
func (r *remote) lost(n int) {
	if n > 0 {
		r.count.sentFailures.Add(float64(n))
		r.t.raft.Unreachable(r.id)
	}
}

func (r *remote) up() {
	if r.status != nil {
		r.status.up()
	}
}

func (r *remote) down(doing string, err error) {
	if r.status != nil {
		r.status.down(doing, err)
	}
}

// dropped tells of a message that there was no room for.
func (r *remote) dropped(m *raftpb.Message, queue string) {
	r.t.murmur.warn("dropped a message as the queue is full", r.id.String()+" "+queue, "remote-peer-id", r.id.String(),
		"queue", queue, "message-type", m.GetType().String())
	r.lost(1)
}

// peer is another member.
type peer struct {
	*remote
	lanes    [2]lane // by kind; those that it has opened
	snapshot atomic.Bool
	kicks    [2]chan struct{} // by kind: it is there, so try now
}

func newPeer(t *Transport, id member.ID, urls *picker) *peer {
	p := &peer{remote: newRemote(t, id, urls)}
	local, name := t.o.Member.String(), id.String()
	p.status = &status{
		log: p.log, active: t.metrics.active.WithLabelValues(local, name), lost: t.metrics.disconnected.WithLabelValues(local, name),
	}
	for i := range p.kicks {
		p.kicks[i] = make(chan struct{}, 1)
	}
	return p
}

// start begins to read what the member sends, and to look whether it is there.
func (p *peer) start() {
	for _, k := range []kind{everything, appends} {
		p.t.work.start(func() { (&reader{peer: p, kind: k}).run() })
	}
	p.t.work.start(func() { p.probe(probeStreams, p.t.streams) })
	p.t.work.start(func() { p.probe(probePosts, p.t.posts) })
}

// stop ends everything that goes on with the member. It does not wait.
func (p *peer) stop() {
	p.cancel()
	p.status.forget()
}

// send takes a message for the member: to the stream made for it, else to the
// stream of everything, else to the posts.
func (p *peer) send(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgSnap { // it could block a stream for long
		if m.GetType() == raftpb.MsgApp && p.offer(appends, m) || p.offer(everything, m) {
			return
		}
	}
	p.post(m)
}

// offer hands a message to a stream; false if the member has not opened it.
func (p *peer) offer(k kind, m *raftpb.Message) bool {
	open, ok := p.lanes[k].offer(m)
	if open && !ok {
		p.dropped(m, k.String())
	}
	return open
}

// kick has lost streams from the member dialled at once.
func (p *peer) kick() {
	for _, k := range p.kicks {
		select {
		case k <- struct{}{}:
		default:
		}
	}
}
