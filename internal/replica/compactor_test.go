package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
)

// compaction is one that a compactor asked for: when, and to what.
type compaction struct {
	at     time.Duration
	target int64
}

// play asks a compactor on every tick for as long as the time lasts. The
// revision is the number of whole minutes gone by, plus one. Outcome says how
// each compaction goes; nil means well.
func play(keep Retention, tick, last time.Duration, leading func(time.Duration) bool, outcome func(time.Duration) bool) []compaction {
	zero := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := newCompactor(keep, zero)
	var all []compaction
	for at := time.Duration(0); at <= last; at += tick {
		revision := int64(at/time.Minute) + 1
		if target, due := c.look(zero.Add(at), revision, leading == nil || leading(at)); due {
			all = append(all, compaction{at, target})
			c.done(outcome == nil || outcome(at))
		}
	}
	return all
}

// TestCompactionsAreEtcds plays what test/compat plays with etcd's compactor.
func TestCompactionsAreEtcds(t *testing.T) {
	kept, err := os.ReadFile("testdata/compactions.txt")
	must(t, err)
	var played strings.Builder
	for line := range strings.Lines(string(kept)) {
		if strings.HasPrefix(line, "#") {
			played.WriteString(line)
			continue
		}
		words := strings.Fields(line)
		if len(words) != 6 {
			continue // it says what was compacted
		}
		played.WriteString(line)
		var keep Retention
		var last, failing time.Duration
		if words[0] == "revision" {
			_, err = fmt.Sscan(words[1], &keep.Revisions)
		} else {
			keep.Window, err = time.ParseDuration(words[1])
		}
		must(t, err)
		last, err = time.ParseDuration(words[3])
		must(t, err)
		failing, err = time.ParseDuration(words[5])
		must(t, err)
		for _, c := range play(keep, 100*time.Millisecond, last, nil, func(at time.Duration) bool { return at > failing }) {
			fmt.Fprintf(&played, "    %v to %d\n", c.at, c.target)
		}
	}
	if played.String() != string(kept) {
		t.Errorf("etcd does\n%s\nkvd does\n%s", kept, played.String())
	}
}

func TestPeriodicCompactionNeverCutsIntoTheWindow(t *testing.T) {
	// Ticks that do not meet the slots, and windows shorter than some of them.
	for _, window := range []time.Duration{time.Nanosecond, time.Second, 7 * time.Minute, 3 * time.Hour} {
		for _, tick := range []time.Duration{70 * time.Millisecond, 13 * time.Second, 11 * time.Minute} {
			got := play(Retention{Window: window}, tick, 12*time.Hour, nil, nil)
			if len(got) == 0 {
				t.Errorf("window %v, tick %v: none", window, tick)
			}
			for _, g := range got {
				// The target was current until its minute was over.
				if oldest := g.at - window; time.Duration(g.target-1)*time.Minute > oldest {
					t.Fatalf("window %v, tick %v: at %v to %d", window, tick, g.at, g.target)
				}
			}
		}
	}
}

