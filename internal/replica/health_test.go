package replica

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3"

	"kvd/internal/lease"
	"kvd/internal/vfs"
)

// stallable makes a cluster of three whose logs hang in a sync while stalled
// says so of them.
func stallable(t *testing.T) (members []*running, stalled []*atomic.Bool) {
	board := &switchboard{lines: map[uint64]*Replica{}}
	for i := range 3 {
		flag := &atomic.Bool{}
		files := vfs.NewMem()
		must(t, files.Mkdir("/m", 0o700))
		h := newHome(t)
		h.dir, h.self, h.send, h.wal.Files, h.walPath = t.TempDir(), uint64(i+1), board.send, files, "/m/wal"
		h.makeDirs(t)
		ids := []uint64{h.self}
		for j := range uint64(3) {
			if j+1 != h.self {
				ids = append(ids, j+1)
			}
		}
		h.createLog(t, ids...)
		files.Fault = func(_ int, op *vfs.Op) error {
			for op.Kind == vfs.Sync && flag.Load() {
				time.Sleep(time.Millisecond) // a disk that hangs
			}
			return nil
		}
		r := h.start(t)
		board.connect(h.self, r.Replica)
		members, stalled = append(members, r), append(stalled, flag)
	}
	return members, stalled
}

func TestLeaderWithAHangingDiskIsReplaced(t *testing.T) {
	members, stalled := stallable(t)
	leader, _ := leaderOf(t, members)
	leader.mustPut("before", "v")
	var rest []*running
	for i, m := range members {
		if m != leader {
			rest = append(rest, m)
			continue
		}
		stalled[i].Store(true)
		defer stalled[i].Store(false)
	}
	go leader.put("during", "v") // its disk hangs; another may commit it
	eventually(t, "another leads", func() bool { return rest[0].Status().Leading() || rest[1].Status().Leading() })
	rest[0].mustPut("after", "v")
	eventually(t, "the old leader follows", func() bool { return !leader.Status().Leading() })
	for i, m := range members {
		if m == leader {
			stalled[i].Store(false)
		}
	}
	eventually(t, "it catches up when its disk answers", func() bool { _, ok := leader.get("after"); return ok })
}

// The process stands still for long, and another leads when it goes on: it must
// not renew or end a lease before it has asked.
func TestLeaderThatStoodStillAsksBeforeItRenews(t *testing.T) {
	_, _, members := startCluster(t, 3)
	leader, _ := leaderOf(t, members)
	leader.grant(7, 100)
	release, standing := make(chan struct{}), make(chan struct{})
	must(t, leader.intake.ask(func(*loop) { close(standing); <-release }))
	<-standing
	var renewed atomic.Bool
	done := make(chan error, 1)
	go func() {
		_, err := leader.Renew(t.Context(), lease.ID(7))
		renewed.Store(err == nil)
		done <- err
	}()
	eventually(t, "another leads", func() bool {
		for _, m := range members {
			if m != leader && m.Status().Leading() {
				return true
			}
		}
		return false
	})
	close(release)
	if err := <-done; !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrTimeoutApply) {
		t.Errorf("a deposed leader renewed: %v", err)
	}
}

func TestLeaderThatStoodStillGoesOnIfItStillLeads(t *testing.T) {
	_, _, members := startCluster(t, 3)
	leader, _ := leaderOf(t, members)
	leader.grant(7, 100)
	must(t, leader.intake.ask(func(l *loop) { l.health.doubt = true }))
	if ttl, err := leader.Renew(t.Context(), lease.ID(7)); err != nil || ttl != 100 {
		t.Errorf("renew: %d, %v", ttl, err)
	}
}

// A member that starts among others that are up does not wait a whole timeout.
func TestElectionClockIsPutForwardAmongOthers(t *testing.T) {
	stands := func(connected int) (after time.Duration) {
		h := newHome(t)
		h.dir, h.self, h.options.AdvanceTicks, h.options.Heartbeat, h.options.Election = t.TempDir(), 1, true, 0, 0
		h.makeDirs(t)
		h.createLog(t, 1, 2, 3)
		synctest.Test(t, func(t *testing.T) {
			h.connected = func() int { return connected }
			began := time.Now()
			r := h.start(t)
			for r.Status().State != raft.StatePreCandidate {
				time.Sleep(time.Millisecond)
			}
			after = time.Since(began)
			r.close()
		})
		return after
	}
	if after := stands(2); after > 1200*time.Millisecond {
		t.Errorf("the others are up, and it stands for election after %v only", after)
	}
	if after := stands(1); after < time.Second {
		t.Errorf("two members only, and it stands for election after %v already", after)
	}
}

// What the loop has handed out before its first tick is no sign of a hang, nor is
// what it finds undone after the process stood still.
func TestStandingStillIsNoHang(t *testing.T) {
	r := newHome(t).open(t)
	defer r.log.Close()
	defer r.store.Close()
	h := &r.loop.health
	r.loop.handed = r.applied.Load() + 3
	r.loop.appending = 1
	h.appends()
	if stalled := h.stalled(); stalled != 0 {
		t.Errorf("stalled for %v at the first tick", stalled)
	}
	h.look()
	r.loop.setTime(r.loop.now.Add(time.Hour))
	h.look()
	if stalled := h.stalled(); stalled != 0 {
		t.Errorf("stalled for %v after the process stood still", stalled)
	}
	r.loop.setTime(r.loop.now.Add(30 * time.Millisecond)) // no pause that is worth a doubt
	h.look()
	if stalled := h.stalled(); stalled != 30*time.Millisecond {
		t.Errorf("stalled for %v, want 30 ms", stalled)
	}
}
