package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"kvd/internal/mvcc"
)

func TestTheIndexFindsWhatSpansContain(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	key := func() []byte { return fmt.Appendf(nil, "%x", r.IntN(64)) }
	x := index{singles: map[string][]*class{}}
	type spec struct {
		Spec
		c *class
	}
	var all []spec
	for range 3000 {
		if len(all) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(all))
			gone := all[i].c
			x.drop(gone)
			all = slices.DeleteFunc(all, func(s spec) bool { return s.c == gone })
		} else {
			s := Spec{Span: mvcc.Span{Key: key()}, Previous: r.IntN(2) == 0}
			switch r.IntN(3) {
			case 0:
				s.Span.End = []byte{0}
			case 1:
				s.Span.End = append(key(), '~')
			}
			if !s.Span.Empty() {
				all = append(all, spec{s, x.class(&s)})
			}
		}
		at := key()
		want := map[*class]bool{}
		for _, s := range all {
			if s.Span.Contains(at) {
				want[s.c] = true
			}
		}
		got := map[*class]bool{}
		x.visit(string(at), func(c *class) {
			if got[c] {
				t.Fatalf("seed %d: visited twice", seed)
			}
			got[c] = true
		})
		if len(got) != len(want) {
			t.Fatalf("seed %d: found %d classes for %s, want %d", seed, len(got), at, len(want))
		}
		for c := range want {
			if !got[c] {
				t.Fatalf("seed %d: a class that contains %s is not found", seed, at)
			}
		}
	}
}

// BenchmarkPublish is the hub's work for one event, up to the sinks.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name    string
		spans   func(i int) mvcc.Span
		readers int
	}{
		{"100 of one prefix", func(int) mvcc.Span { return prefix("key") }, 100},
		{"10000 of single keys", func(i int) mvcc.Span { return mvcc.Span{Key: fmt.Appendf(nil, "key%05d", i)} }, 10000},
		{"10000 of prefixes", func(i int) mvcc.Span { return prefix(fmt.Sprintf("key%05d", i)) }, 10000},
	} {
		b.Run(c.name, func(b *testing.B) {
			k := newKeyspace(b, Options{})
			sinks := make([]*Sink, c.readers)
			for i := range sinks {
				sinks[i] = k.hub.Sink()
				k.watch(sinks[i], Spec{Span: c.spans(i)})
				sinks[i].Take()
			}
			i := 0
			for b.Loop() {
				k.put(fmt.Sprintf("key%05d", i%10000), "value")
				i++
				all, _ := k.hub.inbox.take()
				k.hub.round(all[:1])
				b.StopTimer()
				for _, s := range sinks {
					for s.Take() != nil {
					}
				}
				b.StartTimer()
			}
		})
	}
}
