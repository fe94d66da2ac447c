package replica

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

func (r *running) grant(id lease.ID, ttl int64) {
	r.t.Helper()
	_, err := r.Propose(context.Background(), &state.Request{LeaseGrant: &pb.LeaseGrantRequest{ID: int64(id), TTL: ttl}}, nil)
	must(r.t, err)
}

func (r *running) putWith(key string, id lease.ID) {
	r.t.Helper()
	request := &state.Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: int64(id)}}
	_, err := r.Propose(context.Background(), request, nil)
	must(r.t, err)
}

// inFakeTime runs f where time stands still unless everybody waits for it.
func inFakeTime(t *testing.T, h *home, f func(t *testing.T, r *running)) {
	synctest.Test(t, func(t *testing.T) {
		r := h.start(t)
		must(t, r.Barrier(t.Context()))
		f(t, r)
		r.close()
	})
}

func TestLeaseEndsWithItsKeys(t *testing.T) {
	h := newHome(t)
	inFakeTime(t, h, func(t *testing.T, r *running) {
		begin := time.Now()
		r.grant(7, 10)
		r.putWith("a", 7)
		r.mustPut("b", "v")
		for {
			if _, ok := r.get("a"); !ok {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begin); took < 10*time.Second || took > 10*time.Second+700*time.Millisecond {
			t.Errorf("the key went after %v, want 10 s and the scan", took)
		}
		if _, ok := r.get("b"); !ok {
			t.Error("a key without lease went with it")
		}
		if _, err := r.Renew(t.Context(), 7); !errors.Is(err, lease.ErrNotFound) {
			t.Errorf("renew: %v", err)
		}
	})
}

func TestRenewedLeaseGoesOn(t *testing.T) {
	h := newHome(t)
	inFakeTime(t, h, func(t *testing.T, r *running) {
		r.grant(7, 10)
		r.putWith("a", 7)
		for range 5 {
			time.Sleep(9 * time.Second)
			left, err := r.Remaining(t.Context(), 7)
			must(t, err)
			if left <= 0 || left > 2*time.Second {
				t.Errorf("%v left, want about 1 s", left)
			}
			ttl, err := r.Renew(t.Context(), 7)
			must(t, err)
			if ttl != 10 {
				t.Errorf("TTL %d", ttl)
			}
		}
		if _, ok := r.get("a"); !ok {
			t.Error("gone, though it was renewed")
		}
	})
}

func TestRenewalOfALeaseThatIsOverWaitsForItsEnd(t *testing.T) {
	h := newHome(t)
	inFakeTime(t, h, func(t *testing.T, r *running) {
		// Just over, and not scanned yet: asking has to fall between two ticks, so
		// leases are taken until one does.
		for id := lease.ID(7); ; id++ {
			if id == 27 {
				t.Fatal("the scan came first each time")
			}
			r.grant(id, 10)
			r.putWith("a", id)
			left, err := r.Remaining(t.Context(), id)
			must(t, err)
			time.Sleep(left + time.Millisecond)
			if _, ok := r.get("a"); !ok {
				time.Sleep(130 * time.Millisecond)
				continue
			}
			if _, err := r.Renew(t.Context(), id); !errors.Is(err, lease.ErrNotFound) {
				t.Errorf("renew: %v", err)
			}
			if _, ok := r.get("a"); ok {
				t.Error("answered before the revoke was applied")
			}
			return
		}
	})
}

func TestRestartGivesLeasesTheirTimeAgain(t *testing.T) {
	h := newHome(t)
	h.options.Election = time.Second
	inFakeTime(t, h, func(t *testing.T, r *running) {
		r.grant(7, 10)
		time.Sleep(9 * time.Second)
		r.close()
		must(t, r.err)
		r = h.start(t)
		must(t, r.Barrier(t.Context()))
		left, err := r.Remaining(t.Context(), 7)
		must(t, err)
		if left < 10*time.Second || left > 11*time.Second {
			t.Errorf("%v left, want the TTL and an election timeout", left)
		}
		r.close()
	})
}

func TestManyLeasesEndAtABoundedRate(t *testing.T) {
	h := newHome(t)
	inFakeTime(t, h, func(t *testing.T, r *running) {
		const leases = 1200
		for id := range lease.ID(leases) {
			r.grant(id+1, 10)
		}
		time.Sleep(10*time.Second - 100*time.Millisecond)
		last := leases
		for last > 0 {
			time.Sleep(100 * time.Millisecond)
			now := r.View().Leases.Len()
			if last-now > expiryBatch {
				t.Errorf("%d leases ended within 100 ms, want %d at most", last-now, expiryBatch)
			}
			last = now
		}
	})
}

func TestUnknownLeaseIsNotFound(t *testing.T) {
	r := newHome(t).start(t)
	must(t, r.Barrier(t.Context()))
	if _, err := r.Renew(t.Context(), 99); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("renew: %v", err)
	}
	if _, err := r.Remaining(t.Context(), 99); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("remaining: %v", err)
	}
}
