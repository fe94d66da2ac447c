package api

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/auth"
	"kvd/internal/lease"
	"kvd/internal/state"
)

func (a *API) leaseService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Lease"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "LeaseGrant", state.DecodeLeaseGrant, a.leaseGrant),
			unary(a, name, "LeaseRevoke", decoded[pb.LeaseRevokeRequest], a.leaseRevoke),
			unary(a, name, "LeaseTimeToLive", decoded[pb.LeaseTimeToLiveRequest], a.leaseTimeToLive),
			unary(a, name, "LeaseLeases", decoded[pb.LeaseLeasesRequest], a.leaseLeases),
		},
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "LeaseKeepAlive", ServerStreams: true, ClientStreams: true}, a.leaseKeepAlive),
		},
		Metadata: "rpc.proto",
	}
}

func (a *API) leaseGrant(ctx context.Context, r *pb.LeaseGrantRequest, _ []byte) (any, error) {
	req := &state.Request{LeaseGrant: r}
	if err := a.checkQuota(ctx, req); err != nil {
		return nil, err
	}
	if r.ID == 0 {
		r.ID = a.newLease()
	}
	return a.propose(ctx, req, nil)
}

// newLease chooses a lease's ID before it is proposed: the log decides nothing.
// IDs ascend, so that new leases lie side by side in memory and in the file.
func (a *API) newLease() int64 {
	for {
		if id := int64(a.leaseIDs.Next() &^ (1 << 63)); id != 0 {
			return id
		}
	}
}

func (a *API) leaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest, _ []byte) (any, error) {
	return a.propose(ctx, &state.Request{LeaseRevoke: r}, nil)
}

// leaseTimeToLive says how long a lease has left; -1 for one that is not there.
// Only the leader knows.
func (a *API) leaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest, _ []byte) (any, error) {
	ctx, done := a.streams.add(ctx, openStream{})
	defer done()
	id := lease.ID(r.ID)
	before := a.member.View()
	if r.Keys {
		if err := before.PermitLeases(callerOf(ctx).at(before.Users), false, id); err != nil {
			return nil, err
		}
	}
	reply, err := atLeader(ctx, a,
		func(ctx context.Context) (*pb.LeaseTimeToLiveResponse, error) { return a.timeLeft(ctx, id, r.Keys) },
		func(ctx context.Context, urls []string) (*pb.LeaseTimeToLiveResponse, error) {
			return a.peers.TimeToLive(ctx, urls, id, r.Keys)
		},
		lease.ErrNotFound)
	if errors.Is(err, lease.ErrNotFound) {
		reply, err = &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, err
	}
	after := a.member.View()
	if r.Keys && after.Users.Enabled() && after.Users.Revision() != before.Users.Revision() {
		return nil, auth.ErrOldRevision // whether the keys may be shown was decided on what is over
	}
	// The leader may know of keys that this member did not when it looked.
	if r.Keys && after.Users.Enabled() {
		who := callerOf(ctx).at(after.Users)
		for _, key := range reply.Keys {
			if err := permit(ctx, after, &state.Request{Range: &pb.RangeRequest{Key: key}}); err != nil && after.Users.Admin(who) != nil {
				return nil, err
			}
		}
	}
	reply.Header = a.message(after)
	return reply, nil
}

// timeLeft answers for a lease if this member leads; without a header.
func (a *API) timeLeft(ctx context.Context, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	left, err := a.member.Remaining(ctx, id)
	if err != nil {
		return nil, err
	}
	v := a.member.View()
	l, ok := v.Leases.Lease(id)
	if !ok {
		return nil, lease.ErrNotFound // it has ended just now
	}
	reply := &pb.LeaseTimeToLiveResponse{ID: int64(id), TTL: int64(left / time.Second), GrantedTTL: l.TTL}
	if keys {
		for _, key := range v.Leases.Keys(id) {
			reply.Keys = append(reply.Keys, []byte(key))
		}
	}
	return reply, nil
}

func (a *API) leaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest, _ []byte) (any, error) {
	ids, err := a.member.Leases(ctx)
	if err != nil {
		return nil, err
	}
	v := a.member.View()
	if err := v.PermitLeases(callerOf(ctx).at(v.Users), false, ids...); err != nil {
		return nil, err
	}
	reply := &pb.LeaseLeasesResponse{Header: a.message(v)}
	for _, id := range ids {
		reply.Leases = append(reply.Leases, &pb.LeaseStatus{ID: int64(id)})
	}
	return reply, nil
}

// renewalsAhead is how many keep-alives of a stream are read before the first of
// them is answered. A client that has sent more waits.
const renewalsAhead = 256

