package api

import (
	"context"
	"errors"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/watch"
)

// Election and Lock are made of keys, in the layout that etcd's clients have,
// who may do the same by themselves: who wants the name puts name/lease in
// hexadecimal, with that lease. The key that was created first holds the name;
// each other waits until the one created before it is gone.

// sessionTTL is that of the lease of a caller who has brought none, in seconds.
const sessionTTL = 60

// claim is one caller's key under a name.
type claim struct {
	prefix  string
	key     string
	lease   int64
	created int64        // revision at which the key was created
	granted bool         // the lease was, for this claim
	header  state.Header // of the transaction that made or found the key
	first   bool         // the key holds the name already
	value   []byte       // the key's, if it was there already
}

// stake puts a caller's key, or finds it: who claims twice with one lease has
// one claim. Its outcome is always known, unless the cluster does not answer:
// the caller's going away does not cut it short.
func (a *API) stake(ctx context.Context, name []byte, lease int64, value []byte) (c *claim, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, done := a.unhurried(ctx)
	defer done()
	c = &claim{prefix: string(name) + "/", lease: lease}
	if lease == 0 {
		if c.lease, err = a.grant(ctx); err != nil {
			return nil, err
		}
		c.granted = true
	}
	c.key = c.prefix + strconv.FormatInt(c.lease, 16)
	holder := rangeOp(firstCreated(c.prefix))
	reply, err := a.transact(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(c.key, 0)},
		Success: []*pb.RequestOp{putOp(c.key, value, c.lease), holder},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte(c.key)}), holder},
	})
	if err != nil {
		a.abandon(ctx, c)
		return nil, err
	}
	c.header = a.headerAt(reply.Revision)
	c.created = reply.Revision
	if !reply.Succeeded {
		mine, err := only(reply.Responses[0])
		if err != nil {
			return nil, err
		}
		c.created, c.value = mine.Create, mine.Value
	} else {
		c.value = value
	}
	owner, err := only(reply.Responses[1])
	if err != nil {
		return nil, err
	}
	c.first = owner.Create == c.created
	return c, nil
}

// errLost is what a claim ends with whose key is gone.
var errLost = errors.New("the claim's key is gone")

// await returns when every claim that was created before c is gone; or earlier,
// if c is.
func (a *API) await(ctx context.Context, c *claim) error {
	for {
		before, rev, err := a.predecessor(ctx, c)
		if before == nil || err != nil {
			return err
		}
		if err := a.deletion(ctx, rev, before, []byte(c.key)); err != nil {
			return err
		}
	}
}

// predecessor is the key that was created last before c's, and the revision at
// which that is so.
func (a *API) predecessor(ctx context.Context, c *claim) (key []byte, rev int64, err error) {
	earlier := &pb.RangeRequest{
		Key: []byte(c.prefix), RangeEnd: prefixEnd(c.prefix), KeysOnly: true, Limit: 1,
		SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_CREATE, MaxCreateRevision: c.created - 1,
	}
	if err := a.mayRead(ctx, earlier); err != nil {
		return nil, 0, err
	}
	// The claim is in this member's view: nothing that was created before it
	// can be missing there.
	v, kvs, err := read(a, allowed(ctx, &state.Request{Range: earlier}), func(v *state.View) ([][]byte, error) {
		mine, err := v.Range(&pb.RangeRequest{Key: []byte(c.key), KeysOnly: true, MinCreateRevision: c.created, MaxCreateRevision: c.created})
		if err != nil {
			return nil, err
		}
		if len(mine.KVs) == 0 {
			return nil, errLost
		}
		page, err := v.Range(earlier)
		if err != nil {
			return nil, err
		}
		return page.KVs, nil
	})
	if err != nil || len(kvs) == 0 {
		return nil, 0, err
	}
	kv, err := mvcc.Parse(kvs[0])
	return kv.Key, v.Keys.Revision(), err
}

