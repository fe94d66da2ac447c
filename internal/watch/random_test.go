package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kvd/internal/mvcc"
)

// TestAnyWatcherSeesItsHistory lets many watchers come and go under writes,
// with readers of all speeds, and compares with the list of all events.
func TestAnyWatcherSeesItsHistory(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { anyWatcher(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func anyWatcher(t *testing.T, r *rand.Rand) {
	k := newKeyspace(t, Options{
		QueueEvents: 1 + r.IntN(200), SinkBytes: 1 + r.IntN(2000), MessageBytes: 1 + r.IntN(1000), MessageRevisions: 1 + r.IntN(20),
	})
	k.run()
	key := func() []byte { return fmt.Appendf(nil, "%c%d", 'a'+r.IntN(3), r.IntN(4)) }
	type reader struct {
		sink *Sink
		w    *Watcher
		from int64
		got  []mvcc.Revision
	}
	var all []*reader
	takeOne := func(x *reader) bool {
		m := x.sink.Take()
		if m == nil {
			return false
		}
		for _, e := range k.decode(m) {
			x.got = append(x.got, mvcc.Revision{Main: e.Kv.ModRevision})
		}
		return true
	}
	for range 400 {
		switch p := r.IntN(100); {
		case p < 60:
			k.write(func(w *mvcc.Write) {
				for range 1 + r.IntN(3) {
					if r.IntN(4) == 0 {
						w.Delete(mvcc.Span{Key: key()}, func(string, mvcc.Item) {})
					} else {
						w.Put(key(), make([]byte, r.IntN(50)), 0)
					}
				}
			})
		case p < 65 && len(all) < 30:
			x := &reader{sink: k.hub.Sink()}
			spec := Spec{Span: mvcc.Span{Key: key()}, NoPuts: r.IntN(5) == 0, NoDeletes: r.IntN(5) == 0, Previous: r.IntN(2) == 0}
			switch r.IntN(3) {
			case 0:
				spec.Span.End = []byte{0}
			case 1:
				spec.Span.End = append(key(), 'z')
			}
			if spec.Span.Empty() {
				continue
			}
			spec.From = r.Int64N(k.keys.Revision() + 5)
			x.from = spec.From
			if x.from == 0 {
				x.from = k.keys.Revision() + 1
			}
			x.w = k.watch(x.sink, spec)
			all = append(all, x)
		case p < 70:
			k.flush()
		case len(all) > 0:
			takeOne(all[r.IntN(len(all))])
		}
	}
	for _, x := range all {
		var want []mvcc.Revision
		for _, e := range k.history {
			if e.Revision().Main >= x.from && x.w.spec.Span.Contains([]byte(e.Key())) && x.w.spec.wants(e) {
				want = append(want, mvcc.Revision{Main: e.Revision().Main})
			}
		}
		deadline := time.Now().Add(patience)
		for len(x.got) < len(want) && time.Now().Before(deadline) {
			if !takeOne(x) {
				time.Sleep(100 * time.Microsecond)
			}
		}
		k.settle()
		for takeOne(x) {
		}
		if !slices.Equal(x.got, want) {
			t.Fatalf("watcher of %+v from %d got %v, want %v", x.w.spec, x.from, x.got, want)
		}
	}
}
