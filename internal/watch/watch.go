// Package watch brings events to watchers. A watcher is a cursor, the next
// revision it needs, and a place in a bounded Sink, which it shares with the
// other watchers of its stream. A cursor at the present is live: the hub hands
// it events as they are published. Any other cursor lags: workers read history
// for it until it is at the present. There is no third kind.
//
// The package knows spans, revisions and events. It knows no stream, no
// request and no permission: callers ask for a watcher when it is allowed, and
// send what they take from the Sink. DESIGN.md says why nothing is lost.
package watch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/mvcc"
)

// Options tune the hub. A zero field takes the default named beside it.
type Options struct {
	QueueEvents      int // published events that may wait for the hub before all live cursors lag; 65536
	QueueBytes       int // the same by their size; 64 MiB
	SinkBytes        int // events waiting in one sink before its watchers lag; 4 MiB
	TotalBytes       int // the same in all sinks together, but for a small part of each; 256 MiB
	MessageRevisions int // revisions joined in one message; 1000
	MessageBytes     int // past this a message takes no further revision; 1 MiB
	Workers          int // lagging cursors that are read for at once; 4

	// After a round of deliveries the hub rests in proportion to their number,
	// and what comes meanwhile is delivered together: a wake-up and a message
	// cost far more than an event in it. A lone event is not delayed, nor is
	// anything with few watchers.
	Rest    time.Duration // for each sink delivered to; 100 µs
	MaxRest time.Duration // and no longer than this; 10 ms
}

func (o Options) complete() Options {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&o.QueueEvents, 1<<16)
	set(&o.QueueBytes, 64<<20)
	set(&o.SinkBytes, 4<<20)
	set(&o.TotalBytes, 256<<20)
	set(&o.MessageRevisions, 1000)
	set(&o.MessageBytes, 1<<20)
	set(&o.Workers, 4)
	if o.Rest == 0 {
		o.Rest = 100 * time.Microsecond
	}
	if o.MaxRest == 0 {
		o.MaxRest = 10 * time.Millisecond
	}
	return o
}

// shortestRest is worth a timer.
const shortestRest = 500 * time.Microsecond

// shareBytes may wait in a sink however much waits in others.
const shareBytes = 64 << 10

// Hub knows every watcher of this member.
type Hub struct {
	o       Options
	source  func() *mvcc.View
	log     *slog.Logger
	metrics *metrics

	// mu guards what follows and the cursors. A sink's own lock may be taken
	// under it, never the other way round.
	mu      sync.Mutex
	offered int64 // every live cursor has been offered all events up to here
	index   index
	lagging fifo // cursors that want to be read for, in the order they asked
	asked   []*ask
	hungry  *sync.Cond // workers wait here for lagging
	closed  bool

	behind atomic.Int64 // lagging cursors, for the metric
	held   atomic.Int64 // bytes of events that wait in sinks
	inbox  inbox
	hurry  chan struct{} // somebody waits for offered to grow
	touch  []*class      // scratch of offer: the classes a portion concerns
	due    []*Sink       // scratch of round: the sinks to wake after it
}

// New makes a hub whose live cursors start at the revision of source, which
// returns the newest published view.
func New(o Options, source func() *mvcc.View, log *slog.Logger, registry prometheus.Registerer) *Hub {
	h := &Hub{o: o.complete(), source: source, log: log, offered: source().Revision()}
	h.hungry = sync.NewCond(&h.mu)
	h.index.singles = map[string][]*class{}
	h.inbox.wake, h.hurry = make(chan struct{}, 1), make(chan struct{}, 1)
	h.metrics = newMetrics(h, registry)
	return h
}

// Publish tells of the events up to revision rev, in order; source shows them
// already and view does too. One goroutine calls it, and it never blocks: what
// does not fit into the queue is read from history instead.
func (h *Hub) Publish(view *mvcc.View, rev int64, events []*mvcc.Event) {
	bytes := 0
	for _, e := range events {
		bytes += e.Size(nil)
	}
	h.inbox.put(publication{view: view, revision: rev, events: events, bytes: bytes}, h.o)
}

// Reset tells that the keyspace was replaced by a snapshot: every cursor lags.
func (h *Hub) Reset() { h.inbox.overrun(h.source().Revision()) }

// Watchers is the number of live and lagging watchers.
func (h *Hub) Watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := int(h.behind.Load())
	for _, c := range h.index.all() {
		n += len(c.live)
	}
	return n
}

// Run hands events to watchers until ctx ends; it returns when all it started
// has ended. Sinks stay as they are: their streams end by themselves.
func (h *Hub) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range h.o.Workers {
		workers.Go(h.catchUp)
	}
	defer workers.Wait()
	defer h.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.inbox.wake:
			all, overrun := h.inbox.take()
			if overrun > 0 {
				h.lagAll(overrun)
			}
			h.rest(ctx, h.round(all))
		}
	}
}

