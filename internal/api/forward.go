package api

import (
	"context"
	"errors"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/replica"
)

// Peers is how the services reach other members. All methods are for any
// goroutine. Those with URLs ask the member that has them, each URL once at
// most; their errors are those of package peer's client.
type Peers interface {
	// ActiveSince is since when a member is connected without a fault; zero if
	// it is not.
	ActiveSince(id member.ID) time.Time
	// Promote makes a voter of a learner, and returns the members then.
	Promote(ctx context.Context, urls []string, id member.ID, token string) ([]member.Member, error)
	Renew(ctx context.Context, urls []string, id lease.ID) (ttl int64, err error)
	TimeToLive(ctx context.Context, urls []string, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error)
}

// nobody is the other members of one that is alone.
type nobody struct{}

func (nobody) ActiveSince(member.ID) time.Time { return time.Time{} }

func (nobody) Promote(context.Context, []string, member.ID, string) ([]member.Member, error) {
	return nil, replica.ErrNotLeader
}

func (nobody) Renew(context.Context, []string, lease.ID) (int64, error) {
	return 0, replica.ErrNotLeader
}

func (nobody) TimeToLive(context.Context, []string, lease.ID, bool) (*pb.LeaseTimeToLiveResponse, error) {
	return nil, replica.ErrNotLeader
}

// forwardPause keeps a member that cannot reach the leader from asking all the
// time.
const forwardPause = 50 * time.Millisecond

// atLeader has the leader answer: this member while it leads, else the one that
// does. It looks for a leader and asks again until the request timeout, but for
// the errors that are final.
func atLeader[T any](ctx context.Context, a *API,
	here func(context.Context) (T, error), there func(ctx context.Context, urls []string) (T, error), final ...error,
) (none T, _ error) {
	within, cancel := context.WithTimeout(ctx, a.o.RequestTimeout)
	defer cancel()
	for {
		leader, known := a.leader()
		switch {
		case known && leader.ID == a.id:
			answer, err := here(ctx)
			if !errors.Is(err, replica.ErrNotLeader) {
				return answer, err
			}
		case known:
			answer, err := there(within, leader.PeerURLs)
			if err == nil || slices.ContainsFunc(final, func(kind error) bool { return errors.Is(err, kind) }) {
				return answer, err
			}
		}
		select {
		case <-within.Done():
			return none, overdue(ctx, known)
		case <-time.After(forwardPause):
		}
	}
}

// overdue is what a call ends with that got no answer from a leader.
func overdue(ctx context.Context, known bool) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !known:
		return errNoLeader
	default:
		return replica.ErrTimeout
	}
}

// leader is the member that leads, if it is known and can be reached.
func (a *API) leader() (member.Member, bool) {
	m, ok := a.member.View().Members.Member(member.ID(a.member.Status().Leader))
	return m, ok && (m.ID == a.id || len(m.PeerURLs) > 0)
}

// memberPromote leaves the decision to the leader, which alone knows how far a
// learner is.
func (a *API) memberPromote(ctx context.Context, r *pb.MemberPromoteRequest, _ []byte) (any, error) {
	ctx, done := a.streams.add(ctx, openStream{})
	defer done()
	id := member.ID(r.ID)
	members, err := atLeader(ctx, a,
		func(ctx context.Context) ([]member.Member, error) { return a.promote(ctx, id) },
		func(ctx context.Context, urls []string) ([]member.Member, error) {
			token, _ := tokenOf(ctx)
			return a.peers.Promote(ctx, urls, id, token)
		},
		peer.ErrNotReady, member.ErrNotFound, member.ErrNotLearner)
	if err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: a.clusterHeader(a.member.View()), Members: messages(members)}, nil
}

// promote makes a voter of a learner that is ready, if this member leads.
func (a *API) promote(ctx context.Context, id member.ID) ([]member.Member, error) {
	members, err := a.tryPromote(ctx, id)
	if !errors.Is(err, replica.ErrNotLeader) {
		a.metrics.promoted(err)
	}
	return members, err
}

func (a *API) tryPromote(ctx context.Context, id member.ID) ([]member.Member, error) {
	if err := a.caughtUp(ctx); err != nil {
		return nil, err
	}
	has, err := a.member.Progress(ctx)
	if err != nil {
		return nil, err
	}
	match, known := has[id]
	switch {
	case !known:
		return nil, member.ErrNotFound
	case !member.Ready(match, has[a.id]):
		a.log.Warn("a learner is not ready to be promoted", "member", id.String(), "has", match, "of", has[a.id])
		return nil, peer.ErrNotReady
	}
	if a.o.Strict {
		if err := a.member.View().Members.MayPromote(); err != nil {
			return nil, a.reject(err)
		}
	}
	v, err := a.change(ctx, member.Change{ID: id, Promote: true})
	if err != nil {
		return nil, err
	}
	return v.Members.Members(), nil
}

const (
	applyTimeout = time.Second // for what is committed to be applied
	applyPoll    = 5 * time.Millisecond
)

// caughtUp returns when what is committed now is applied.
func (a *API) caughtUp(ctx context.Context) error {
	commit := a.member.Status().Commit
	for late := time.Now().Add(applyTimeout); a.member.Status().Applied < commit; {
		if !time.Now().Before(late) {
			return replica.ErrTimeoutApply
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(applyPoll):
		}
	}
	return nil
}
