package proxy

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	sessionTTL   = 20 * time.Second
	sessionLimit = 5 * time.Second // for a member to answer what the session needs
	// trustPart of the TTL behind the sending of a renewal, a session is believed to
	// live. The rest is for a leader that does not know yet that it is none when it
	// answers: a TTL is no less than one and a half of its election timeouts.
	trustPart    = 3
	renewPart    = 10 // of a TTL: between two renewals
	sessionAgain = time.Second
)

// run keeps a session until ctx ends, then gives up all that is owned.
func (l *leasing) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { l.watch(ctx) })
	work.Go(func() { l.leave(ctx) })
	said := ""
	for ctx.Err() == nil {
		err := l.session(ctx)
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			l.proxy.log.Warn("no keys are leased; trying again", "prefix", l.prefix, "error", err)
		}
		select {
		case <-time.After(sessionAgain):
		case <-ctx.Done():
		}
	}
}

// restart ends the session.
func (l *leasing) restart() {
	l.keys.drop()
	select {
	case l.lost <- struct{}{}:
	default:
	}
}

var (
	errSessionOver = errors.New("the session's lease is over")
	errRestart     = errors.New("the session was ended, as changes of ownership keys were missed")
)

// session keeps one lease. All that is owned goes with it.
func (l *leasing) session(ctx context.Context) error {
	if err := l.permitted(ctx); err != nil {
		return err
	}
	select {
	case <-l.lost: // of the session before
	default:
	}
	leases := pb.NewLeaseClient(l.proxy.direct())
	limited, cancel := context.WithTimeout(ctx, sessionLimit)
	defer cancel()
	sent := time.Now()
	lease, err := leases.LeaseGrant(limited, &pb.LeaseGrantRequest{TTL: int64(cmp.Or(l.proxy.o.LeasingTTL, sessionTTL) / time.Second)})
	if err != nil {
		return err
	}
	defer func() {
		l.keys.drop()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionLimit)
		defer cancel()
		if _, err := leases.LeaseRevoke(limited, &pb.LeaseRevokeRequest{ID: lease.ID}); err != nil {
			l.proxy.log.Debug("the lease of this proxy's keys is left to expire", "error", err)
		}
	}()
	ttl := time.Duration(lease.TTL) * time.Second // members may make it more
	l.keys.open(lease.ID, trust{sent, ttl / trustPart})
	l.proxy.log.Info("keys are leased", "prefix", l.prefix, "lease-ttl", ttl)
	renew := time.NewTicker(ttl / renewPart)
	defer renew.Stop()
	for {
		select {
		case <-renew.C:
		case <-l.lost:
			return errRestart
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		switch err := renewOnce(ctx, leases, lease.ID, ttl/renewPart); {
		case err == nil:
			sent = now
			l.keys.renew(lease.ID, trust{sent, ttl / trustPart})
		case errors.Is(err, errLeaseOver), elapsed(sent, time.Now()) > ttl:
			return errSessionOver
		}
		if err := l.permitted(ctx); err != nil {
			return err
		}
		l.proxy.parts.Metrics.counted(l.keys)
	}
}

// permitted reports whether who has no token may read all keys, as far as a member
// tells. What is cheap to ask is a revision that is yet to come.
func (l *leasing) permitted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sessionLimit/2)
	defer cancel()
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: 1, KeysOnly: true, Revision: 1 << 62}
	err := l.proxy.invoke(ctx, rangeMethod, r, &pb.RangeResponse{})
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return err
	}
	return nil
}

// trust is for how long a session is believed: from the moment at which its last
// renewal was sent.
type trust struct {
	from time.Time
	long time.Duration
}

// holds looks at both clocks, as the monotonic one stands still while a machine
// sleeps.
func (t trust) holds(now time.Time) bool { return elapsed(t.from, now) < t.long }

func elapsed(from, now time.Time) time.Duration {
	return max(now.Sub(from), now.Round(0).Sub(from.Round(0)))
}
