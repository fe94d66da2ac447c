package upkeep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/state"
)

func parse(t *testing.T, s string) member.Version {
	t.Helper()
	if s == "" {
		return member.Version{}
	}
	v, err := parseServer(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDecideFollowsEtcdsRules(t *testing.T) {
	for _, c := range []struct {
		name, cluster, lowest, target string
		want, fault                   string
	}{
		{name: "the first is that of the oldest member", lowest: "3.6.5", want: "3.6.0"},
		{name: "the first is the least if a member is not known", want: "3.0.0"},
		{name: "a member that is not known keeps it", cluster: "3.6.0"},
		{name: "nothing to do", cluster: "3.7.0", lowest: "3.7.3"},
		{name: "all are newer", cluster: "3.6.0", lowest: "3.7.0", want: "3.7.0"},
		{name: "from the least at once", cluster: "3.0.0", lowest: "3.7.3", want: "3.7.0"},
		{name: "a 3.6 member holds it", cluster: "3.6.0", lowest: "3.6.9"},
		{name: "it never falls by itself", cluster: "3.7.0", lowest: "3.6.9"},
		{name: "a new major version is none of ours", cluster: "3.7.0", lowest: "4.0.0"},
		{name: "a downgrade lowers it", cluster: "3.7.0", lowest: "3.7.3", target: "3.6.0", want: "3.6.0"},
		{name: "a downgrade is under way", cluster: "3.6.0", lowest: "3.7.3", target: "3.6.0"},
		{name: "a downgrade is done, but for its end", cluster: "3.6.0", lowest: "3.6.1", target: "3.6.0"},
		{name: "a downgrade waits for members that are not known", cluster: "3.7.0", target: "3.6.0"},
		{name: "a downgrade by two", cluster: "3.7.0", lowest: "3.7.3", target: "3.5.0", fault: "invalid downgrade target 3.5: the cluster version is 3.7"},
		{name: "a downgrade upwards", cluster: "3.6.0", lowest: "3.7.3", target: "3.7.0", fault: "invalid downgrade target 3.7: the cluster version is 3.6"},
		{name: "a downgrade with an old member", cluster: "3.7.0", lowest: "3.6.1", target: "3.6.0", fault: "invalid downgrade target 3.6: the oldest member runs 3.6"},
		{name: "a downgrade to nonsense", cluster: "3.7.0", lowest: "3.7.3", target: "x", fault: `the downgrade's target cannot be read: version "x": want major.minor.patch`},
	} {
		job := member.Downgrade{Enabled: c.target != "", Target: c.target}
		to, err := decide(parse(t, c.cluster), parse(t, c.lowest), job)
		got, fault := "", ""
		if to.Known() {
			got = to.String()
		}
		if err != nil {
			fault = err.Error()
		}
		if got != c.want || fault != c.fault {
			t.Errorf("%s: got %q (%q), want %q (%q)", c.name, got, fault, c.want, c.fault)
		}
	}
}

func TestServerVersionsAreReadAsPeopleRelease(t *testing.T) {
	for text, want := range map[string]string{
		"3.7.3": "3.7.3", "3.8.0-alpha.1": "3.8.0", "3.6.0+git": "3.6.0", "": "", "three": "", "0.0.0": "", "not_decided": "",
	} {
		v, err := parseServer(text)
		if got := v.String(); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, %v; want %q", text, got, err, want)
		}
	}
}

func TestTheLeaderSetsTheVersionAsSoonAsItLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.leader = 0
		stop := run(t, c.upkeep(1, Options{}))
		defer stop()
		sleep(time.Minute)
		if got := c.version(); got != "none" {
			t.Errorf("without a leader it is %s", got)
		}
		c.elect(1)
		sleep(soon)
		if got := c.version(); got != "3.7.0" {
			t.Errorf("it is %s", got)
		}
	})
}

func TestAFollowerAndALeaderThatHasNotAppliedSetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.elect(2)
		defer run(t, c.upkeep(1, Options{}))()
		c.members[1].stale = 9 // elected, and its view is of an older term
		defer run(t, c.upkeep(2, Options{}))()
		sleep(time.Minute)
		if got := c.version(); got != "none" {
			t.Errorf("it is %s", got)
		}
	})
}

func TestANudgeLooksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		u := c.upkeep(1, Options{})
		defer run(t, u)()
		u.Nudge()
		u.Nudge() // never blocks
		synctest.Wait()
		if got := c.version(); got != "3.7.0" {
			t.Errorf("it is %s", got)
		}
	})
}

func TestAnOldMemberHoldsTheVersionUntilItIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.members[2].version = "3.6.4"
		defer run(t, c.upkeep(1, Options{}))()
		sleep(soon)
		if got := c.version(); got != "3.6.0" {
			t.Errorf("with a 3.6 member it is %s", got)
		}
		c.mu.Lock()
		c.members[2].version = "3.7.0"
		c.mu.Unlock()
		sleep(3 * time.Second)
		if got := c.version(); got != "3.6.0" {
			t.Errorf("before the next look it is %s", got)
		}
		sleep(2 * time.Second)
		if got := c.version(); got != "3.7.0" {
			t.Errorf("after it, %s", got)
		}
	})
}

func TestAMemberThatDoesNotAnswerIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.members[2].hang = true
		defer run(t, c.upkeep(1, Options{}))()
		sleep(time.Second)
		if got := c.version(); got != "none" {
			t.Errorf("while it is asked it is %s", got)
		}
		sleep(1500 * time.Millisecond)
		if got := c.version(); got != "3.0.0" {
			t.Errorf("after the timeout it is %s", got)
		}
	})
}

func TestAMemberThatStartsLaterIsNoticedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log heard
		c := newCluster(t, 3)
		c.members[2].version = ""
		defer run(t, c.upkeep(1, Options{}, func(p *Parts) { p.Log = log.logger() }))()
		sleep(10 * time.Second)
		if got := c.version(); got != "3.0.0" {
			t.Errorf("it is %s", got)
		}
		if n := log.count("failed to get the version of a member"); n != 1 {
			t.Errorf("said %d times that a member does not answer", n)
		}
		c.mu.Lock()
		c.members[2].version = "3.7.1"
		c.mu.Unlock()
		sleep(retryInterval + soon)
		if got := c.version(); got != "3.7.0" {
			t.Errorf("then it is %s", got)
		}
		if log.count("set initial cluster version") != 1 || log.count("updated cluster version") != 1 {
			t.Error("the changes are not logged once each")
		}
	})
}

func TestANewerMemberIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log heard
		c := newCluster(t, 3)
		c.members[2].version = "3.8.0-alpha.0"
		defer run(t, c.upkeep(1, Options{}, func(p *Parts) { p.Log = log.logger() }))()
		sleep(time.Minute)
		if n := log.count("leader found higher-versioned member"); n != 1 {
			t.Errorf("said %d times", n)
		}
		if got := c.version(); got != "3.7.0" {
			t.Errorf("it is %s", got)
		}
	})
}

func TestADowngradeLowersTheVersionAndEndsWhenAllHaveMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.setVersion("3.7.0")
		u := c.upkeep(1, Options{})
		defer run(t, u)()
		c.downgrade("3.6.0")
		sleep(5 * time.Second)
		if got := c.version(); got != "3.6.0" {
			t.Fatalf("it is %s", got)
		}
		c.mu.Lock()
		c.members[1].version, c.members[2].version = "3.6.1", "3.6.1"
		c.mu.Unlock()
		sleep(20 * time.Second)
		if !c.members[0].View().Members.Downgrade().Enabled {
			t.Error("ended while this member runs 3.7")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.setVersion("3.6.0")
		c.downgrade("3.6.0")
		for _, f := range c.members {
			f.version = "3.6.1"
		}
		c.members[2].version = ""
		defer run(t, c.upkeep(1, Options{Version: "3.6.1"}))()
		sleep(20 * time.Second)
		if !c.members[0].View().Members.Downgrade().Enabled {
			t.Error("ended while a member does not answer")
		}
		c.mu.Lock()
		c.members[2].version = "3.6.0"
		c.mu.Unlock()
		sleep(5 * time.Second)
		synctest.Wait()
		if c.members[0].View().Members.Downgrade().Enabled {
			t.Error("it has not ended")
		}
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	c := newCluster(t, 1)
	for _, o := range []Options{{Version: "new"}, {CorruptCheck: -1}} {
		if _, err := New(o, Parts{Member: c.members[0], Others: c, ID: 1}); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func TestALearnerAsksForItsVoteUntilItHasIt(t *testing.T) {
	for _, c := range []struct {
		name    string
		learner bool
		asks    bool // whether it is to be promoted
		want    int  // times that it asks
	}{{"a learner", true, true, 3}, {"a voter", false, true, 0}, {"one that stays a learner", true, false, 0}} {
		synctest.Test(t, func(t *testing.T) {
			cluster := newCluster(t, 2)
			self := member.Member{ID: 3, PeerURLs: []string{"http://n3"}, Learner: c.learner}
			change := func(kind raftpb.ConfChangeType, promote bool) {
				cluster.mu.Lock()
				defer cluster.mu.Unlock()
				cluster.change(member.Change{Type: kind, ID: self.ID, Member: self, Promote: promote})
			}
			newcomer := &fake{c: cluster, id: 3, view: cluster.members[0].view} // knows nothing of itself
			asked, joined := 0, 0
			p := Parts{Member: newcomer, Others: cluster, ID: 3, Joined: func() { joined++ }}
			if c.asks {
				p.Promote = func(context.Context) error {
					if asked++; asked < 3 {
						return errNoAnswer
					}
					self.Learner = false
					change(raftpb.ConfChangeAddNode, true)
					newcomer.show(cluster.members[0].View())
					return nil
				}
			}
			u, err := New(Options{}, p)
			if err != nil {
				t.Fatal(err)
			}
			defer run(t, u)()
			sleep(5 * time.Second)
			synctest.Wait()
			if asked != 0 || joined != 0 {
				t.Errorf("%s: asked %d times before it knows of itself", c.name, asked)
			}
			kind := raftpb.ConfChangeAddNode
			if c.learner {
				kind = raftpb.ConfChangeAddLearnerNode
			}
			change(kind, false)
			newcomer.show(cluster.members[0].View())
			sleep(10 * time.Second)
			synctest.Wait()
			if asked != c.want || joined != 1 {
				t.Errorf("%s: asked %d times, joined %d", c.name, asked, joined)
			}
		})
	}
}

func (f *fake) show(v *state.View) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.view = v
}
