package sim

import (
	"encoding/binary"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/state"
)

const (
	clients = 4
	keys    = 4
	patient = 400 // steps that a client waits for an answer
)

// op is what one client did, and saw.
type op struct {
	client     int
	kind       string // put, delete, cas, get
	key        int
	value, old string
	begin, end int64 // steps; end is the last there is while nobody knows
	known      bool  // there was an answer: got, or whether a cas went well
	got        string
	ok         bool
	over       bool   // the client does not wait any more
	index      uint64 // a read waits for this entry
}

// begin has a client ask something of some member.
func (w *world) begin(client int) {
	n := w.some(func(n *node) bool { return n.up && !n.paused })
	if n == nil {
		return
	}
	w.value++
	o := &op{client: client, key: w.random.IntN(keys), value: fmt.Sprint(w.value), begin: w.now, end: math.MaxInt64}
	switch w.random.IntN(10) {
	case 0, 1, 2:
		o.kind = "put"
	case 3:
		o.kind = "delete"
	case 4, 5:
		o.kind, o.old = "cas", w.seen[o.key]
	default:
		o.kind = "get"
	}
	if o.kind == "get" {
		w.ask(n, o)
	} else if !w.propose(n, o, o.request()) {
		return
	}
	w.note("client %d: %s k%d %s at member %d", client, o.kind, o.key, o.value, n.id)
	w.clients[client] = o
	w.history = append(w.history, o)
}

func (w *world) ask(n *node, o *op) {
	s := n.core.Standing()
	switch {
	case w.bug == staleReads:
		o.read(w, n.view)
	case s.State == raft.StateLeader && n.led == 0: // it answers once it has an entry of its own
		o.leave(w)
	default:
		var id [8]byte
		w.request++
		binary.BigEndian.PutUint64(id[:], w.request)
		n.reads[w.request] = o
		n.core.Read(id)
		n.work()
	}
}

// request is the operation as a command.
func (o *op) request() *state.Request {
	key := []byte(fmt.Sprint("k", o.key))
	put := &pb.PutRequest{Key: key, Value: []byte(o.value)}
	switch o.kind {
	case "put":
		return &state.Request{Put: put}
	case "delete":
		return &state.Request{DeleteRange: &pb.DeleteRangeRequest{Key: key}}
	}
	compare := &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte(o.old)}}
	if o.old == "" {
		compare = &pb.Compare{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{}}
	}
	return &state.Request{Txn: &pb.TxnRequest{
		Compare: []*pb.Compare{compare},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}},
	}}
}

// propose offers a command at a member. False: it was not taken, and will have
// no effect.
func (w *world) propose(n *node, o *op, r *state.Request) bool {
	w.request++
	r.Header = &pb.RequestHeader{ID: w.request}
	data, err := state.Encode(r, nil)
	must(err)
	if o != nil {
		n.pending[w.request] = o
	}
	taken := n.core.Propose([]*raftpb.Entry{{Data: data}})
	if !taken && o != nil {
		delete(n.pending, w.request)
	}
	n.work()
	return taken
}

// change proposes a change of the members.
func (w *world) change(n *node, c member.Change) {
	w.request++
	data, err := proto.Marshal(c.Entry(w.request))
	must(err)
	n.core.Propose([]*raftpb.Entry{{Type: raftpb.EntryConfChange.Enum(), Data: data}})
	n.work()
}

// wrote is the answer to a write.
func (o *op) wrote(w *world, out state.Outcome) {
	o.ok = true
	if txn, ok := out.Reply.(*state.TxnReply); ok {
		o.ok = txn.Succeeded
	}
	w.check(out.Err == nil, "%s k%d is refused: %v", o.kind, o.key, out.Err)
	o.answer(w)
	if o.ok && o.kind != "delete" {
		w.seen[o.key] = o.value
	}
}

// read is the answer to a read.
func (o *op) read(w *world, v *state.View) {
	reply, err := v.Range(&pb.RangeRequest{Key: []byte(fmt.Sprint("k", o.key))})
	must(err)
	o.got = ""
	if len(reply.KVs) > 0 {
		kv, err := mvcc.Parse(reply.KVs[0])
		must(err)
		o.got = string(kv.Value)
	}
	if !o.over {
		w.seen[o.key] = o.got
	}
	o.answer(w)
}

func (o *op) answer(w *world) {
	if o.over {
		return
	}
	o.end, o.known, o.over = w.now, true, true
	w.note("client %d: %s k%d is answered: %q %v", o.client, o.kind, o.key, o.got, o.ok)
}

// leave is the end of the waiting without an answer.
func (o *op) leave(w *world) {
	if !o.over {
		o.over = true
		w.note("client %d: %s k%d has no answer", o.client, o.kind, o.key)
	}
}
