package api

import (
	"bytes"
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/watch"
)

// etcd's texts.
var (
	errNoClaim        = errors.New(`"leader" field must be provided`)
	errNotElected     = errors.New("election: not leader")
	errNobodyElected  = errors.New("election: no leader")
	errObserveStopped = errors.New("the watcher of the election has ended")
)

func (a *API) electionService() *grpc.ServiceDesc {
	const name = "v3electionpb.Election"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "Campaign", decodeCampaign, a.campaign),
			unary(a, name, "Proclaim", decodeProclaim, a.proclaim),
			unary(a, name, "Leader", decodeLeader, a.elected),
			unary(a, name, "Resign", decodeResign, a.resign),
		},
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "Observe", ServerStreams: true}, a.observe),
		},
		Metadata: "v3election.proto",
	}
}

// campaign answers when the caller is elected. A caller that goes away before
// leaves nothing behind.
func (a *API) campaign(ctx context.Context, r campaignRequest, _ []byte) (any, error) {
	ctx, done := a.streams.add(ctx, openStream{})
	defer done()
	c, err := a.stake(ctx, r.name, r.lease, r.value)
	if err != nil {
		return nil, plainly(err)
	}
	if !bytes.Equal(c.value, r.value) { // it was there already
		_, err = a.restate(ctx, c.key, c.created, r.value, c.lease)
	}
	if err == nil && !c.first {
		err = a.await(ctx, c)
	}
	if err != nil {
		a.abandon(ctx, c)
		if errors.Is(err, errLost) {
			err = errNotElected
		}
		return nil, plainly(err)
	}
	leader := leadership{name: r.name, key: []byte(c.key), rev: c.created, lease: c.lease}
	return encode(campaignReply{leader}, c.header), nil
}

// restate puts a new value for a key that is still what it was when it was
// created.
func (a *API) restate(ctx context.Context, key string, created int64, value []byte, lease int64) (rev int64, err error) {
	reply, err := a.transact(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, created)},
		Success: []*pb.RequestOp{putOp(key, value, lease)},
	})
	if err != nil {
		return 0, err
	}
	if !reply.Succeeded {
		return 0, errNotElected
	}
	return reply.Revision, nil
}

func (a *API) proclaim(ctx context.Context, r proclaimRequest, _ []byte) (any, error) {
	if r.leader == nil {
		return nil, plainly(errNoClaim)
	}
	c := claim{lease: r.leader.lease}
	if c.lease == 0 {
		var err error
		if c.lease, err = a.grant(ctx); err != nil {
			return nil, plainly(err)
		}
		c.granted = true
	}
	rev, err := a.restate(ctx, string(r.leader.key), r.leader.rev, r.value, c.lease)
	if err != nil {
		a.abandon(ctx, &c)
		return nil, plainly(err)
	}
	return encode(headerReply{}, a.headerAt(rev)), nil
}

func (a *API) resign(ctx context.Context, r resignRequest, _ []byte) (any, error) {
	if r.leader == nil {
		return nil, plainly(errNoClaim)
	}
	key := string(r.leader.key)
	reply, err := a.transact(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, r.leader.rev)},
		Success: []*pb.RequestOp{deleteOp(key)},
	})
	if err != nil {
		return nil, plainly(err)
	}
	return encode(headerReply{}, a.headerAt(reply.Revision)), nil
}

// elected says who is.
func (a *API) elected(ctx context.Context, r leaderRequest, _ []byte) (any, error) {
	v, kv, err := a.holder(ctx, string(r.name)+"/")
	if err != nil {
		return nil, plainly(err)
	}
	if kv == nil {
		return nil, plainly(errNobodyElected)
	}
	return encode(leaderReply{kv}, a.header(v)), nil
}

// holder is the pair under a prefix that was created first, nil if there is
// none, in a view that is no older than the call.
func (a *API) holder(ctx context.Context, prefix string) (*state.View, []byte, error) {
	r := firstCreated(prefix)
	if err := a.mayRead(ctx, r); err != nil {
		return nil, nil, err
	}
	v, page, err := a.answerRange(ctx, r, allowed(ctx, &state.Request{Range: r}), nil)
	if err != nil || len(page.KVs) == 0 {
		return v, nil, err
	}
	return v, page.KVs[0], nil
}

// observe tells who is elected, and what they proclaim, for as long as the
// client listens.
func (a *API) observe(c *call) error {
	in, err := c.receive()
	if err != nil {
		return err
	}
	r, err := decodeLeader(in)
	if err != nil {
		return malformed(err)
	}
	o := observer{api: a, call: c, prefix: string(r.name) + "/"}
	for {
		if err := o.one(); err != nil {
			return plainly(err)
		}
	}
}

// observer is one Observe call.
type observer struct {
	api    *API
	call   *call
	prefix string
}

// one tells of one who is elected, until that is over.
func (o *observer) one() error {
	v, kv, err := o.api.holder(o.call.ctx, o.prefix)
	if err != nil {
		return err
	}
	h := o.api.header(v)
	if kv == nil {
		return o.follow(mvcc.Span{Key: []byte(o.prefix), End: prefixEnd(o.prefix)}, h.Revision, func(_ int64, e *mvccpb.Event) (bool, error) {
			return e.Type == mvccpb.Event_PUT, nil // who it is tells the next look
		})
	}
	if err := o.call.send(encode(leaderReply{kv}, h)); err != nil {
		return err
	}
	pair, err := mvcc.Parse(kv)
	if err != nil {
		return err
	}
	return o.follow(mvcc.Span{Key: pair.Key}, h.Revision, func(rev int64, e *mvccpb.Event) (over bool, err error) {
		if e.Type == mvccpb.Event_DELETE {
			return true, nil
		}
		if err := o.api.mayRead(o.call.ctx, firstCreated(o.prefix)); err != nil { // it may have been taken away meanwhile
			return true, err
		}
		kv, err := proto.Marshal(e.Kv)
		if err != nil {
			return true, err
		}
		return false, o.call.send(encode(leaderReply{kv}, o.api.headerAt(rev)))
	})
}

// follow hands the events of a span after rev to see, with the revision that was
// the newest when they were, until see says that it is over. It also is when a
// compaction has overtaken it.
func (o *observer) follow(span mvcc.Span, rev int64, see func(rev int64, e *mvccpb.Event) (over bool, err error)) error {
	sink := o.api.hub.Sink()
	defer sink.Close()
	defer context.AfterFunc(o.call.ctx, sink.Wake)()
	if _, err := o.api.hub.Watch(watch.Spec{Span: span, From: rev + 1}, sink, nil); err != nil {
		return err
	}
	for {
		<-sink.Ready()
		if o.call.ctx.Err() != nil {
			return context.Cause(o.call.ctx)
		}
		for m := sink.Take(); m != nil; m = sink.Take() {
			switch m.Kind {
			case watch.Cancelled:
				if m.Compacted == 0 {
					return errObserveStopped
				}
				return nil
			case watch.Events:
				if over, err := each(m, see); over || err != nil {
					return err
				}
			}
		}
	}
}

// each hands the events of a message to see, until it has enough.
func each(m *watch.Message, see func(rev int64, e *mvccpb.Event) (over bool, err error)) (over bool, err error) {
	for _, piece := range m.Pieces {
		r := &pb.WatchResponse{}
		if err := proto.Unmarshal(piece, r); err != nil {
			return false, err
		}
		for _, e := range r.Events {
			if over, err := see(m.Revision, e); over || err != nil {
				return over, err
			}
		}
	}
	return false, nil
}