// round offers publications, then has them sent: a sink is woken once for all
// of them, unless they are so large that it might be full before.
func (h *Hub) round(all []publication) (delivered int) {
	bytes := 0
	for _, p := range all {
		delivered += h.offer(p)
		if bytes += p.bytes; bytes > h.o.MessageBytes/4 {
			h.wakeDue()
			bytes = 0
		}
	}
	h.wakeDue()
	return delivered
}

func (h *Hub) wakeDue() {
	for _, s := range h.due {
		s.Wake()
	}
	clear(h.due)
	h.due = h.due[:0]
}

// rest lets events gather after a round of deliveries.
func (h *Hub) rest(ctx context.Context, delivered int) {
	long := min(time.Duration(delivered)*h.o.Rest, h.o.MaxRest)
	if long < shortestRest {
		return
	}
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.hurry:
	case <-ctx.Done():
	}
}

func (h *Hub) stop() {
	h.mu.Lock()
	h.closed = true
	h.hungry.Broadcast()
	h.mu.Unlock()
}

// offer hands a publication to the live cursors it concerns, in portions of
// whole revisions, and counts the deliveries.
func (h *Hub) offer(p publication) (delivered int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.revision <= h.offered { // read from history meanwhile, after an overrun
		return 0
	}
	for rest := p.events; len(rest) > 0; {
		n := h.portion(rest)
		delivered += h.distribute(p.view, rest[:n])
		rest = rest[n:]
	}
	h.offered = p.revision
	h.answer()
	return delivered
}

// portion is how many of events, whole revisions, go into one message.
func (h *Hub) portion(events []*mvcc.Event) int {
	revisions, bytes := 0, 0
	for i, e := range events {
		if i > 0 && e.Revision().Main != events[i-1].Revision().Main {
			if revisions++; revisions == h.o.MessageRevisions || bytes >= h.o.MessageBytes {
				return i
			}
		}
		bytes += e.Size(nil)
	}
	return len(events)
}

func (h *Hub) distribute(view *mvcc.View, events []*mvcc.Event) (delivered int) {
	if rev := events[0].Revision().Main; rev <= h.offered {
		panic(fmt.Sprintf("watch: revision %d published after %d", rev, h.offered))
	}
	enc := encoder{view: view, events: events, log: h.log}
	for i, e := range events {
		h.index.visit(e.Key(), func(c *class) {
			if !c.wants(e) {
				return
			}
			if len(c.matched) == 0 {
				h.touch = append(h.touch, c)
			}
			c.matched = append(c.matched, int32(i))
		})
	}
	for _, c := range h.touch {
		b := enc.batch(c.matched, c.previous)
		c.matched = c.matched[:0]
		delivered += len(c.live)
		h.deliver(c, &b, &enc)
	}
	clear(h.touch)
	h.touch = h.touch[:0]
	return delivered
}

// deliver puts a batch into the sinks of a class's live watchers. Who has no
// room lags: its cursor stays before the batch.
func (h *Hub) deliver(c *class, b *batch, enc *encoder) {
	for i := 0; i < len(c.live); i++ {
		w := c.live[i]
		own := b
		if w.next > b.first { // a start in the future, or read ahead of the hub
			if w.next > b.last {
				continue
			}
			later := enc.batch(enc.since(b, w.next), c.previous)
			own = &later
		}
		room, due := w.sink.offer(w, own)
		if due {
			h.due = append(h.due, w.sink)
		}
		if room {
			continue
		}
		w.next = own.first
		h.lag(w)
		i-- // another took its place
	}
}

// lagAll makes every live cursor lag: what was published up to rev is only in
// history.
func (h *Hub) lagAll(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.index.all() {
		for i := len(c.live) - 1; i >= 0; i-- {
			w := c.live[i]
			w.next = max(w.next, h.offered+1)
			h.lag(w)
		}
	}
	h.offered = rev
	h.answer()
}

// publication is what the applier publishes at once.
type publication struct {
	view     *mvcc.View
	revision int64
	events   []*mvcc.Event
	bytes    int
}

// inbox is the bounded queue between the applier and the hub. When full it
// forgets all but the newest revision.
type inbox struct {
	mu     sync.Mutex
	all    []publication
	events int
	bytes  int
	lost   int64 // newest revision that was forgotten; 0 for none
	wake   chan struct{}
}

func (in *inbox) put(p publication, o Options) {
	in.mu.Lock()
	in.all = append(in.all, p)
	in.events += len(p.events)
	in.bytes += p.bytes
	if in.events > o.QueueEvents || in.bytes > o.QueueBytes {
		in.forgetLocked(p.revision)
	}
	in.mu.Unlock()
	in.knock()
}

func (in *inbox) overrun(rev int64) {
	in.mu.Lock()
	in.forgetLocked(rev)
	in.mu.Unlock()
	in.knock()
}

func (in *inbox) forgetLocked(rev int64) {
	in.all, in.events, in.bytes, in.lost = nil, 0, 0, rev
}

func (in *inbox) knock() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// take returns what waits; what was lost came before it.
func (in *inbox) take() (all []publication, lost int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	all, lost = in.all, in.lost
	in.all, in.events, in.bytes, in.lost = nil, 0, 0, 0
	return all, lost
}
