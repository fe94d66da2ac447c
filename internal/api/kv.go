package api

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kvd/internal/mvcc"
	"kvd/internal/state"
)

func (a *API) kvService() *grpc.ServiceDesc {
	const name = "etcdserverpb.KV"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "Range", state.DecodeRange, a.rangeKeys, checkRange),
			unary(a, name, "Put", state.DecodePut, a.put, checkPut),
			unary(a, name, "DeleteRange", state.DecodeDeleteRange, a.deleteRange, checkDelete),
			unary(a, name, "Txn", state.DecodeTxn, a.txn, func(r *pb.TxnRequest) error { return checkTxn(r, a.o.MaxTxnOps) }),
			unary(a, name, "Compact", decoded[pb.CompactionRequest], a.compact),
		},
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "RangeStream", ServerStreams: true}, a.rangeStream),
		},
		Metadata: "rpc.proto",
	}
}

func (a *API) rangeKeys(ctx context.Context, r *pb.RangeRequest, _ []byte) (any, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	var h *hold
	if len(r.RangeEnd) > 0 { // one key is bounded by what a request may hold
		h = a.budget.hold()
	}
	v, page, err := a.answerRange(ctx, r, allowed(ctx, &state.Request{Range: r}), h)
	if err != nil {
		h.release()
		return nil, err
	}
	return encodeHeld(page, a.header(v), h), nil
}

// may reports why a view must not be shown to who asks.
type may func(*state.View) error

// allowed is what permissions say.
func allowed(ctx context.Context, r *state.Request) may {
	return func(v *state.View) error { return permit(ctx, v, r) }
}

// Range answers a question of this process itself, which needs no permission. It
// must be well formed. The answer is from the view that it returns.
func (a *API) Range(ctx context.Context, r *pb.RangeRequest) (*state.View, *state.RangeReply, error) {
	return a.answerRange(ctx, r, everybody, nil)
}

// everybody is for what the rule of the call has decided already.
func everybody(*state.View) error { return nil }

func (a *API) answerRange(ctx context.Context, r *pb.RangeRequest, ok may, h *hold) (v *state.View, page *state.RangeReply, err error) {
	began := time.Now()
	if !r.Serializable {
		err = a.member.Barrier(ctx)
	}
	if err == nil {
		v, page, err = a.rangeNow(r, ok, h)
	}
	a.metrics.rangeRequests.observe(began, err)
	return v, page, err
}

// rangeNow answers from the newest view.
func (a *API) rangeNow(r *pb.RangeRequest, ok may, h *hold) (*state.View, *state.RangeReply, error) {
	began := time.Now()
	v, page, err := read(a, ok, func(v *state.View) (*state.RangeReply, error) { return v.Within(h.spender()).Range(r) })
	a.metrics.ranges.observe(began, err)
	return v, page, err
}

// read asks the newest view, and again while a compaction takes it away under
// the reading. Permission and answer are of the same moment.
func read[R any](a *API, ok may, ask func(*state.View) (R, error)) (*state.View, R, error) {
	for {
		v := a.member.View()
		if err := ok(v); err != nil {
			var none R
			return v, none, err
		}
		r, err := ask(v)
		if !errors.Is(err, mvcc.ErrCollected) {
			return v, r, err
		}
	}
}

func (a *API) put(ctx context.Context, r *pb.PutRequest, raw []byte) (any, error) {
	req := &state.Request{Put: r}
	if err := a.checkQuota(ctx, req); err != nil {
		return nil, err
	}
	if err := checkPut(r); err != nil {
		return nil, err
	}
	return a.propose(ctx, req, raw)
}

func (a *API) deleteRange(ctx context.Context, r *pb.DeleteRangeRequest, raw []byte) (any, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	return a.propose(ctx, &state.Request{DeleteRange: r}, raw)
}

func (a *API) txn(ctx context.Context, r *pb.TxnRequest, raw []byte) (any, error) {
	req := &state.Request{Txn: r}
	if err := a.checkQuota(ctx, req); err != nil {
		return nil, err
	}
	if err := checkTxn(r, a.o.MaxTxnOps); err != nil {
		return nil, err
	}
	only, barrier := readsOnly(r)
	if !only {
		return a.propose(ctx, req, raw)
	}
	if barrier {
		if err := a.member.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	h := a.budget.hold()
	defer h.release()
	v, reply, err := read(a, allowed(ctx, req), func(v *state.View) (*state.TxnReply, error) { return v.Within(h.spender()).ReadTxn(r) })
	a.metrics.readTxns.observe(began, err)
	if err != nil {
		return nil, err
	}
	return encode(reply, a.header(v)), nil
}

func (a *API) compact(ctx context.Context, r *pb.CompactionRequest, _ []byte) (any, error) {
	return a.propose(ctx, &state.Request{Compaction: r}, nil)
}

// submit runs a command in its caller's name.
func (a *API) submit(ctx context.Context, req *state.Request, raw []byte) (any, error) {
	if c := callerOf(ctx); c.known {
		who := c.at(a.member.View().Users)
		req.Header = &pb.RequestHeader{Username: who.Name, AuthRevision: who.Revision}
	}
	return a.member.Propose(ctx, req, raw)
}

// propose runs a command in its caller's name and encodes the reply.
func (a *API) propose(ctx context.Context, req *state.Request, raw []byte) (any, error) {
	result, err := a.submit(ctx, req, raw)
	if err != nil {
		return nil, err
	}
	return encode(result.(reply), a.header(a.member.View())), nil
}