func TestMemberThatDoesNotLeadOnlySamples(t *testing.T) {
	leads := func(at time.Duration) bool { return at > 100*time.Minute }
	got := play(Retention{Window: time.Hour}, time.Second, 3*time.Hour, leads, nil)
	want := []compaction{{102 * time.Minute, 37}, {162 * time.Minute, 97}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestNothingNewIsNotCompactedAgain(t *testing.T) {
	zero := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, keep := range []Retention{{Window: time.Hour}, {Revisions: 10}} {
		c := newCompactor(keep, zero)
		n := 0
		for at := time.Duration(0); at <= 5*time.Hour; at += time.Second {
			if _, due := c.look(zero.Add(at), 100, true); due {
				n++
				c.done(true)
			}
		}
		if n != 1 {
			t.Errorf("%v: %d compactions", keep, n)
		}
	}
}

func TestCompactionUnderWayIsWaitedFor(t *testing.T) {
	zero := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := newCompactor(Retention{Revisions: 10}, zero)
	if _, due := c.look(zero.Add(5*time.Minute), 100, true); !due {
		t.Fatal("none")
	}
	if target, due := c.look(zero.Add(10*time.Minute), 200, true); due {
		t.Errorf("a second one, to %d", target)
	}
	c.done(false)
	if target, due := c.look(zero.Add(15*time.Minute), 300, true); !due || target != 290 {
		t.Errorf("then %d, %t", target, due)
	}
}

func TestRevisionCompactionKeepsThatMany(t *testing.T) {
	got := play(Retention{Revisions: 12}, time.Second, 31*time.Minute, nil, nil)
	want := []compaction{{15 * time.Minute, 4}, {20 * time.Minute, 9}, {25 * time.Minute, 14}, {30 * time.Minute, 19}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	fails := func(at time.Duration) bool { return at > 22*time.Minute }
	if got = play(Retention{Revisions: 12}, time.Second, 31*time.Minute, nil, fails); !slices.Equal(got, want) {
		t.Errorf("with failures: %v, want %v", got, want)
	}
}

func TestStopOfTheClockDoesNotCutIntoTheWindow(t *testing.T) {
	zero := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := newCompactor(Retention{Window: time.Hour}, zero)
	c.look(zero, 1, true)
	// The process stood still for a day; the revision it finds is new.
	if target, due := c.look(zero.Add(24*time.Hour), 1000, true); due && target != 1 {
		t.Errorf("to %d", target)
	}
	c.done(true)
	for at := 24 * time.Hour; at < 25*time.Hour; at += time.Second {
		if target, due := c.look(zero.Add(at), 1001, true); due {
			t.Errorf("%v after: to %d", at-24*time.Hour, target)
		}
	}
}

func TestLeaderCompactsByItself(t *testing.T) {
	for _, keep := range []Retention{{Window: 10 * time.Minute}, {Revisions: 3}} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			h := newHome(t)
			h.options.Retention = keep
			inFakeTime(t, h, func(t *testing.T, r *running) {
				for i := range 10 {
					r.mustPut("k", fmt.Sprint(i))
				}
				time.Sleep(21 * time.Minute)
				want := int64(11) // the newest, which is 10 minutes old
				if keep.Revisions > 0 {
					want = 8
				}
				if got := r.View().Keys.Compacted(); got != want {
					t.Errorf("compacted to %d, want %d", got, want)
				}
				if v := r.View(); v.Swept < want {
					t.Errorf("removed up to %d", v.Swept)
				}
				if value, ok := r.get("k"); !ok || value != "9" {
					t.Errorf("k is %q, %t", value, ok)
				}
			})
		})
	}
}

func TestFollowersLeaveCompactionToTheLeader(t *testing.T) {
	board := &switchboard{lines: map[uint64]*Replica{}}
	var members []*running
	for i := range 3 {
		h := newHome(t)
		h.options.Retention = Retention{Window: 300 * time.Millisecond}
		h.dir, h.self, h.send = t.TempDir(), uint64(i+1), board.send
		h.makeDirs(t)
		h.createLog(t, h.self, uint64((i+1)%3+1), uint64((i+2)%3+1))
		r := h.start(t)
		board.connect(h.self, r.Replica)
		members = append(members, r)
	}
	leader, other := leaderOf(t, members)
	last := leader.mustPut("k", "v")
	eventually(t, "a compaction", func() bool {
		return leader.View().Keys.Compacted() >= last && other.View().Keys.Compacted() >= last
	})
	seen, err := ask(t.Context(), other.Replica, func(l *loop, reply reply[compactor]) { reply(*l.compactor, nil) })
	must(t, err)
	if len(seen.samples) == 0 || seen.last != 0 {
		t.Errorf("a follower took %d samples and compacted to %d", len(seen.samples), seen.last)
	}
}

func TestClientThatCompactsFirstIsNoFailure(t *testing.T) {
	h := newHome(t)
	h.options.Retention = Retention{Revisions: 2}
	inFakeTime(t, h, func(t *testing.T, r *running) {
		for range 5 {
			r.mustPut("k", "v")
		}
		_, err := r.Propose(context.Background(), &state.Request{Compaction: &pb.CompactionRequest{Revision: 5}}, nil)
		must(t, err)
		time.Sleep(6 * time.Minute)
		got, err := ask(t.Context(), r.Replica, func(l *loop, reply reply[int64]) { reply(l.compactor.last, nil) })
		if must(t, err); got != 4 {
			t.Errorf("the compactor's last is %d", got)
		}
	})
}

func TestRetentionOfTwoKindsIsRefused(t *testing.T) {
	for _, keep := range []Retention{{time.Hour, 5}, {-1, 0}, {0, -1}} {
		o := Options{Retention: keep}
		if err := o.Complete(); err == nil {
			t.Errorf("%v is taken", keep)
		}
	}
	if newCompactor(Retention{}, time.Time{}) != nil {
		t.Error("nothing asked for, and there is a compactor")
	}
}

func TestErrandsHearOfAStop(t *testing.T) {
	r := newHome(t).start(t)
	must(t, r.Barrier(t.Context()))
	r.close() // now the loop is nobody's
	heard := make(chan error, 1)
	es := &errands{loop: r.loop}
	es.send(putRequest("k", "v"), func(err error) { heard <- err })
	if err := <-heard; !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
}
