package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/replica"
)

// What other members pass on to this one because it leads. These are not calls
// of clients: nothing but leadership is checked, save for a promotion. The errors are those that
// peer.Desk knows, and others. They may be called before Run.

// PromoteHere makes a voter of a learner. The client has shown a token that must
// be an administrator's.
func (a *API) PromoteHere(ctx context.Context, id member.ID) ([]member.Member, error) {
	if users := a.member.View().Users; users.Enabled() {
		c := caller{}
		if token := peer.Token(ctx); token != "" {
			var err error
			if c, err = a.verify(ctx, strings.TrimPrefix(token, bearer)); err != nil {
				return nil, err
			}
		}
		if err := users.Admin(c.at(users)); err != nil {
			return nil, err
		}
	}
	members, err := a.promote(ctx, id)
	if errors.Is(err, member.ErrRemoved) {
		err = member.ErrNotFound // who asks would not take it for final
	}
	return members, asked(err)
}

// RenewHere gives a lease its full time again.
func (a *API) RenewHere(ctx context.Context, id lease.ID) (ttl int64, err error) {
	if err := a.caughtUp(ctx); err != nil {
		return 0, asked(err)
	}
	ttl, err = a.member.Renew(ctx, id)
	return ttl, asked(err)
}

// TimeToLiveHere says how long a lease has left. The header is left empty.
func (a *API) TimeToLiveHere(ctx context.Context, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	reply, err := a.timeLeft(ctx, id, keys)
	return reply, asked(err)
}

// asked puts an error into the words of package peer.
func asked(err error) error {
	switch {
	case errors.Is(err, replica.ErrNotLeader):
		return fmt.Errorf("%w: %w", peer.ErrNotLeader, err)
	case errors.Is(err, replica.ErrTimeoutApply):
		return fmt.Errorf("%w: %w", peer.ErrBehind, err)
	}
	return err
}
