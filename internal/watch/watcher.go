package watch

import (
	"errors"

	"kvd/internal/mvcc"
)

var (
	// ErrEmpty refuses a span that no key can lie in.
	ErrEmpty = errors.New("mvcc: watcher range is empty") // etcd's text, which clients see
	// ErrClosed refuses a watcher on a sink that was closed.
	ErrClosed = errors.New("the watch stream has ended")
)

// Spec is what a watcher wants to hear.
type Spec struct {
	Span      mvcc.Span
	From      int64 // first revision wanted; 0 or below: what comes after the present
	NoPuts    bool
	NoDeletes bool
	Previous  bool // each event with the key's state before it
}

func (s *Spec) wants(e *mvcc.Event) bool {
	return e.Delete() && !s.NoDeletes || !e.Delete() && !s.NoPuts
}

// Watcher is one cursor. Its fields belong to the hub.
type Watcher struct {
	// Tag is the caller's: set before the watcher can be seen, never changed.
	Tag any

	hub   *Hub
	sink  *Sink
	spec  Spec
	state state
	next  int64    // of a lagging cursor: first revision not yet in the sink; of a live one: earlier revisions do not concern it
	class *class   // while live
	place int      // in class.live, while live
	among int      // in sink.watchers
	open  *Message // the last message in the sink's queue about it, if it may still grow; guarded by the sink
	waits int      // messages about it in the sink's queue; guarded by the sink
}

type state uint8

const (
	fresh state = iota
	lagging
	live
	ended // cancelled by a compaction or a fault; still known to its sink
	gone  // cancelled by its owner
)

// Watch adds a watcher to a sink. The sink's next message about it says that
// it is there, with the newest revision; events follow after that message.
func (h *Hub) Watch(spec Spec, to *Sink, tag any) (*Watcher, error) {
	if spec.Span.Empty() {
		return nil, ErrEmpty
	}
	w := &Watcher{Tag: tag, hub: h, sink: to, spec: spec}
	h.mu.Lock()
	defer h.mu.Unlock()
	if to.shut {
		return nil, ErrClosed
	}
	// Under the lock: a revision published after this view is offered after
	// this watcher is known.
	view := h.source()
	w.next = spec.From
	if w.next <= 0 {
		w.next = view.Revision() + 1
	}
	to.add(w)
	to.push(&Message{Kind: Created, Watcher: w, Revision: view.Revision()})
	if w.next > h.offered && w.next >= view.Compacted() {
		h.enliven(w)
	} else {
		h.enqueue(w)
	}
	return w, nil
}

// Cancel ends the watcher. The last message about it says so, behind events
// that are in the sink already. It reports false for a watcher that was
// cancelled before.
func (w *Watcher) Cancel() bool {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.state == gone {
		return false
	}
	h.end(w, gone)
	w.sink.remove(w)
	w.sink.push(&Message{Kind: Cancelled, Watcher: w, Revision: h.source().Revision()})
	return true
}

// Progress returns the revision up to which everything the watcher wants has
// been taken from its sink. It is false while the cursor lags, while messages
// for it wait, and before its start.
func (w *Watcher) Progress() (rev int64, ok bool) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.state != live || h.offered < w.spec.From || w.sink.holds(w) {
		return 0, false
	}
	return h.offered, true
}

// enliven makes w live. Its cursor must be past what was offered.
func (h *Hub) enliven(w *Watcher) {
	w.become(live)
	w.class = h.index.class(&w.spec)
	w.place = len(w.class.live)
	w.class.live = append(w.class.live, w)
}

// quiet takes a live watcher out of its class.
func (h *Hub) quiet(w *Watcher) {
	c := w.class
	last := c.live[len(c.live)-1]
	c.live[w.place] = last
	last.place = w.place
	c.live[len(c.live)-1] = nil
	c.live = c.live[:len(c.live)-1]
	w.class = nil
	if len(c.live) == 0 {
		h.index.drop(c)
	}
}

// lag makes a live watcher a lagging one.
func (h *Hub) lag(w *Watcher) {
	h.quiet(w)
	h.enqueue(w)
}

// enqueue has a lagging watcher read for, now or when its sink has room.
func (h *Hub) enqueue(w *Watcher) {
	w.become(lagging)
	if w.sink.park(w) {
		return
	}
	h.lagging.push(w)
	h.hungry.Signal()
}

// end takes a watcher out of everything but its sink's list. A lagging one is
// left in the queues, where it is passed over.
func (h *Hub) end(w *Watcher, as state) {
	if w.state == live {
		h.quiet(w)
	}
	w.become(as)
}

func (w *Watcher) become(s state) {
	if w.state == lagging {
		w.hub.behind.Add(-1)
	}
	if s == lagging {
		w.hub.behind.Add(1)
	}
	w.state = s
}

// fifo is a queue of watchers.
type fifo struct {
	items []*Watcher
	head  int
}

func (q *fifo) push(w *Watcher) { q.items = append(q.items, w) }

func (q *fifo) pop() *Watcher {
	if q.head == len(q.items) {
		return nil
	}
	w := q.items[q.head]
	q.items[q.head] = nil
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head > 1024 && q.head*2 > len(q.items) {
		q.items = q.items[:copy(q.items, q.items[q.head:])]
		q.head = 0
	}
	return w
}
