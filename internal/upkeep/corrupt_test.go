package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/member"
)

func TestJudgeGoesByTheMajorityOfAllMembers(t *testing.T) {
	type says struct {
		hash      uint32
		compacted int64
		err       bool
	}
	own := Hash{Hash: 7, Compacted: 5}
	for _, c := range []struct {
		name    string
		size    int
		others  []says // members 2, 3, …
		want    verdict
		accused []member.ID
	}{
		{"all agree", 3, []says{{7, 5, false}, {7, 5, false}}, verdict{compared: 2, agreed: true, decided: true}, nil},
		{"one is wrong", 3, []says{{7, 5, false}, {8, 5, false}}, verdict{compared: 2, decided: true, bad: ids(3)}, ids(3)},
		{"this one is wrong", 3, []says{{8, 5, false}, {8, 5, false}}, verdict{compared: 2, decided: true, bad: ids(1)}, ids(1)},
		{"all differ", 3, []says{{8, 5, false}, {9, 5, false}}, verdict{compared: 2}, ids(0)},
		{"two of two", 2, []says{{8, 5, false}}, verdict{compared: 1}, ids(0)},
		{"one of three is silent, and the others differ", 3, []says{{8, 5, false}, {err: true}}, verdict{compared: 1}, ids(0)},
		{"one of three is silent, and the others agree", 3, []says{{7, 5, false}, {err: true}}, verdict{compared: 1, agreed: true, decided: true}, nil},
		{"another past cannot be compared", 3, []says{{8, 4, false}, {9, 6, false}}, verdict{agreed: true}, nil},
		{"two are wrong in one way", 5, []says{{7, 5, false}, {8, 5, false}, {8, 5, false}, {7, 5, false}}, verdict{compared: 4, decided: true, bad: ids(3, 4)}, ids(3, 4)},
		{"two are wrong in two ways", 5, []says{{9, 5, false}, {7, 5, false}, {8, 5, false}, {7, 5, false}}, verdict{compared: 4, decided: true, bad: ids(2, 4)}, ids(2, 4)},
		{"half is no majority", 4, []says{{7, 5, false}, {8, 5, false}, {8, 5, false}}, verdict{compared: 3}, ids(0)},
		{"nobody to ask", 1, nil, verdict{agreed: true, decided: true}, nil},
	} {
		var answers []answer
		for i, s := range c.others {
			a := answer{member: member.Member{ID: member.ID(i + 2)}, hash: Hash{Hash: s.hash, Compacted: s.compacted}}
			if s.err {
				a.err = errNoAnswer
			}
			answers = append(answers, a)
		}
		got := judge(1, own, answers, c.size)
		if fmt.Sprint(got) != fmt.Sprint(c.want) || !slices.Equal(got.accused(), c.accused) {
			t.Errorf("%s: %+v accuses %v, want %+v, %v", c.name, got, got.accused(), c.want, c.accused)
		}
	}
}

// filled is a cluster with some data.
func filled(t *testing.T, n int, spoilt ...member.ID) *cluster {
	c := newCluster(t, n)
	c.setVersion("3.7.0")
	for _, id := range spoilt {
		c.spoilPut(id, "b")
	}
	for _, key := range []string{"a", "b", "a", "c"} {
		c.put(key, "good")
	}
	return c
}

var everyMinute = Options{CorruptCheck: time.Minute}

func TestMembersThatAgreeRaiseNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		c := filled(t, 3)
		c.compact(3)
		u := c.upkeep(1, Options{CorruptCheck: time.Minute, CompactHashCheck: time.Minute}, func(p *Parts) { p.Registry = registry })
		defer run(t, u)()
		for range 5 {
			c.put("d", "more")
			sleep(time.Minute)
		}
		synctest.Wait()
		wantAlarms(t, c)
		if n := value(t, u.metrics.checks.WithLabelValues("periodic", resultAgreed)); n != 5 {
			t.Errorf("%v comparisons agreed", n)
		}
		if n := value(t, u.metrics.checks.WithLabelValues("compaction", resultAgreed)); n != 1 {
			t.Errorf("%v compactions agreed: one is compared once", n)
		}
	})
}

