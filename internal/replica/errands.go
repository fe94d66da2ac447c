package replica

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/auth"
	"kvd/internal/state"
)

// errands are the loop's own proposals whose answers it wants to know. They go
// the way of everybody's, under the same limits; the loop, which cannot wait,
// looks for the answers in every round.
type errands struct {
	loop *loop
	out  []errand
}

// own is the header of what a member proposes by itself: in the name of root,
// once names are asked for.
func (r *Replica) own(id uint64) *pb.RequestHeader {
	header := &pb.RequestHeader{ID: id}
	if users := r.view.Load().Users; users.Enabled() {
		header.Username, header.AuthRevision = auth.Root, users.Revision()
	}
	return header
}

// errand is one on its way.
type errand struct {
	w    *waiter
	then func(error)
}

// send proposes a command. Then hears what came of it, within the request
// timeout, from the loop, unless the member stops first; it may send others.
func (es *errands) send(request *state.Request, then func(error)) {
	l := es.loop
	if l.r.behind(request) {
		then(ErrTooManyRequests)
		return
	}
	id := l.r.ids.Next()
	request.Header = l.r.own(id)
	data, err := state.Encode(request, nil)
	if err != nil {
		then(err)
		return
	}
	w := l.r.intake.rent()
	w.request = request
	w.due = l.now.Add(l.r.options.requestTimeout()).UnixNano()
	if err := l.r.intake.propose(proposal{id: id, kind: raftpb.EntryNormal, data: data}, w); err != nil {
		l.r.intake.recycle(w)
		then(err)
		return
	}
	es.out = append(es.out, errand{w, then})
}

// look passes on the answers that have come.
func (es *errands) look() {
	if len(es.out) == 0 {
		return
	}
	was := es.out
	es.out = nil
	for _, e := range was {
		select {
		case a := <-e.w.done:
			es.loop.r.intake.recycle(e.w)
			e.then(a.err)
		default:
			es.out = append(es.out, e)
		}
	}
}
