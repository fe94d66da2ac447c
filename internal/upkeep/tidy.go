package upkeep

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

// Turn is the lease that a member holds while it defragments its database of its
// own accord: ASCII for "kvd-tidy". To grant it fails on all members but one, so
// no two do it at once; to every member, of kvd or etcd, it is a lease like any
// other, without keys, and it ends by itself when its holder dies.
const Turn lease.ID = 0x6b76642d74696479

const (
	// turnTTL is how long a turn is granted for, and turnTime what its holder
	// makes of it, by its own clock from before the grant.
	turnTTL  = 30 * time.Minute
	turnTime = 25 * time.Minute
	// leaderLooks is how many looks the leader has found nobody at work before
	// it takes a turn: the others would have taken theirs by then, so it is last.
	leaderLooks = 3
	// tidyRest is the least time between two turns of one member.
	tidyRest = 30 * time.Minute
)

// errTurnOver ends a defragmentation that takes longer than its turn.
var errTurnOver = errors.New("the turn is over")

// tidying defragments the database when too much of the file is free.
func (u *Upkeep) tidying(ctx context.Context) {
	idle := 0 // looks in a row that found it worth while, and nobody at work
	noted := said{}
	wait := u.o.DefragInterval
	for pause(ctx, wait) {
		wait = u.o.DefragInterval
		v := u.member.View()
		if _, busy := v.Leases.Lease(Turn); busy || !u.untidy(v) {
			idle = 0
			continue
		}
		idle++
		if u.leading() != 0 && !u.alone(v) && idle <= leaderLooks {
			continue
		}
		began := time.Now()
		if u.takeTurn(ctx, v, noted) {
			wait = max(tidyRest, restFactor*time.Since(began))
		}
		idle = 0
	}
}

// untidy reports whether a defragmentation is worth its while now.
func (u *Upkeep) untidy(v *state.View) bool {
	s := u.parts.Space()
	return s.Free >= u.o.DefragFreeBytes && float64(s.Free) >= float64(s.Size)*float64(u.o.DefragFreePercent)/100 &&
		v.Swept >= v.Keys.Compacted() // else there will be more in a moment
}

func (u *Upkeep) alone(v *state.View) bool { return len(v.Members.Members()) <= 1 }

// takeTurn defragments if no other member does. It reports whether it tried.
func (u *Upkeep) takeTurn(ctx context.Context, v *state.View, noted said) bool {
	if err := u.parts.Room(u.parts.Space().Used); err != nil {
		noted.now("defragment", err.Error(), func() {
			u.log.Warn("the database is not defragmented: its copy has no room", "error", err)
		})
		return false
	}
	noted.now("defragment", "", nil)
	limited, cancel := context.WithTimeoutCause(ctx, turnTime, errTurnOver)
	defer cancel()
	if !u.alone(v) {
		err := u.propose(ctx, &state.Request{LeaseGrant: &pb.LeaseGrantRequest{ID: int64(Turn), TTL: int64(turnTTL / time.Second)}})
		if err != nil { // ErrExists: another was faster. Else another time
			u.log.Debug("no turn to defragment", "error", err)
			return false
		}
		defer u.endTurn(ctx)
	}
	u.defragment(limited)
	return true
}

func (u *Upkeep) defragment(ctx context.Context) {
	began, before := time.Now(), u.parts.Space()
	u.log.Info("defragmenting: much of the database file is free", "size-bytes", before.Size, "free-bytes", before.Free)
	if err := u.parts.Defragment(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		u.metrics.tidied(tidyFailed)
		u.log.Warn("the database is not defragmented; it stays as it was", "took", time.Since(began), "error", err)
		return
	}
	u.metrics.tidied(tidyDone)
	u.log.Info("defragmented", "took", time.Since(began), "size-bytes-before", before.Size, "size-bytes", u.parts.Space().Size)
}

// endTurn gives the lease back, also while the member stops. If that fails the
// lease ends later.
func (u *Upkeep) endTurn(ctx context.Context) {
	err := u.propose(context.WithoutCancel(ctx), &state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(Turn)}})
	if err != nil {
		u.log.Warn("the turn to defragment ends later: its lease cannot be revoked", "error", err)
	}
}
