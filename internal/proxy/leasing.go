package proxy

import (
	"context"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// leasing answers linearizable reads of keys that it owns without asking a member,
// and has others give theirs up before it writes them. The protocol is that of
// etcd's leasing clients: for each key that is owned there is an ownership key,
// which is the prefix and the key and has the owner's lease. Who wants to write
// the key puts "REVOKE" there, and waits for the owner to delete it.
//
// A caller with a token is never answered from what others were, nor are its
// answers kept.
type leasing struct {
	proxy       *Proxy
	prefix      string
	keys        *owned
	revocations revocations
	waiting     chan struct{} // a token for each write that waits; holds maxWaiting
	lost        chan struct{} // one signal: the session is to end
}

// newLeasing makes the leasing of a proxy; nil if it has no prefix, or may not write.
func newLeasing(p *Proxy) *leasing {
	if p.o.LeasingPrefix == "" || p.o.ReadOnly {
		return nil
	}
	return &leasing{
		proxy: p, prefix: p.o.LeasingPrefix, keys: newOwned(),
		revocations: revocations{waits: map[string]map[*wait]bool{}},
		waiting:     make(chan struct{}, maxWaiting), lost: make(chan struct{}, 1),
	}
}

// sees takes note of an answer's header.
func (l *leasing) sees(h *pb.ResponseHeader) {
	if data, err := proto.Marshal(h); err == nil {
		l.keys.see(data)
	}
}

// serve answers a call of which leasing has something to say.
func (l *leasing) serve(ctx context.Context, c *call, request *frame) (answer any, served bool, err error) {
	if l == nil {
		return nil, false, nil
	}
	var written proto.Message
	switch c.name {
	case rangeMethod:
		return l.read(ctx, c, request)
	case putMethod:
		var r pb.PutRequest
		if proto.Unmarshal(request.data.Materialize(), &r) == nil {
			written, err = l.written(c, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &r}})
		}
	case deleteMethod:
		var r pb.DeleteRangeRequest
		if proto.Unmarshal(request.data.Materialize(), &r) == nil {
			written, err = l.written(c, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &r}})
		}
	case txn:
		var r pb.TxnRequest
		if proto.Unmarshal(request.data.Materialize(), &r) == nil {
			written, err = l.written(c, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &r}})
		}
	}
	return written, written != nil || err != nil, err
}

const (
	putMethod    = "/etcdserverpb.KV/Put"
	deleteMethod = "/etcdserverpb.KV/DeleteRange"
)

// written does what writes, guarded; nil if it need not be.
func (l *leasing) written(c *call, op *pb.RequestOp) (proto.Message, error) {
	spans := narrow(l.prefix, spansWritten([]*pb.RequestOp{op}))
	if len(spans) == 0 {
		return nil, nil
	}
	done, err := l.write(c, op, spans)
	if err != nil {
		return nil, err
	}
	return outcome(done)
}

// read answers a range of an owned key, or asks for the key, or has a member
// answer.
func (l *leasing) read(ctx context.Context, c *call, request *frame) (any, bool, error) {
	var r pb.RangeRequest
	if identityOf(ctx) != "" || proto.Unmarshal(request.data.Materialize(), &r) != nil || !l.leasable(&r) {
		return l.pass(ctx, c, request)
	}
	key := string(r.Key)
	known, t := l.keys.read(key, &r)
	switch {
	case known != nil && !l.proxy.order.older(c.name, &frame{data: mem.BufferSlice{mem.SliceBuffer(known)}}):
		l.proxy.parts.Metrics.leased.Inc()
		return &last{frame{mem.BufferSlice{mem.SliceBuffer(known)}}}, true, nil
	case r.Serializable:
	case t != nil:
		return l.learn(ctx, c, request, &r, t)
	default:
		if a := l.keys.ask(key); a != nil {
			if answer := l.acquire(c, &r, a); answer != nil {
				return answer, true, nil
			}
		}
	}
	return l.pass(ctx, c, request)
}

// leasable reports whether a range is of one key, and of the present.
func (l *leasing) leasable(r *pb.RangeRequest) bool {
	return len(r.Key) > 0 && len(r.RangeEnd) == 0 && r.Revision == 0 && r.Limit >= 0 && r.SortOrder == 0 && r.SortTarget == 0 &&
		r.MinModRevision == 0 && r.MaxModRevision == 0 && r.MinCreateRevision == 0 && r.MaxCreateRevision == 0 &&
		len(r.ProtoReflect().GetUnknown()) == 0 && !strings.HasPrefix(string(r.Key), l.prefix)
}

// pass has a member answer, and looks at the header.
func (l *leasing) pass(ctx context.Context, c *call, request *frame) (any, bool, error) {
	answer, err := l.proxy.pass(ctx, c, request)
	if err != nil {
		return nil, true, err
	}
	if len(answer.data) > 0 {
		if number, kind, n := protowire.ConsumeTag(answer.data[0].ReadOnlyData()); n > 0 && number == responseHeader && kind == protowire.BytesType {
			if head, size := protowire.ConsumeBytes(answer.data[0].ReadOnlyData()[n:]); size > 0 {
				l.keys.see(head)
			}
		}
	}
	return answer, true, nil
}

// learn has a member tell what an owned key holds.
func (l *leasing) learn(ctx context.Context, c *call, request *frame, r *pb.RangeRequest, t *ticket) (any, bool, error) {
	answer, _, err := l.pass(ctx, c, request)
	if err != nil || r.KeysOnly || r.CountOnly {
		return answer, true, err
	}
	var told pb.RangeResponse
	if proto.Unmarshal(answer.(*last).data.Materialize(), &told) == nil {
		l.keys.learn(t, only(told.Kvs))
	}
	return answer, true, nil
}

func only(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) != 1 {
		return nil
	}
	return kvs[0]
}

// acquire asks for a key and reads it. Nil: a member has to be asked in the plain
// way. That the key is another's, or that it has a lease, is no error.
func (l *leasing) acquire(c *call, r *pb.RangeRequest, a *acquisition) any {
	own := []byte(l.prefix + a.key)
	read := rangeOp(&pb.RangeRequest{Key: r.Key})
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: own, Lease: a.session}}}
	request := ifStill(own, 0, read)
	request.Compare = append(request.Compare, &pb.Compare{
		Key: r.Key, Target: pb.Compare_LEASE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Lease{},
	})
	request.Success = append(request.Success, put)
	request.Failure = []*pb.RequestOp{read, rangeOp(&pb.RangeRequest{Key: own})}
	var done pb.TxnResponse
	err := l.proxy.invoke(c.ctx, txn, request, &done)
	if err != nil || len(done.Responses) != 2 {
		l.keys.refused(a)
		return nil
	}
	l.sees(done.Header)
	kv := only(done.Responses[0].GetResponseRange().GetKvs())
	if done.Succeeded {
		l.keys.add(a, done.Header.GetRevision(), kv)
	} else {
		l.keys.refused(a)
		if owner := only(done.Responses[1].GetResponseRange().GetKvs()); owner != nil && l.keys.ours(owner.Lease) {
			l.keys.orphan(a.key, owner.CreateRevision)
		}
	}
	head, err := proto.Marshal(done.Header)
	if err != nil {
		return nil
	}
	return &last{frame{mem.BufferSlice{mem.SliceBuffer(composed(head, kvAsked(kv, r), kv != nil))}}}
}
