package watch

import (
	"errors"

	"kvd/internal/mvcc"
)

// catchUp reads history for lagging cursors, one piece for one cursor at a
// time, until the hub stops.
func (h *Hub) catchUp() {
	for {
		w := h.nextLagging()
		if w == nil {
			return
		}
		h.advance(w)
	}
}

func (h *Hub) nextLagging() *Watcher {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if h.closed {
			return nil
		}
		w := h.lagging.pop()
		switch {
		case w == nil:
			h.hungry.Wait()
		case w.state == lagging:
			return w
		}
	}
}

// advance moves a lagging cursor on by one piece of history. Nobody else moves
// it meanwhile: it is in no queue and in no class.
func (h *Hub) advance(w *Watcher) {
	view := h.source()
	var b batch
	next := w.next
	var err error
	if next <= view.Revision() {
		b, next, err = h.history(view, w)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.state != lagging { // cancelled meanwhile
		return
	}
	if err != nil {
		h.fail(w, err)
		return
	}
	if b.count > 0 {
		w.sink.accept(w, &b, view.Revision())
	}
	w.next = next
	if w.next > h.offered {
		h.enliven(w)
	} else {
		h.enqueue(w) // behind the others
	}
}

// history reads the next piece for w and encodes what it wants of it.
func (h *Hub) history(view *mvcc.View, w *Watcher) (b batch, next int64, err error) {
	groups, next, err := view.Events(w.spec.Span, w.next, h.o.MessageRevisions, h.o.MessageBytes)
	if err != nil {
		return b, next, err
	}
	var events []*mvcc.Event
	for _, g := range groups {
		for _, e := range g.Events {
			if w.spec.wants(e) {
				events = append(events, e)
			}
		}
	}
	if len(events) == 0 {
		return b, next, nil
	}
	enc := encoder{view: view, events: events, log: h.log}
	return enc.batch(enc.whole(), w.spec.Previous), next, nil
}

// fail ends a cursor that history cannot be read for.
func (h *Hub) fail(w *Watcher, err error) {
	m := &Message{Kind: Cancelled, Watcher: w}
	if errors.Is(err, mvcc.ErrCompacted) {
		newest := h.source()
		if m.Compacted = newest.Compacted(); m.Compacted <= w.next {
			h.enqueue(w) // the view read was an old one
			return
		}
	} else {
		m.Revision, m.Reason = h.offered, err.Error()
		h.log.Error("a watcher is cancelled: its history cannot be read", "error", err)
	}
	h.end(w, ended)
	w.sink.push(m)
}