// deletion returns when one of the keys may have been deleted after rev.
func (a *API) deletion(ctx context.Context, rev int64, keys ...[]byte) error {
	sink := a.hub.Sink()
	defer sink.Close()
	defer context.AfterFunc(ctx, sink.Wake)()
	for _, key := range keys {
		if _, err := a.hub.Watch(watch.Spec{Span: mvcc.Span{Key: key}, From: rev + 1, NoPuts: true}, sink, nil); err != nil {
			return err
		}
	}
	for {
		<-sink.Ready()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for m := sink.Take(); m != nil; m = sink.Take() {
			if m.Kind == watch.Events || m.Kind == watch.Cancelled { // a compaction may have hidden it
				return nil
			}
		}
	}
}

// abandon removes what a caller has claimed who does not want it any more, though
// the caller has gone.
func (a *API) abandon(ctx context.Context, c *claim) {
	ctx, done := a.unhurried(ctx)
	defer done()
	var err error
	switch {
	case c.granted:
		_, err = a.command(ctx, "/etcdserverpb.Lease/LeaseRevoke", &state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: c.lease}})
	case c.created != 0:
		_, err = a.transact(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{createdAt(c.key, c.created)},
			Success: []*pb.RequestOp{deleteOp(c.key)},
		})
	}
	if err != nil {
		a.log.Warn("a claim that nobody wants any more stays until its lease ends", "key", c.key, "lease", c.lease, "error", err)
	}
}

// unhurried is a context that lives on when the caller has gone, for the time of
// one request.
func (a *API) unhurried(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.o.RequestTimeout)
}

// What a claim needs is asked for as its caller would ask: by the rule of the RPC
// that does it.

func (a *API) command(ctx context.Context, method string, req *state.Request) (any, error) {
	if err := rules[method].served(a, req); err != nil {
		return nil, err
	}
	return a.submit(ctx, req, nil)
}

func (a *API) transact(ctx context.Context, r *pb.TxnRequest) (*state.TxnReply, error) {
	req := &state.Request{Txn: r}
	if err := a.checkQuota(ctx, req); err != nil {
		return nil, err
	}
	if err := checkTxn(r, a.o.MaxTxnOps); err != nil {
		return nil, err
	}
	reply, err := a.command(ctx, "/etcdserverpb.KV/Txn", req)
	if err != nil {
		return nil, err
	}
	return reply.(*state.TxnReply), nil
}

func (a *API) grant(ctx context.Context) (lease int64, err error) {
	r := &pb.LeaseGrantRequest{TTL: sessionTTL, ID: a.newLease()}
	req := &state.Request{LeaseGrant: r}
	if err := a.checkQuota(ctx, req); err != nil {
		return 0, err
	}
	_, err = a.command(ctx, "/etcdserverpb.Lease/LeaseGrant", req)
	return r.ID, err
}

func (a *API) mayRead(ctx context.Context, r *pb.RangeRequest) error {
	if err := rules["/etcdserverpb.KV/Range"].served(a, r); err != nil {
		return err
	}
	return permit(ctx, a.member.View(), &state.Request{Range: r})
}

// plainly takes the code off an error, as etcd does for these services: only the
// ends of contexts and of the member keep theirs.
func plainly(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errStopped) {
		return err
	}
	return status.Error(codes.Unknown, status.Convert(wire(err)).Message())
}

// refusal is how a rule's own refusal of a caller is told.
func (r rule) refusal(err error) error {
	if r.marks&uncoded != 0 {
		return plainly(err)
	}
	return err
}

// headerAt is a reply's header at a revision.
func (a *API) headerAt(rev int64) state.Header {
	h := a.header(a.member.View())
	h.Revision = rev
	return h
}

// only is the one pair that a range in a transaction has found.
func only(response any) (mvcc.KeyValue, error) {
	page, ok := response.(*state.RangeReply)
	if !ok || len(page.KVs) == 0 {
		return mvcc.KeyValue{}, errLost
	}
	return mvcc.Parse(page.KVs[0])
}

// firstCreated asks for the key under a prefix that was created first.
func firstCreated(prefix string) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Limit: 1,
		SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_CREATE,
	}
}

// prefixEnd is the end of the span of a prefix, which ends with a slash.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

func createdAt(key string, rev int64) *pb.Compare {
	return &pb.Compare{
		Result: pb.Compare_EQUAL, Target: pb.Compare_CREATE, Key: []byte(key),
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

func putOp(key string, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func deleteOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}
}
