package watch

import (
	"context"
	"slices"
	"sync"
)

// Kind says what a message is.
type Kind uint8

// The kinds of messages.
const (
	Created   Kind = iota // the watcher is there
	Events                // events for it
	Progress              // no watcher: everything up to Revision has been delivered to all of the sink's watchers
	Cancelled             // nothing more comes for the watcher
	Refused               // a request that made no watcher; pushed by the sink's owner
)

// Message is what a sink hands out for sending, in order.
type Message struct {
	Kind      Kind
	Watcher   *Watcher // nil for Progress and Refused
	Revision  int64    // for the header; 0 for a cancellation by compaction
	Compacted int64    // Cancelled: the compaction that overtook the cursor, or 0
	Reason    string   // Refused, Cancelled by a fault
	Pieces    [][]byte // Events: WatchResponse.events fields, shared and read-only
	Count     int      // events in Pieces
	Bytes     int      // length of Pieces

	revisions int
	era       int       // of the sink; see Sink.era
	one       [1][]byte // what Pieces is made of while it is one
}

// maxControls is how many answers may wait in a sink before its owner's
// requests do.
const maxControls = 64

// Sink is the bounded queue in front of one stream, for all its watchers. The
// hub puts in, one sender takes out; nobody waits for the other. Events for
// one watcher gather in one message while it waits for the sender.
type Sink struct {
	hub   *Hub
	limit int           // bytes
	ring  func()        // something waits to be taken
	wake  chan struct{} // what ring signals, unless the owner brought one
	spare chan struct{} // answers have gone out

	watchers []*Watcher // guarded by the hub
	shut     bool       // closed, as the hub knows it; guarded by the hub
	asked    int        // progress answers the hub owes; guarded by mu

	mu       sync.Mutex
	queue    []*Message
	head     int
	bytes    int // of events in the queue
	controls int // answers in the queue
	// era counts messages about the whole stream. One that was queued in an
	// earlier era does not grow any more, so that events behind a progress
	// answer are never sent before it.
	era    int
	parked []*Watcher // lagging, waiting for room
	closed bool
}

// Sink makes the queue of one stream. Close it when the stream ends.
func (h *Hub) Sink() *Sink {
	wake := make(chan struct{}, 1)
	s := h.SinkFor(func() { signal(wake) })
	s.wake = wake
	return s
}

// SinkFor makes a queue that calls ring where another's Ready receives. ring is
// called under locks: it must neither block nor use the sink or the hub.
func (h *Hub) SinkFor(ring func()) *Sink {
	h.metrics.streams.Inc()
	return &Sink{hub: h, limit: h.o.SinkBytes, ring: ring, spare: make(chan struct{}, 1)}
}

// Ready receives when there is something to take, and after Wake.
func (s *Sink) Ready() <-chan struct{} { return s.wake }

// Wake lets Ready receive, or calls ring: for a sender that is woken for other
// things too. One channel is waited on at less cost than several.
func (s *Sink) Wake() { s.ring() }

// Take returns the next message, or nil if none waits. The message is the
// caller's.
func (s *Sink) Take() *Message {
	s.mu.Lock()
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		s.mu.Unlock()
		return nil
	}
	m := s.queue[s.head]
	s.queue[s.head] = nil
	s.head++
	s.bytes -= m.Bytes
	s.hub.held.Add(-int64(m.Bytes))
	if m.Watcher != nil {
		m.Watcher.waits--
		if m.Watcher.open == m {
			m.Watcher.open = nil
		}
	}
	if m.Kind != Events {
		s.controls--
		signal(s.spare)
	}
	var fed []*Watcher
	if len(s.parked) > 0 && s.bytes <= s.limit/2 {
		fed, s.parked = s.parked, nil
	}
	s.mu.Unlock()
	s.hub.metrics.took(m)
	if fed != nil {
		s.hub.resume(fed)
	}
	return m
}

