package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kvd/internal/mvcc"
)

func TestLiveEventsComeInOrderBehindTheAnswer(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	k.put("a/0", "before")
	k.settle()
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a/"), Previous: true})
	k.put("a/1", "x")
	k.put("b", "not wanted")
	k.put("a/1", "y")
	k.remove("a/1")
	if m := k.expect(s, Created, w); m.Revision != 2 {
		t.Errorf("created at revision %d, want 2", m.Revision)
	}
	k.settle()
	m := k.expect(s, Events, w)
	events := k.decode(m)
	if len(events) != 3 || m.Revision != 6 {
		t.Fatalf("got %v at revision %d, want the events of 3, 5 and 6 in one message", events, m.Revision)
	}
	if events[0].PrevKv != nil || string(events[1].PrevKv.GetValue()) != "x" || string(events[2].PrevKv.GetValue()) != "y" {
		t.Errorf("wrong previous states: %v", events)
	}
	if events[2].Kv.ModRevision != 6 || events[2].Kv.Value != nil {
		t.Errorf("a deletion shows %v, want key and revision", events[2].Kv)
	}
}

func TestHistoryComesBeforeThePresent(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		t.Run(fmt.Sprintf("flushed=%v", flushed), func(t *testing.T) {
			k := newKeyspace(t, Options{MessageRevisions: 7})
			k.run()
			for i := range 600 { // more than the keyspace keeps in memory
				k.put("k", fmt.Sprint(i))
			}
			if flushed {
				k.flush()
			}
			s := k.hub.Sink()
			w := k.watch(s, Spec{Span: mvcc.Span{Key: []byte("k")}, From: 3})
			for i := range 100 {
				k.put("k", fmt.Sprint(i))
			}
			k.expect(s, Created, w)
			for want := int64(3); want <= 701; {
				for _, e := range k.decode(k.expect(s, Events, w)) {
					if e.Kv.ModRevision != want {
						t.Fatalf("got revision %d, want %d", e.Kv.ModRevision, want)
					}
					want++
				}
			}
		})
	}
}

func TestAStartInTheFutureIsWaitedFor(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a"), From: 4})
	for range 4 {
		k.put("a", "x") // revisions 2 to 5
	}
	k.settle()
	k.expect(s, Created, w)
	if events := k.decode(k.expect(s, Events, w)); events[0].Kv.ModRevision != 4 || len(events) != 2 {
		t.Errorf("got %v, want revisions 4 and 5", events)
	}
}

func TestFilters(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	s := k.hub.Sink()
	puts := k.watch(s, Spec{Span: prefix("a"), NoDeletes: true})
	deletes := k.watch(s, Spec{Span: prefix("a"), NoPuts: true})
	k.watch(s, Spec{Span: prefix("a"), NoPuts: true, NoDeletes: true})
	late := Spec{Span: prefix("a"), From: 2, NoPuts: true}
	k.put("a", "x")
	k.remove("a")
	k.settle()
	k.watch(s, late)
	got := map[*Watcher]int{}
	k.until(func() bool {
		for m := s.Take(); m != nil; m = s.Take() {
			for _, e := range k.decode(m) {
				got[m.Watcher] += 1 + int(e.Type)
			}
		}
		return len(got) == 3
	})
	if got[puts] != 1 || got[deletes] != 2 {
		t.Errorf("got %v", got)
	}
}

func TestACompactionEndsACursorBehindIt(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	for range 10 {
		k.put("a", "x")
	}
	k.compact(8)
	s := k.hub.Sink()
	behind := k.watch(s, Spec{Span: prefix("a"), From: 5})
	k.expect(s, Created, behind)
	if m := k.expect(s, Cancelled, behind); m.Compacted != 8 || m.Revision != 0 {
		t.Errorf("cancelled by compaction %d at revision %d, want 8 and none", m.Compacted, m.Revision)
	}
	s.RequestProgress() // no answer: the watcher is still known
	if !behind.Cancel() {
		t.Error("a watcher ended by a compaction cannot be cancelled")
	}
	k.expect(s, Cancelled, behind)
	if behind.Cancel() {
		t.Error("cancelled twice")
	}
	at := k.watch(s, Spec{Span: prefix("a"), From: 8})
	k.expect(s, Created, at)
	if events := k.decode(k.expect(s, Events, at)); len(events) != 4 {
		t.Errorf("from the compaction on there are %d events, want 4", len(events))
	}
}

