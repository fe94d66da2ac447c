package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var threeAddrs = []string{"h:1", "h:2", "h:3", "h:4", "h:5", "h:6"}

func TestEveryMemberIsToldOfAllMembers(t *testing.T) {
	c := newCluster(&subject{}, "/data", threeAddrs, false)
	const all = "--initial-cluster=m1=http://h:2,m2=http://h:4,m3=http://h:6"
	for i, p := range c.members {
		args := etcdArgs(p, false)
		for _, want := range []string{all, "--initial-cluster-state=new", "--name=" + p.name, "--data-dir=" + p.dir + "/data"} {
			if !slices.Contains(args, want) {
				t.Errorf("member %d: no %s in %q", i, want, args)
			}
		}
	}
	learner := etcdArgs(c.learner("/data", []string{"h:7", "h:8"}), false)
	for _, want := range []string{all + ",learner=http://h:8", "--initial-cluster-state=existing"} {
		if !slices.Contains(learner, want) {
			t.Errorf("learner: no %s in %q", want, learner)
		}
	}
}

func TestSingleMemberIsAClusterOfItself(t *testing.T) {
	args := etcdArgs(&process{name: "bench", addr: "h:1", peer: "h:2"}, true)
	for _, want := range []string{"--initial-cluster=bench=http://h:2", "--initial-cluster-state=new", "--enable-pprof"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
}

func TestLeaderIsTheOneThatAllName(t *testing.T) {
	says := func(self, leader uint64) *pb.StatusResponse {
		return &pb.StatusResponse{Header: &pb.ResponseHeader{MemberId: self}, Leader: leader}
	}
	for name, c := range map[string]struct {
		statuses []*pb.StatusResponse
		want     int
	}{
		"agreed":          {[]*pb.StatusResponse{says(1, 2), says(2, 2), says(3, 2)}, 1},
		"one silent":      {[]*pb.StatusResponse{says(1, 2), says(2, 2), nil}, -1},
		"first silent":    {[]*pb.StatusResponse{nil, says(2, 2), says(3, 2)}, -1},
		"one without":     {[]*pb.StatusResponse{says(1, 0), says(2, 2), says(3, 2)}, -1},
		"two opinions":    {[]*pb.StatusResponse{says(1, 2), says(2, 2), says(3, 3)}, -1},
		"leader not here": {[]*pb.StatusResponse{says(1, 9), says(2, 9), says(3, 9)}, -1},
	} {
		if got := leaderOf(c.statuses); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestSplitLeavesTheMembersAsTheyAre(t *testing.T) {
	c := newCluster(&subject{}, "/data", threeAddrs, false)
	lead, rest := splitAt(c.members, 1)
	if lead.name != "m2" || len(rest) != 2 || rest[0].name != "m1" || rest[1].name != "m3" {
		t.Errorf("leader %s, followers %v", lead.name, rest)
	}
	for i, want := range []string{"m1", "m2", "m3"} {
		if c.members[i].name != want {
			t.Errorf("member %d is %s now", i, c.members[i].name)
		}
	}
}

func TestConnectionsAreSpreadOverTheMembers(t *testing.T) {
	conns, closeAll, err := dialAll(newCluster(&subject{}, "/data", threeAddrs, false).members, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	count := map[string]int{}
	for _, c := range conns {
		count[c.Target()]++
	}
	for _, addr := range []string{"h:1", "h:3", "h:5"} {
		if got := count["passthrough:///"+addr]; got != 2 {
			t.Errorf("%d connections to %s: %v", got, addr, count)
		}
	}
}

func TestATryThatHangsHidesNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at, err := firstOf(t.Context(), 5*time.Millisecond, 2, func(ctx context.Context, i int) error {
			if i == 0 || time.Since(start) < 22*time.Millisecond {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		if got := at.Sub(start); err != nil || got != 25*time.Millisecond {
			t.Errorf("success after %v, %v; want the first try after 22ms", got, err)
		}
	})
}

func TestNoSuccessIsAnErrorAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := firstOf(t.Context(), time.Second, 1, func(context.Context, int) error { return errors.New("no leader") })
		if got := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || got != time.Minute {
			t.Errorf("%v after %v", err, got)
		}
	})
}

func TestPacedCountsFromWhenItWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Millisecond)
		defer cancel()
		calls := 0
		got, err := paced(ctx, time.Now(), 10*time.Millisecond, func() error {
			if calls++; calls == 1 {
				time.Sleep(15 * time.Millisecond) // the second is due meanwhile
			}
			return nil
		})
		want := []int64{int64(15 * time.Millisecond), int64(5 * time.Millisecond), 0, 0}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	})
}

func TestPacedEndsAtAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		if _, err := paced(t.Context(), time.Now(), time.Millisecond, func() error { return broken }); !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestLearnerSpaceHoldsSoManyMiB(t *testing.T) {
	if s := learnerSpace(3); s.n*s.bytes != 3<<20 {
		t.Errorf("%d values of %d bytes", s.n, s.bytes)
	}
}

func TestCPUOfAllMembersCounts(t *testing.T) {
	st := serve(t, newLimit())
	one, err := usageOfAll(st.servers())
	if err != nil {
		t.Fatal(err)
	}
	st.others = []*process{st.process, st.process}
	three, err := usageOfAll(st.servers())
	if err != nil {
		t.Fatal(err)
	}
	if three.CPU < 3*one.CPU || one.CPU == 0 {
		t.Errorf("three times %v make %v", one.CPU, three.CPU)
	}
}

func TestFollowersServeTheReads(t *testing.T) {
	st := serve(t, newLimit())
	cs := &clusterStage{stage: *st}
	cs.others = []*process{st.process}
	cs.process = &process{subject: st.process.subject, addr: "127.0.0.1:1", cmd: st.process.cmd} // nobody listens
	for _, w := range clusterWorkloads() {
		m, err := metrics(nil), error(nil)
		switch w.name {
		case "get3":
			if m, err = w.run(t.Context(), cs); err != nil || m[cpuPerOp] <= 0 {
				t.Errorf("%s: %v, %v", w.name, m, err)
			}
		case "put3":
			if m, err = w.run(t.Context(), cs); err == nil {
				t.Errorf("%s did without the leader: %v", w.name, m)
			}
		}
	}
}