// Admit waits until few enough answers wait to be sent for another request to
// be looked at, so that a client that asks and never reads is not served
// without bound.
func (s *Sink) Admit(ctx context.Context) error {
	for {
		s.mu.Lock()
		free := s.controls+s.asked < maxControls
		s.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-s.spare:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Refuse queues the answer to a request that made no watcher.
func (s *Sink) Refuse(reason string) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.push(&Message{Kind: Refused, Reason: reason, Revision: h.source().Revision()})
}

// Close forgets the sink's watchers and what waits.
func (s *Sink) Close() {
	h := s.hub
	h.mu.Lock()
	for _, w := range s.watchers {
		h.end(w, gone)
	}
	h.metrics.watchers.Sub(float64(len(s.watchers)))
	s.watchers, s.shut = nil, true
	h.mu.Unlock()
	h.metrics.streams.Dec()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, m := range s.queue[s.head:] {
		h.metrics.took(m)
	}
	h.held.Add(-int64(s.bytes))
	s.queue, s.head, s.parked, s.bytes = nil, 0, nil, 0
}

// add and remove keep the list of watchers; the hub's lock is held.
func (s *Sink) add(w *Watcher) {
	w.among = len(s.watchers)
	s.watchers = append(s.watchers, w)
	s.hub.metrics.watchers.Inc()
}

func (s *Sink) remove(w *Watcher) {
	last := s.watchers[len(s.watchers)-1]
	s.watchers[w.among] = last
	last.among = w.among
	s.watchers = slices.Delete(s.watchers, len(s.watchers)-1, len(s.watchers))
	s.hub.metrics.watchers.Dec()
}

// push queues an answer.
func (s *Sink) push(m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if m.Watcher == nil {
		s.era++
	} else {
		m.Watcher.open = nil
	}
	s.controls++
	s.appendLocked(m)
	s.ring()
}

func (s *Sink) appendLocked(m *Message) {
	m.era = s.era
	if m.Watcher != nil {
		m.Watcher.waits++
	}
	s.queue = append(s.queue, m)
}

// offer queues a live batch if there is room. A batch larger than the limit
// has room when nothing else waits. The caller wakes the sink if that is due.
func (s *Sink) offer(w *Watcher, b *batch) (room, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parked) > 0 || s.bytes > 0 && s.bytes+len(b.bytes) > s.limit || s.crowdedLocked() {
		return false, false
	}
	return true, s.gatherLocked(w, b, b.last)
}

// accept queues a batch from history that was read at revision at.
func (s *Sink) accept(w *Watcher, b *batch, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gatherLocked(w, b, at) {
		s.ring()
	}
}

// gatherLocked reports whether the batch made a message of its own.
func (s *Sink) gatherLocked(w *Watcher, b *batch, at int64) (fresh bool) {
	if s.closed {
		return false
	}
	h := s.hub
	m := w.open
	if m == nil || m.era != s.era || m.revisions+b.revisions > h.o.MessageRevisions || m.Bytes+len(b.bytes) > h.o.MessageBytes {
		m = &Message{Kind: Events, Watcher: w}
		m.Pieces = m.one[:0]
		w.open, fresh = m, true
		s.appendLocked(m)
	}
	m.Pieces = append(m.Pieces, b.bytes)
	m.Bytes += len(b.bytes)
	m.Count += b.count
	m.revisions += b.revisions
	m.Revision = max(m.Revision, at)
	s.bytes += len(b.bytes)
	h.held.Add(int64(len(b.bytes)))
	h.metrics.pending.Add(float64(b.count))
	return fresh
}

// crowdedLocked reports whether all sinks together hold so much that this one
// gets no more before something is taken from it.
func (s *Sink) crowdedLocked() bool {
	return s.bytes > shareBytes && s.hub.held.Load() > int64(s.hub.o.TotalBytes)
}

// park keeps a lagging watcher until there is room; false means that there is.
func (s *Sink) park(w *Watcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.bytes <= s.limit/2 && !s.crowdedLocked() {
		return false
	}
	s.parked = append(s.parked, w)
	return true
}

// holds reports whether a message about w waits.
func (s *Sink) holds(w *Watcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.waits > 0
}

// resume queues watchers whose sink has room again.
func (h *Hub) resume(all []*Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range all {
		if w.state == lagging {
			h.lagging.push(w)
			h.hungry.Signal()
		}
	}
}

// ask is a request for progress that waits for the hub to reach a revision.
type ask struct {
	sink *Sink
	want int64
}

// RequestProgress asks for a Progress message with the newest revision, behind
// all events up to it. There is none while one of the sink's watchers lags,
// has its start in the future or was ended by a compaction, nor without
// watchers: clients of etcd know it that way.
func (s *Sink) RequestProgress() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	// What is published but not yet offered is on its way: wait for it, so
	// that the answer is as new as what the client has seen elsewhere.
	h.asked = append(h.asked, &ask{sink: s, want: h.source().Revision()})
	if h.answer(); len(h.asked) > 0 {
		signal(h.hurry)
	}
}

// answer replies to those whose revision has been offered.
func (h *Hub) answer() {
	left := h.asked[:0]
	for _, a := range h.asked {
		if a.want > h.offered {
			left = append(left, a)
			continue
		}
		a.sink.mu.Lock()
		a.sink.asked--
		signal(a.sink.spare)
		a.sink.mu.Unlock()
		if h.present(a.sink) {
			a.sink.push(&Message{Kind: Progress, Revision: h.offered})
		}
	}
	clear(h.asked[len(left):])
	h.asked = left
}

// present reports whether every cursor of the sink is at the present.
func (h *Hub) present(s *Sink) bool {
	for _, w := range s.watchers {
		if w.state != live || h.offered < w.spec.From {
			return false
		}
	}
	return len(s.watchers) > 0
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