func TestCancelIsTheLastWord(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a")})
	k.put("a", "x")
	k.settle()
	w.Cancel()
	k.put("a", "y")
	k.settle()
	k.expect(s, Created, w)
	if events := k.decode(k.expect(s, Events, w)); len(events) != 1 {
		t.Errorf("got %v", events)
	}
	k.expect(s, Cancelled, w)
	if m := s.Take(); m != nil {
		t.Errorf("a message of kind %d after the cancellation", m.Kind)
	}
}

func TestProgressStandsBetweenTheEventsItCovers(t *testing.T) {
	k := newKeyspace(t, Options{})
	s := k.hub.Sink()
	s.RequestProgress() // without watchers: no answer
	a := k.watch(s, Spec{Span: prefix("a")})
	b := k.watch(s, Spec{Span: prefix("b")})
	k.put("a", "x")
	s.RequestProgress() // not offered yet: answered once it is
	k.run()
	k.settle()
	k.put("a", "y")
	k.settle()
	k.expect(s, Created, a)
	k.expect(s, Created, b)
	k.expect(s, Events, a)
	if m := k.expect(s, Progress, nil); m.Revision != 2 {
		t.Errorf("progress at revision %d, want 2", m.Revision)
	}
	if events := k.decode(k.expect(s, Events, a)); events[0].Kv.ModRevision != 3 {
		t.Errorf("got %v behind the progress of revision 2", events)
	}

	future := k.watch(s, Spec{Span: prefix("c"), From: 100})
	s.RequestProgress()
	k.expect(s, Created, future)
	if m := s.Take(); m != nil {
		t.Errorf("a message of kind %d though a watcher starts in the future", m.Kind)
	}
}

func TestOneWatchersProgress(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a"), From: 3})
	if _, ok := w.Progress(); ok {
		t.Error("progress while a message waits")
	}
	k.expect(s, Created, w)
	if _, ok := w.Progress(); ok {
		t.Error("progress before the start")
	}
	k.put("b", "x")
	k.put("b", "x")
	k.settle()
	if rev, ok := w.Progress(); !ok || rev != 3 {
		t.Errorf("progress %d, %v, want 3", rev, ok)
	}
	k.put("a", "x")
	k.settle()
	if _, ok := w.Progress(); ok {
		t.Error("progress while an event waits")
	}
}

func TestASlowReaderLagsAndLosesNothing(t *testing.T) {
	k := newKeyspace(t, Options{SinkBytes: 500, MessageBytes: 300})
	k.run()
	s := k.hub.Sink()
	slow := []*Watcher{k.watch(s, Spec{Span: prefix("a")}), k.watch(s, Spec{Span: prefix("a"), Previous: true})}
	other := k.hub.Sink()
	fast := k.watch(other, Spec{Span: prefix("a")})
	const n = 2000
	for i := range n {
		k.put(fmt.Sprint("a", i%7), "value")
	}
	k.settle()
	if k.hub.behind.Load() != 3 {
		t.Errorf("%d cursors lag, want all 3: their sinks are full", k.hub.behind.Load())
	}
	for _, reader := range []struct {
		sink *Sink
		of   []*Watcher
	}{{s, slow}, {other, []*Watcher{fast}}} {
		seen := map[*Watcher]int64{}
		for i := 0; slices.ContainsFunc(reader.of, func(w *Watcher) bool { return seen[w] != n+1 }); i++ {
			m := k.next(reader.sink)
			if m.Kind == Created {
				seen[m.Watcher] = 1
				continue
			}
			for _, e := range k.decode(m) {
				if seen[m.Watcher]++; e.Kv.ModRevision != seen[m.Watcher] {
					t.Fatalf("revision %d where %d is due", e.Kv.ModRevision, seen[m.Watcher])
				}
			}
		}
	}
	k.until(func() bool { return k.hub.behind.Load() == 0 })
}

func TestAnOverrunHubReadsHistory(t *testing.T) {
	k := newKeyspace(t, Options{QueueEvents: 10})
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a")})
	for range 100 { // the hub does not run yet
		k.put("a", "x")
	}
	k.run()
	k.expect(s, Created, w)
	for want := int64(2); want <= 101; {
		for _, e := range k.decode(k.expect(s, Events, w)) {
			if e.Kv.ModRevision != want {
				t.Fatalf("got revision %d, want %d", e.Kv.ModRevision, want)
			}
			want++
		}
	}
	k.hub.Reset()
	k.until(func() bool { return k.hub.behind.Load() == 0 })
	k.put("a", "y")
	if events := k.decode(k.expect(s, Events, w)); events[0].Kv.ModRevision != 102 {
		t.Errorf("got %v after the reset, want revision 102", events)
	}
}

