package replica

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

func TestCheckpointOutlivesARestart(t *testing.T) {
	for _, on := range []bool{true, false} {
		h := newHome(t)
		h.options.LeaseCheckpoints = on
		h.options.Election = time.Second
		inFakeTime(t, h, func(t *testing.T, r *running) {
			r.grant(7, 3600)
			time.Sleep(21 * time.Minute)
			want := int64(0)
			if on {
				want = 3600 - 20*60 // of the fourth
			}
			l, _ := r.View().Leases.Lease(7)
			if l.Remaining > want || l.Remaining < want-5 {
				t.Errorf("checkpoints %t: %d s at the last one, want %d", on, l.Remaining, want)
			}
			r.close()
			must(t, r.err)

			r = h.start(t)
			must(t, r.Barrier(t.Context()))
			left, err := r.Remaining(t.Context(), 7)
			must(t, err)
			whole := time.Duration(want) * time.Second
			if !on {
				whole = time.Hour
			}
			if left > whole+time.Second || left < whole-4*time.Second {
				t.Errorf("checkpoints %t: %v left after a restart, want about %v", on, left, whole)
			}
			r.close()
		})
	}
}

func TestRenewalTakesTheCheckpointBack(t *testing.T) {
	h := newHome(t)
	h.options.LeaseCheckpoints = true
	inFakeTime(t, h, func(t *testing.T, r *running) {
		r.grant(7, 3600)
		time.Sleep(6 * time.Minute)
		if l, _ := r.View().Leases.Lease(7); l.Remaining == 0 {
			t.Fatal("no checkpoint")
		}
		before := r.Status().Applied
		for range 3 { // at once: they wait for the same entry
			go r.Renew(context.Background(), 7) // the last one tells
		}
		ttl, err := r.Renew(t.Context(), 7)
		if must(t, err); ttl != 3600 {
			t.Errorf("TTL %d", ttl)
		}
		if l, _ := r.View().Leases.Lease(7); l.Remaining != 0 {
			t.Errorf("the checkpoint is still %d s", l.Remaining)
		}
		left, err := r.Remaining(t.Context(), 7)
		if must(t, err); left < time.Hour-time.Second {
			t.Errorf("%v left, want an hour", left)
		}
		if _, err := r.Renew(t.Context(), 7); err != nil { // nothing to take back
			t.Error(err)
		}
		if n := r.Status().Applied - before; n != 1 {
			t.Errorf("%d entries for the renewals, want 1", n)
		}
	})
}

func TestShortLeasesHaveNoCheckpoints(t *testing.T) {
	h := newHome(t)
	h.options.LeaseCheckpoints = true
	inFakeTime(t, h, func(t *testing.T, r *running) {
		r.grant(7, 300)
		before := r.Status().Applied
		for range 8 {
			time.Sleep(4 * time.Minute)
			_, err := r.Renew(t.Context(), 7)
			must(t, err)
		}
		if n := r.Status().Applied - before; n != 0 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestCheckpointsOfManyLeasesShareEntries(t *testing.T) {
	h := newHome(t)
	h.options.LeaseCheckpoints = true
	inFakeTime(t, h, func(t *testing.T, r *running) {
		const leases = 2500
		for id := range lease.ID(leases) {
			r.grant(id+1, 3600)
		}
		before := r.Status().Applied
		time.Sleep(6 * time.Minute)
		for _, l := range r.View().Leases.All() {
			if l.Remaining == 0 {
				t.Fatalf("lease %d has no checkpoint", l.ID)
			}
		}
		// Some fall due with one scan, some with the next.
		if n := r.Status().Applied - before; n < 3 || n > 6 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestRevokesGoFirstWhereAsked(t *testing.T) {
	for _, first := range []bool{true, false} {
		h := newHome(t)
		h.options.RevokesFirst = first
		r := h.start(t)
		r.grant(7, 100)
		r.grant(8, 100)
		revoke := func(id lease.ID) error {
			_, err := r.Propose(context.Background(), &state.Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(id)}}, nil)
			return err
		}
		for _, c := range []struct {
			behind uint64
			taken  bool
		}{{2*maxBehind + 1, false}, {2 * maxBehind, first}, {maxBehind, true}} {
			r.commit.Store(r.applied.Load() + c.behind)
			err := revoke(7)
			if c.taken && first && c.behind == maxBehind {
				if !errors.Is(err, lease.ErrNotFound) { // taken before
					t.Errorf("%d behind: %v", c.behind, err)
				}
			} else if (err == nil) != c.taken || err != nil && !errors.Is(err, ErrTooManyRequests) {
				t.Errorf("revokes first %t, %d behind: %v", first, c.behind, err)
			}
			r.commit.Store(r.applied.Load() + c.behind)
			if _, err := r.put("k", "v"); (err == nil) != (c.behind <= maxBehind) {
				t.Errorf("%d behind: put: %v", c.behind, err)
			}
		}
		r.close()
	}
}
