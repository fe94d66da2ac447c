package upkeep

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/state"
)

// files are the databases of a cluster's members.
type files struct {
	mu    sync.Mutex
	space map[member.ID]Space
	fills map[member.ID][]Fill // as they were told
	full  error                // of the disk
	busy  []member.ID          // at work now
	order []member.ID          // who was, in which order
	takes time.Duration        // to defragment
	fails error
	t     *testing.T
}

func newFiles(t *testing.T) *files {
	return &files{t: t, space: map[member.ID]Space{}, fills: map[member.ID][]Fill{}, takes: time.Minute}
}

func (f *files) set(s Space, of ...member.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range of {
		f.space[id] = s
	}
}

func (f *files) worked() []member.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.order)
}

// of gives a member its database.
func (f *files) of(id member.ID) func(*Parts) {
	return func(p *Parts) {
		p.Space = func() Space {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.space[id]
		}
		p.Filled = func(fill Fill, _ int64) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fills[id] = append(f.fills[id], fill)
		}
		p.Room = func(int64) error { return f.full }
		p.Defragment = func(ctx context.Context) error { return f.defragment(ctx, id) }
	}
}

func (f *files) defragment(ctx context.Context, id member.ID) error {
	f.mu.Lock()
	if f.busy = append(f.busy, id); len(f.busy) > 1 {
		f.t.Errorf("%v defragment at once", f.busy)
	}
	f.order = append(f.order, id)
	f.mu.Unlock()
	var err error
	select {
	case <-time.After(f.takes):
		err = f.fails
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = slices.DeleteFunc(f.busy, func(b member.ID) bool { return b == id })
	if err == nil {
		s := f.space[id]
		f.space[id] = Space{Used: s.Used, Size: s.Used}
	}
	return err
}

func (c *cluster) raiseNoSpace(id member.ID) {
	c.commit(&state.Request{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(id), Alarm: pb.AlarmType_NOSPACE}})
}

func (c *cluster) noSpace() (of []member.ID) {
	for _, a := range c.members[0].View().Alarms {
		if a.Type == pb.AlarmType_NOSPACE {
			of = append(of, a.Member)
		}
	}
	return of
}

func wantNoSpace(t *testing.T, c *cluster, want ...member.ID) {
	t.Helper()
	if got := c.noSpace(); !slices.Equal(got, want) {
		t.Errorf("NOSPACE of %v, want %v", got, want)
	}
}

func TestTheAlarmGoesWhenThereIsSpaceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 3), newFiles(t)
		c.setVersion("3.7.0")
		f.set(Space{Used: 95}, 1, 2, 3)
		for _, id := range ids(1, 2, 3) {
			defer run(t, c.upkeep(id, Options{QuotaBytes: 100}, f.of(id)))()
		}
		c.raiseNoSpace(2)
		c.raiseNoSpace(77) // of nobody: etcd's own business
		sleep(time.Minute)
		wantNoSpace(t, c, 2, 77)
		f.set(Space{Used: 10}, 1, 3) // others have nothing to say about member 2
		sleep(time.Minute)
		wantNoSpace(t, c, 2, 77)
		f.set(Space{Used: 89}, 2)
		sleep(calmLooks*time.Second + time.Millisecond)
		synctest.Wait()
		wantNoSpace(t, c, 77)
		sleep(time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		if got := f.fills[2]; !slices.Equal(got, []Fill{Exhausted, Low}) && !slices.Equal(got, []Fill{Low, Exhausted, Low}) {
			t.Errorf("member 2 was said to be %v", got)
		}
		if got := f.fills[1]; !slices.Equal(got, []Fill{Low, Plenty}) {
			t.Errorf("member 1 was said to be %v", got)
		}
	})
}

func TestAnAlarmThatComesBackStaysLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 1), newFiles(t)
		c.setVersion("3.7.0")
		f.set(Space{Used: 10}, 1)
		u := c.upkeep(1, Options{QuotaBytes: 100}, f.of(1))
		defer run(t, u)()
		var stayed []time.Duration
		for range 5 {
			c.raiseNoSpace(1)
			began := time.Now()
			for len(c.noSpace()) > 0 {
				sleep(100 * time.Millisecond)
			}
			stayed = append(stayed, time.Since(began).Round(time.Second))
		}
		for i := 1; i < len(stayed); i++ {
			if stayed[i] < stayed[i-1]*3/2 {
				t.Errorf("alarms stayed for %v", stayed)
			}
		}
		sleep(flapWindow)
		c.raiseNoSpace(1)
		sleep(calmLooks*time.Second + time.Millisecond)
		wantNoSpace(t, c)
		if n := value(t, u.metrics.disarmed); n != 6 {
			t.Errorf("%v alarms counted", n)
		}
	})
}

func TestTheAlarmStaysIfThatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 1), newFiles(t)
		f.set(Space{Used: 1}, 1)
		defer run(t, c.upkeep(1, Options{QuotaBytes: 100, ManualDisarm: true}, f.of(1)))()
		c.raiseNoSpace(1)
		sleep(10 * time.Minute)
		wantNoSpace(t, c, 1)
	})
}

func TestTheLeaderLowersTheAlarmOfARemovedMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 3), newFiles(t)
		c.setVersion("3.7.0")
		c.raiseNoSpace(3)
		c.change(member.Change{Type: raftpb.ConfChangeRemoveNode, ID: 3})
		for _, id := range ids(1, 2) {
			defer run(t, c.upkeep(id, Options{QuotaBytes: 100}, f.of(id)))()
		}
		sleep(2 * time.Second)
		wantNoSpace(t, c)
	})
}

var tidy = Options{DefragFreePercent: 50, DefragFreeBytes: 1000}

func TestMembersDefragmentOneAfterTheOtherAndTheLeaderLast(t *testing.T) {
	for seed := range 3 {
		synctest.Test(t, func(t *testing.T) {
			c, f := newCluster(t, 5), newFiles(t)
			c.setVersion("3.7.0")
			c.elect(member.ID(seed + 1))
			f.set(Space{Used: 3000, Free: 1000, Size: 4000}, 1, 2, 3, 4, 5) // no need
			for _, id := range ids(1, 2, 3, 4, 5) {
				defer run(t, c.upkeep(id, tidy, f.of(id)))()
				sleep(7 * time.Second) // they were not started at once
			}
			sleep(5 * time.Minute)
			f.set(Space{Used: 1000, Free: 3000, Size: 4000}, 1, 2, 3, 4)
			sleep(15 * time.Minute)
			got := f.worked()
			if last := member.ID(seed + 1); last != 5 && (len(got) != 4 || got[3] != last) {
				t.Errorf("%v worked, and %v leads", got, last)
			}
			slices.Sort(got)
			if !slices.Equal(got, ids(1, 2, 3, 4)) {
				t.Errorf("%v worked", got)
			}
			if _, held := c.members[0].View().Leases.Lease(Turn); held {
				t.Error("somebody still has its turn")
			}
			sleep(35 * time.Minute)
			if n := len(f.worked()); n != 4 {
				t.Errorf("%d defragmentations in the end", n)
			}
		})
	}
}

func TestAMemberAloneNeedsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 1), newFiles(t)
		f.set(Space{Used: 1000, Free: 1000, Size: 2000}, 1)
		before := c.index
		u := c.upkeep(1, tidy, f.of(1))
		defer run(t, u)()
		sleep(3 * time.Minute)
		if got := f.worked(); !slices.Equal(got, ids(1)) {
			t.Errorf("%v worked", got)
		}
		if n := value(t, u.metrics.tidies.WithLabelValues(tidyDone)); n != 1 {
			t.Errorf("%v counted", n)
		}
		for _, e := range c.log[before:] {
			if e.request.GetLeaseGrant() != nil {
				t.Error("it asked for a lease")
			}
		}
	})
}

func TestNobodyDefragmentsForLittleOrWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 3), newFiles(t)
		c.setVersion("3.7.0")
		f.set(Space{Used: 100, Free: 900, Size: 1000}, 1)       // 90 %, but few bytes
		f.set(Space{Used: 10_000, Free: 9000, Size: 19_000}, 2) // many, but below half
		f.set(Space{Used: 1000, Free: 9000, Size: 10_000}, 3)
		f.full = errors.New("5 bytes are free, 1000 are needed")
		h := &heard{}
		for _, id := range ids(1, 2, 3) {
			defer run(t, c.upkeep(id, tidy, f.of(id), func(p *Parts) { p.Log = h.logger() }))()
		}
		sleep(10 * time.Minute)
		if got := f.worked(); len(got) != 0 {
			t.Errorf("%v worked", got)
		}
		if n := h.count("has no room"); n != 1 {
			t.Errorf("said %d times that there is no room", n)
		}
	})
}

func TestATurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newCluster(t, 2), newFiles(t)
		c.setVersion("3.7.0")
		f.takes = 2 * turnTTL
		f.set(Space{Used: 1000, Free: 9000, Size: 10_000}, 2)
		u := c.upkeep(2, tidy, f.of(2))
		defer run(t, u)()
		sleep(2 * time.Minute)
		if _, held := c.members[0].View().Leases.Lease(Turn); !held {
			t.Error("no turn was taken")
		}
		sleep(turnTime)
		if _, held := c.members[0].View().Leases.Lease(Turn); held {
			t.Error("the turn has not ended")
		}
		if n := value(t, u.metrics.tidies.WithLabelValues(tidyFailed)); n != 1 {
			t.Errorf("%v failed", n)
		}
	})
}
