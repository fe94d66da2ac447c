package main

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestCountersAreExactWhileTheyAreFew(t *testing.T) {
	s := newCounters(3, byBytes)
	for i, p := range []string{"a", "b", "c", "a", "b", "a"} {
		s.add(p, 1, int64(i))
	}
	if got := fmt.Sprint(s.top(2)); got != "[{a 3 8} {b 2 5}]" || s.sum.Count != 6 {
		t.Errorf("%s of %d", got, s.sum.Count)
	}
}

// A prefix with more than its share of all, one in so many as there are
// counters, is never lost, and no counter shows less than there was.
func TestLargePrefixesAreNeverLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const counters = 20
	s, exact, sum := newCounters(counters, byCount), map[string]int64{}, int64(0)
	for range 50_000 {
		p := fmt.Sprint("small", r.IntN(5000))
		if r.IntN(4) == 0 {
			p = fmt.Sprint("large", r.IntN(3))
		}
		s.add(p, 1, 10)
		exact[p]++
		sum++
	}
	if len(s.by) != counters || len(s.heap) != counters {
		t.Errorf("%d counters, %d in the heap, not %d", len(s.by), len(s.heap), counters)
	}
	for p, n := range exact {
		if c := s.by[p]; n > sum/counters && c == nil {
			t.Errorf("%s, seen %d times of %d, is lost", p, n, sum)
		} else if c != nil && c.Count < n {
			t.Errorf("%s: %d counted, there were %d", p, c.Count, n)
		}
	}
	for i, c := range s.heap {
		if c.at != i || s.by[c.Prefix] != c {
			t.Errorf("%v is at %d of the heap", c, i)
		}
	}
}

func TestKeysAreCountedUnderTheirPrefix(t *testing.T) {
	for _, c := range []struct {
		o         topOptions
		key, want string
	}{
		{topOptions{separator: "/", depth: 2}, "/registry/pods/default/web", "/registry/pods/"},
		{topOptions{separator: "/", depth: 1}, "/registry/pods/default/web", "/registry/"},
		{topOptions{separator: "/", depth: 2}, "config/a", "config/"},
		{topOptions{separator: "/", depth: 2}, "single", ""},
		{topOptions{separator: "/", depth: 2}, "", ""},
		{topOptions{separator: "/", depth: 1, prefix: "/registry/"}, "/registry/pods/default/web", "/registry/pods/"},
		{topOptions{separator: "/", depth: 1, prefix: "/registry"}, "/registry/pods/default/web", "/registry/pods/"},
		{topOptions{separator: "::", depth: 1}, "a::b::c", "a::"},
		{topOptions{separator: "/", depth: 9}, "a/b/c", "a/b/"},
	} {
		if got := c.o.part(c.key); got != c.want {
			t.Errorf("%+v: %q is counted under %q, not %q", c.o, c.key, got, c.want)
		}
	}
}

func TestOnlyTheLargestKeysAreKept(t *testing.T) {
	a := &topAnswer{topOptions: &topOptions{separator: "/", depth: 1, count: 3}, sizes: newCounters(10, byBytes)}
	for _, size := range []int{5, 1, 9, 3, 7} {
		a.count(&mvccpb.KeyValue{Key: []byte{'a'}, Value: make([]byte, size-1)})
	}
	var got []int64
	for _, l := range a.largest {
		got = append(got, l.Bytes)
	}
	if fmt.Sprint(got) != "[9 7 5]" || a.keys != 5 || a.bytes != 25 {
		t.Errorf("%v of %d keys with %d bytes", got, a.keys, a.bytes)
	}
}