func TestAnEventIsEncodedOnceForAll(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	var sinks []*Sink
	for i := range 10 {
		s := k.hub.Sink()
		span := prefix("a")
		if i%2 == 1 {
			span = prefix("ab")
		}
		w := k.watch(s, Spec{Span: span})
		k.expect(s, Created, w)
		sinks = append(sinks, s)
	}
	k.put("abc", "x")
	first := k.next(sinks[0])
	for _, s := range sinks[1:] {
		if m := k.next(s); &m.Pieces[0][0] != &first.Pieces[0][0] {
			t.Fatal("two watchers have bytes of their own")
		}
	}
}

func TestAskingWithoutReadingIsHeldBack(t *testing.T) {
	k := newKeyspace(t, Options{})
	s := k.hub.Sink()
	ctx, cancel := context.WithCancel(context.Background())
	for range maxControls {
		if err := s.Admit(ctx); err != nil {
			t.Fatal(err)
		}
		s.Refuse("no")
	}
	admitted := make(chan error)
	go func() { admitted <- s.Admit(ctx) }()
	select {
	case <-admitted:
		t.Fatal("admitted though no answer was taken")
	case <-time.After(10 * time.Millisecond):
	}
	s.Take()
	if err := <-admitted; err != nil {
		t.Fatal(err)
	}
	s.Refuse("no")
	cancel()
	if err := s.Admit(ctx); err == nil {
		t.Error("admitted after the end")
	}
}

func TestAClosedSinkTakesNoWatcher(t *testing.T) {
	k := newKeyspace(t, Options{})
	k.run()
	s := k.hub.Sink()
	k.watch(s, Spec{Span: prefix("a")})
	k.watch(s, Spec{Span: prefix("a"), From: 1})
	s.Close()
	if _, err := k.hub.Watch(Spec{Span: prefix("a")}, s, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	k.put("a", "x")
	k.settle()
	if len(k.hub.index.all()) != 0 || k.hub.behind.Load() != 0 {
		t.Error("the hub remembers watchers of a closed sink")
	}
}

func TestTheHubRestsSoThatEventsGather(t *testing.T) {
	k := newKeyspace(t, Options{Rest: time.Hour, MaxRest: time.Hour})
	k.run()
	s := k.hub.Sink()
	w := k.watch(s, Spec{Span: prefix("a")})
	k.expect(s, Created, w)
	k.put("a", "first") // delivered at once
	k.expect(s, Events, w)
	k.put("a", "second")
	k.put("a", "third")
	if m := s.Take(); m != nil {
		t.Fatalf("a message of kind %d while the hub rests", m.Kind)
	}
	s.RequestProgress() // ends the rest
	if events := k.decode(k.expect(s, Events, w)); len(events) != 2 {
		t.Errorf("got %v, want both events in one message", events)
	}
	if m := k.expect(s, Progress, nil); m.Revision != 4 {
		t.Errorf("progress at %d, want 4", m.Revision)
	}
}

// However many streams nobody reads, what waits for all of them is bounded, and
// each that is read after all gets everything.
func TestManySlowReadersHoldNoMoreThanTheirShare(t *testing.T) {
	const total = 1 << 20
	k := newKeyspace(t, Options{TotalBytes: total, MessageBytes: 32 << 10})
	k.run()
	var sinks []*Sink
	var watchers []*Watcher
	const streams, n = 20, 100
	for range streams {
		s := k.hub.Sink()
		sinks = append(sinks, s)
		watchers = append(watchers, k.watch(s, Spec{Span: prefix("a")}))
	}
	value := strings.Repeat("v", 10<<10)
	for range n {
		k.put("a", value)
	}
	k.settle()
	if held, most := k.hub.held.Load(), int64(total+streams*(shareBytes+64<<10)); held > most {
		t.Errorf("%d bytes wait, at most %d may", held, most)
	}
	for i, s := range sinks {
		for next := int64(2); next != n+2; {
			m := k.next(s)
			if m.Kind != Events {
				continue
			}
			if m.Watcher != watchers[i] {
				t.Fatal("a message for another watcher")
			}
			for _, e := range k.decode(m) {
				if e.Kv.ModRevision != next {
					t.Fatalf("stream %d: revision %d where %d is due", i, e.Kv.ModRevision, next)
				}
				next++
			}
		}
	}
	k.settle()
	if held := k.hub.held.Load(); held != 0 {
		t.Errorf("%d bytes are thought to wait in empty sinks", held)
	}
}