// leaseKeepAlive renews one lease after the other; a lease that is not there
// gets a TTL of 0. It ends when the client has said all, or with the first
// other error. Clients send for all leases that are due at once, so what has come
// in meanwhile is done in one go.
func (a *API) leaseKeepAlive(c *call) error {
	asked := make(chan lease.ID, renewalsAhead)
	var end error
	go func() { // it ends with the stream, which ends with this return
		defer close(asked)
		end = a.keepAlives(c, asked)
	}()
	r := renewals{api: a, call: c}
	for {
		select {
		case id, more := <-asked:
			if !more {
				return end
			}
			if err := r.all(gather(r.ids[:0], id, asked)); err != nil {
				return err
			}
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// keepAlives reads requests until the client has said all.
func (a *API) keepAlives(c *call, asked chan<- lease.ID) error {
	for {
		in, err := c.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			c.failed(err, "receive", "lease-keepalive")
			return err
		}
		id, err := decodeRenewal(in)
		if err != nil {
			return malformed(err)
		}
		select {
		case asked <- id:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// gather appends the first and what waits behind it.
func gather(ids []lease.ID, first lease.ID, asked <-chan lease.ID) []lease.ID {
	ids = append(ids, first)
	for len(ids) < renewalsAhead {
		select {
		case id, more := <-asked:
			if !more {
				return ids // the end is seen again
			}
			ids = append(ids, id)
		default:
			return ids
		}
	}
	return ids
}

// renewals is the answering side of one LeaseKeepAlive call.
type renewals struct {
	api  *API
	call *call
	ids  []lease.ID           // room for all
	ttls [renewalsAhead]int64 // the same
}

// all renews leases and answers for each, in order.
func (r *renewals) all(ids []lease.ID) error {
	r.ids = ids
	// Taken before renewing, so that a revision is never newer than the
	// renewal it comes with: the lease may be gone by then.
	h := r.api.header(r.api.member.View())
	ctx, err := r.call.authorize()
	if err != nil {
		return err
	}
	for len(ids) > 0 {
		n := r.api.renewNow(ctx, ids, r.ttls[:])
		if n == 0 {
			ttl, err := r.api.renew(ctx, ids[0])
			if errors.Is(err, lease.ErrNotFound) {
				ttl, err = 0, nil
			}
			if err != nil {
				return err
			}
			r.ttls[0], n = ttl, 1
		}
		for i, id := range ids[:n] {
			if err := r.call.send(encode(renewal{id, r.ttls[i]}, h)); err != nil {
				r.call.failed(err, "send", "lease-keepalive")
				return err
			}
		}
		ids = ids[n:]
	}
	return nil
}

// renewNow renews the first of some leases, as many as take no more than a look
// of this member, and returns their number.
func (a *API) renewNow(ctx context.Context, ids []lease.ID, ttls []int64) int {
	v := a.member.View()
	if a.member.Status().Leader != uint64(a.id) || v.PermitLeases(callerOf(ctx).at(v.Users), true, ids...) != nil {
		return 0
	}
	n, err := a.member.RenewNow(ctx, ids, ttls)
	if err != nil {
		return 0
	}
	return n
}

// renew gives a lease its full time again, wherever its leader is. Who prolongs
// the life of keys must be allowed to write them.
func (a *API) renew(ctx context.Context, id lease.ID) (ttl int64, err error) {
	v := a.member.View()
	if err := v.PermitLeases(callerOf(ctx).at(v.Users), true, id); err != nil {
		return 0, err
	}
	return atLeader(ctx, a,
		func(ctx context.Context) (int64, error) { return a.member.Renew(ctx, id) },
		func(ctx context.Context, urls []string) (int64, error) { return a.peers.Renew(ctx, urls, id) },
		lease.ErrNotFound)
}

// decodeRenewal reads a LeaseKeepAliveRequest.
func decodeRenewal(b []byte) (lease.ID, error) {
	if len(b) > 0 && b[0] == 1<<3|byte(protowire.VarintType) {
		if v, n := protowire.ConsumeVarint(b[1:]); n == len(b)-1 {
			return lease.ID(v), nil
		}
	}
	r, err := decoded[pb.LeaseKeepAliveRequest](b)
	return lease.ID(r.ID), err
}

// renewal is a LeaseKeepAliveResponse.
type renewal struct {
	id  lease.ID
	ttl int64
}

func (r renewal) AppendTo(b []byte, h state.Header) []byte {
	b = appendHeader(b, h)
	b = appendInt(b, 2, uint64(r.id))
	return appendInt(b, 3, uint64(r.ttl))
}

func appendInt(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}
