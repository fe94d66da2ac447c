package api

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kvd/internal/state"
)

var errSessionExpired = errors.New("mutex: session is expired") // etcd's text

func (a *API) lockService() *grpc.ServiceDesc {
	const name = "v3lockpb.Lock"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "Lock", decodeLock, a.lock),
			unary(a, name, "Unlock", decodeUnlock, a.unlock),
		},
		Metadata: "v3lock.proto",
	}
}

// lock answers when the caller's key holds the name. A caller that goes away
// before leaves nothing behind.
func (a *API) lock(ctx context.Context, r lockRequest, _ []byte) (any, error) {
	ctx, done := a.streams.add(ctx, openStream{})
	defer done()
	c, err := a.stake(ctx, r.name, r.lease, nil)
	if err != nil {
		return nil, plainly(err)
	}
	if c.first {
		return encode(lockReply{c.key}, c.header), nil
	}
	if err := a.await(ctx, c); err != nil {
		a.abandon(ctx, c)
		if errors.Is(err, errLost) {
			err = errSessionExpired
		}
		return nil, plainly(err)
	}
	return encode(lockReply{c.key}, a.header(a.member.View())), nil
}

// unlock deletes a key that lock has answered with. One that is not there is
// unlocked already.
func (a *API) unlock(ctx context.Context, r unlockRequest, _ []byte) (any, error) {
	one := &pb.DeleteRangeRequest{Key: r.key}
	if err := checkDelete(one); err != nil {
		return nil, plainly(err)
	}
	reply, err := a.command(ctx, "/etcdserverpb.KV/DeleteRange", &state.Request{DeleteRange: one})
	if err != nil {
		return nil, plainly(err)
	}
	return encode(headerReply{}, a.headerAt(reply.(*state.DeleteReply).Revision)), nil
}