func TestTheLeaderFindsWhoHoldsOtherData(t *testing.T) {
	for _, c := range []struct {
		size   int
		spoilt []member.ID
		want   []member.ID
	}{
		{3, ids(2), ids(2)},
		{3, ids(1), ids(1)}, // the leader itself
		{5, ids(2, 4), ids(2, 4)},
		{3, ids(2, 3), ids(0)}, // in two ways
		{2, ids(2), ids(0)},
		{4, ids(1), ids(1)},
	} {
		t.Run(fmt.Sprint(c.spoilt, " of ", c.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := filled(t, c.size, c.spoilt...)
				defer run(t, cluster.upkeep(1, everyMinute))()
				sleep(59 * time.Second)
				wantAlarms(t, cluster)
				sleep(2 * time.Second)
				wantAlarms(t, cluster, c.want...)
			})
		})
	}
}

func TestAFollowerComparesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3, 2)
		c.compact(3)
		defer run(t, c.upkeep(3, Options{CorruptCheck: time.Second, CompactHashCheck: time.Second}))()
		sleep(time.Minute)
		wantAlarms(t, c)
	})
}

func TestAMemberThatIsBehindOrSilentIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 5, 4)
		c.members[1].asleep = true
		c.members[2].hang = true
		c.put("x", "not on 2")
		u := c.upkeep(1, everyMinute)
		defer run(t, u)()
		sleep(2*time.Minute + time.Second)
		wantAlarms(t, c, 0) // 1 and 5 agree, which are not most of five
		if n := value(t, u.metrics.checks.WithLabelValues("periodic", resultDisagreed)); n != 1 {
			t.Errorf("%v runs in that time", n)
		}
	})
}

func TestAMemberThatClaimsMoreThanWasCommittedIsCorrupt(t *testing.T) {
	own := Hash{Hash: 1, Revision: 9, Compacted: 5, At: 9}
	for _, c := range []struct {
		name  string
		hash  Hash
		ahead bool
	}{
		{"the same", Hash{1, 9, 5, 9}, false},
		{"behind", Hash{1, 8, 4, 8}, false},
		{"a newer revision", Hash{1, 10, 5, 9}, true},
		{"a newer compaction", Hash{1, 9, 6, 9}, true},
	} {
		u := newCluster(t, 2).upkeep(1, Options{})
		if got := u.isAhead(answer{hash: c.hash}, own); got != c.ahead {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3)
		liar := overstating{c, 3}
		defer run(t, c.upkeep(1, everyMinute, func(p *Parts) { p.Others = liar }))()
		sleep(time.Minute + time.Second)
		wantAlarms(t, c, 3)
	})
}

// overstating lets a member claim a revision that there is not.
type overstating struct {
	*cluster
	who member.ID
}

func (o overstating) HashKV(ctx context.Context, m member.Member, rev int64) (Hash, error) {
	h, err := o.cluster.HashKV(ctx, m, rev)
	if m.ID == o.who {
		h.Revision += 100
	}
	return h, err
}

func TestOneRunFindsAllThatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 5, 2)
		defer run(t, c.upkeep(1, everyMinute, func(p *Parts) { p.Others = overstating{c, 3} }))()
		sleep(time.Minute + time.Second)
		wantAlarms(t, c, 2, 3)
	})
}

func TestAFindingThatDoesNotLastRaisesNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3)
		u := c.upkeep(1, everyMinute, func(p *Parts) { p.Others = &hiccup{cluster: c} })
		defer run(t, u)()
		sleep(time.Minute + time.Second)
		wantAlarms(t, c)
	})
}

// hiccup answers wrongly once.
type hiccup struct {
	*cluster
	done bool
}

