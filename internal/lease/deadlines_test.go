package lease

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kvd/internal/store"
)

// clock is a time that stands still until it is told otherwise.
type clock struct{ zero, now time.Time }

func newClock() clock {
	zero := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return clock{zero, zero}
}

func (clock) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func (c clock) at(s string) time.Time { return c.zero.Add(c.duration(s)) }

// crowdOf grants n leases, of ttl(i) seconds.
func crowdOf(t *testing.T, n int, ttl func(i int) int64) View {
	t.Helper()
	r, err := store.NewMem().Read()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(r)
	if err != nil {
		t.Fatal(err)
	}
	var rows store.Batch
	for i := range n {
		if _, err := b.Grant(ID(i+1), ttl(i), 1, &rows); err != nil {
			t.Fatal(err)
		}
	}
	return b.View()
}

// ends returns how long after now each lease ends, ascending.
func ends(d *Deadlines, v View, now time.Time) []time.Duration {
	var all []time.Duration
	for _, l := range v.All() {
		at, _ := d.Deadline(l.ID)
		all = append(all, at.Sub(now))
	}
	slices.Sort(all)
	return all
}

// mostPerSecond counts the fullest second.
func mostPerSecond(ends []time.Duration) (most int) {
	from := 0
	for i := range ends {
		for ends[i]-ends[from] >= time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

func TestPromotionSpreadsACrowd(t *testing.T) {
	for name, c := range map[string]struct {
		n   int
		ttl func(int) int64
	}{
		"all alike":     {5000, func(int) int64 { return 60 }},
		"two piles":     {4000, func(i int) int64 { return 60 + int64(i%2)*100 }},
		"one each time": {3000, func(i int) int64 { return 60 + int64(i)*10 }},
		"a dense ramp":  {8000, func(i int) int64 { return 60 + int64(i)/2000 }},
	} {
		t.Run(name, func(t *testing.T) {
			v := crowdOf(t, c.n, c.ttl)
			var d Deadlines
			now := newClock().zero
			d.Promote(v, now, time.Second)
			all := ends(&d, v, now)
			if most := mostPerSecond(all); most > crowd {
				t.Errorf("%d end within a second", most)
			}
			for _, l := range v.All() {
				if at, ok := d.Deadline(l.ID); !ok || at.Sub(now) < time.Second+seconds(l.TTL) {
					t.Fatalf("lease %d of %d s ends after %v", l.ID, l.TTL, at.Sub(now))
				}
			}
			if last, want := all[len(all)-1], time.Second+seconds(c.ttl(c.n-1))+time.Duration(c.n)*time.Second/perSecond; last > want {
				t.Errorf("the last ends after %v, want at most %v", last, want)
			}
		})
	}
}

func TestPromotionOfFewerThanACrowdMovesNone(t *testing.T) {
	v := crowdOf(t, crowd-1, func(int) int64 { return 60 })
	var d Deadlines
	now := newClock().zero
	d.Promote(v, now, time.Second)
	if all := ends(&d, v, now); all[0] != 61*time.Second || all[len(all)-1] != all[0] {
		t.Errorf("from %v to %v", all[0], all[len(all)-1])
	}
}

// TestCrowdIsSpreadAsEtcdDoes has the numbers that follow from etcd's rule for
// two piles of 1000 leases alike: of each the first 750 keep their time, the n-th
// ends n/750 seconds after them.
func TestCrowdIsSpreadAsEtcdDoes(t *testing.T) {
	v := crowdOf(t, 2000, func(i int) int64 { return 60 + int64(i)/1000*100 })
	var d Deadlines
	now := newClock().zero
	d.Promote(v, now, 0)
	for i, at := range ends(&d, v, now) {
		want := seconds(60 + int64(i)/1000*100)
		if n := i%1000 + 1; n > 750 {
			want += time.Duration(float64(time.Second) * float64(n) / 750)
		}
		if at != want {
			t.Fatalf("lease %d of 2000 ends after %v, want %v", i+1, at, want)
		}
	}
}

// TestDeadlinesAgreeWithASlowList plays random sets, removals and expiries on
// a list that is searched from end to end.
func TestDeadlinesAgreeWithASlowList(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := Deadlines{Retry: 3 * time.Second}
	slow := map[ID]time.Time{} // when each comes out next
	now := newClock().zero
	for range 5000 {
		id := ID(random.IntN(40) - 20)
		switch random.IntN(5) {
		case 0, 1:
			at := now.Add(time.Duration(random.IntN(5000)) * time.Millisecond)
			d.Set(id, at)
			slow[id] = at
		case 2:
			d.Remove(id)
			delete(slow, id)
		case 4:
			d.Proposed(id)
			if _, ok := slow[id]; ok {
				slow[id] = now.Add(time.Hour * 1e4)
			}
		case 3:
			now = now.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
			var want []ID
			for id, at := range slow {
				if !at.After(now) {
					want = append(want, id)
				}
			}
			slices.SortFunc(want, func(a, b ID) int {
				if c := slow[a].Compare(slow[b]); c != 0 {
					return c
				}
				return int(a - b)
			})
			want = want[:min(len(want), 5)]
			for _, id := range want {
				slow[id] = now.Add(d.Retry)
			}
			if got := d.Expired(now, 5); !slices.Equal(got, want) {
				t.Fatalf("expired %v, want %v", got, want)
			}
		}
		if d.Len() != len(slow) {
			t.Fatalf("%d leases, want %d", d.Len(), len(slow))
		}
	}
}
