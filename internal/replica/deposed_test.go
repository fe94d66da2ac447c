package replica

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"kvd/internal/lease"
)

// A leader is cut off, now for good, now for a while, and somebody renews a
// lease at whoever agrees to. What was granted by either must be kept by the
// one who leads in the end: no lease ends before its time, and a deposed leader
// ends none.
func TestNoLeaseEndsEarlyWhoeverRenewedIt(t *testing.T) {
	const ttl = 2 * time.Second
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			board, homes, members := startCluster(t, 3)
			for _, m := range members {
				m.Replica.options.Election = 100 * time.Millisecond
			}
			leader, _ := leaderOf(t, members)
			leader.grant(7, int64(ttl/time.Second))
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
			cut := leader.Status().Member
			board.isolate(cut, true)
			heals := time.Now().Add(time.Duration(random.Int64N(int64(600 * time.Millisecond))))
			var until time.Time // the lease must be there up to then
			for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(7 * time.Millisecond) {
				if !heals.IsZero() && time.Now().After(heals) {
					board.isolate(cut, false)
					heals = time.Time{}
				}
				m := members[random.IntN(len(members))]
				began := time.Now()
				if got, err := m.Renew(t.Context(), lease.ID(7)); err == nil && got > 0 {
					until = began.Add(ttl)
				}
			}
			for ; time.Now().Before(until); time.Sleep(7 * time.Millisecond) {
				for i, m := range members {
					if _, there := m.View().Leases.Lease(7); !there {
						t.Fatalf("seed %d: member %d has lost the lease %v before its time", seed, homes[i].self, time.Until(until))
					}
				}
			}
			eventually(t, "the lease ends", func() bool {
				_, there := members[0].View().Leases.Lease(7)
				return !there
			})
			for _, m := range members {
				m.close()
			}
		})
	}
}