func (o *hiccup) HashKV(ctx context.Context, m member.Member, rev int64) (Hash, error) {
	h, err := o.cluster.HashKV(ctx, m, rev)
	if m.ID == 2 && !o.done {
		o.done = true
		h.Hash++
	}
	return h, err
}

func TestAMemberAloneComparesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 1)
		u := c.upkeep(1, everyMinute)
		defer run(t, u)()
		sleep(10 * time.Minute)
		for _, result := range []string{resultAgreed, resultIncomplete, resultFailed, resultDisagreed} {
			if n := value(t, u.metrics.checks.WithLabelValues("periodic", result)); n != 0 {
				t.Errorf("%v are %s", n, result)
			}
		}
	})
}

func TestAnAlarmIsRaisedAgainAfterItWasDisarmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3, 2)
		defer run(t, c.upkeep(1, everyMinute))()
		sleep(time.Minute + time.Second)
		wantAlarms(t, c, 2)
		before := len(c.log)
		sleep(5 * time.Minute)
		if len(c.log) != before {
			t.Errorf("%d entries while the alarm is raised already", len(c.log)-before)
		}
		c.disarm()
		wantAlarms(t, c)
		sleep(time.Minute)
		wantAlarms(t, c, 2)
	})
}

func TestALongComparisonIsFollowedByALongRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3)
		c.members[2].hang = true // 30 s each
		u := c.upkeep(1, everyMinute)
		defer run(t, u)()
		sleep(10 * time.Minute) // 1 min, 30 s, 10 min
		if n := value(t, u.metrics.checks.WithLabelValues("periodic", resultIncomplete)); n != 1 {
			t.Errorf("%v comparisons in 10 minutes", n)
		}
		sleep(3 * time.Minute)
		if n := value(t, u.metrics.checks.WithLabelValues("periodic", resultIncomplete)); n != 2 {
			t.Errorf("%v comparisons in 13 minutes", n)
		}
	})
}

var compactionsEveryMinute = Options{CompactHashCheck: time.Minute}

func TestCompactionsTellWhoHoldsOtherData(t *testing.T) {
	for _, c := range []struct {
		size   int
		spoilt []member.ID
		want   []member.ID
	}{
		{3, nil, nil}, {3, ids(2), ids(2)}, {3, ids(1), ids(1)}, {5, ids(2, 3), ids(2, 3)}, {2, ids(2), ids(0)}, {3, ids(1, 2), ids(0)},
	} {
		t.Run(fmt.Sprint(c.spoilt, " of ", c.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := filled(t, c.size, c.spoilt...)
				cluster.compact(4)
				defer run(t, cluster.upkeep(1, compactionsEveryMinute))()
				sleep(time.Minute + time.Second)
				wantAlarms(t, cluster, c.want...)
			})
		})
	}
}

func TestCompactionsAreComparedBackToOneThatAllHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3, 3)
		c.compact(4) // all have this one
		c.members[1].asleep = true
		c.put("e", "not on 2")
		c.compact(6)
		u := c.upkeep(1, compactionsEveryMinute)
		defer run(t, u)()
		sleep(time.Minute + time.Second)
		// The newest has two answers that differ, and no majority of three.
		wantAlarms(t, c, 0)
	})
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3)
		c.compact(4)
		c.members[1].asleep = true
		c.put("e", "not on 2")
		c.compact(6)
		u := c.upkeep(1, compactionsEveryMinute)
		stop := run(t, u)
		sleep(time.Minute + time.Second)
		wantAlarms(t, c)
		stop()
		if u.checked != 4 {
			t.Errorf("the newest that all agree on is %d", u.checked)
		}
	})
}

func TestACompactionThatAllAgreeOnIsNotLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3)
		c.compact(4)
		asked := &counting{cluster: c}
		defer run(t, c.upkeep(1, compactionsEveryMinute, func(p *Parts) { p.Others = asked }))()
		sleep(10 * time.Minute)
		if asked.n.Load() != 2 {
			t.Errorf("asked %d times; 2 members, once each", asked.n.Load())
		}
		c.put("f", "more")
		c.compact(6)
		sleep(2 * time.Minute)
		if asked.n.Load() != 4 {
			t.Errorf("asked %d times after another", asked.n.Load())
		}
	})
}

func TestEveryMemberHearsWhoIsCorruptAndWhenThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := filled(t, 3, 2)
		defer run(t, c.upkeep(1, everyMinute))()
		told := make(chan []member.ID, 8)
		u := c.upkeep(2, Options{}, func(p *Parts) { p.Corrupt = func(ids []member.ID) { told <- slices.Clone(ids) } })
		defer run(t, u)()
		sleep(time.Minute + time.Second)
		if got := <-told; !slices.Equal(got, ids(2)) {
			t.Errorf("told %v", got)
		}
		if value(t, u.metrics.corrupt) != 1 {
			t.Error("the gauge does not show it")
		}
		c.disarm()
		sleep(soon)
		if got := <-told; len(got) != 0 {
			t.Errorf("then %v", got)
		}
		if value(t, u.metrics.corrupt) != 0 {
			t.Error("the gauge still shows it")
		}
		if len(told) != 0 {
			t.Error("told more than once")
		}
	})
}

func TestTheWholeClusterConcernsEveryMember(t *testing.T) {
	for _, c := range []struct {
		alarmed []member.ID
		want    bool
	}{{nil, false}, {ids(2), true}, {ids(3), false}, {ids(0, 3), true}} {
		if got := Concerns(c.alarmed, 2); got != c.want {
			t.Errorf("%v: %v", c.alarmed, got)
		}
	}
}

func start(c *cluster, id member.ID) error {
	return CheckStart(context.Background(), Start{ID: id, View: c.find(id).View(), Others: c})
}

func TestAStartIsComparedWithThoseThatRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int
		spoilt []member.ID
		self   member.ID
		absent []member.ID // do not answer at all
		want   error
	}{
		{name: "all agree", size: 3, self: 1},
		{name: "this one is wrong", size: 3, spoilt: ids(1), self: 1, want: ErrCorrupt},
		{name: "another is wrong, and most agree with this one", size: 3, spoilt: ids(2), self: 1},
		{name: "another is wrong, and nobody can say so", size: 3, spoilt: ids(2), self: 1, absent: ids(3), want: ErrUndecided},
		{name: "one of two", size: 2, spoilt: ids(2), self: 1, want: ErrUndecided},
		{name: "nobody answers", size: 3, spoilt: ids(1), self: 1, absent: ids(2, 3)},
		{name: "alone", size: 1, self: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := filled(t, c.size, c.spoilt...)
				for _, id := range c.absent {
					cluster.find(id).hang = true
				}
				began := time.Now()
				if err := start(cluster, c.self); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if took := time.Since(began); took > 1100*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestAStartDoesNotCompareWhatCannotBeCompared(t *testing.T) {
	c := filled(t, 3, 1)
	c.find(2).silent = true // lives, and has no hash
	c.find(3).asleep = true
	c.put("x", "not on 3")
	if err := start(c, 1); err != nil {
		t.Errorf("one is silent, one behind: %v", err)
	}
	c = filled(t, 3, 1)
	c.find(1).asleep = true
	c.compact(4)
	if err := start(c, 1); err != nil {
		t.Errorf("the others have compacted: %v", err)
	}
	c.compact(5)
	if err := start(c, 1); err != nil {
		t.Errorf("the others have compacted all that it has: %v", err)
	}
	c.put("x", "more")
	c.compact(6)
	if err := start(c, 1); err != nil {
		t.Errorf("the others have compacted more than it has: %v", err)
	}
}

func TestAStartThatIsToldToStopEnds(t *testing.T) {
	c := filled(t, 3)
	c.find(2).hang, c.find(3).hang = true, true
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := CheckStart(ctx, Start{ID: 1, View: c.find(1).View(), Others: c}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
