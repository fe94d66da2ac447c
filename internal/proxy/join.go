package proxy

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// probeID is the ID of watches that only ask the member what it says to one.
	// The feed's own has ID 0.
	probeID = 1
	// partPatience is how long a cancellation waits for a header of now.
	partPatience = 500 * time.Millisecond
)

// joining is who wants to join a feed that goes on already. They wait for what
// the member says to another watch of the same keys: whether they may, and what
// revision it has.
type joining struct {
	asked, next []func(n *notice)
	out         bool // a probe is at the member
}

func (j *joining) any() bool { return len(j.asked)+len(j.next) > 0 }

// wanted reports whether a probe has to be sent now.
func (j *joining) wanted() bool {
	if j.out || len(j.next) == 0 {
		return false
	}
	j.asked, j.next, j.out = j.next, nil, true
	return true
}

// again is for another member: nothing has been asked there.
func (j *joining) again() { j.asked, j.next, j.out = nil, append(j.asked, j.next...), false }

// probe is a watch that is cancelled at once.
func (t topic) probe() []*pb.WatchRequest {
	r := t.request()
	r.WatchId = probeID
	return []*pb.WatchRequest{
		{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}},
		{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: probeID}}},
	}
}

// probed takes what the member says to a probe.
func (f *feed) probed(n *notice) {
	if n.created {
		asked := f.joining.asked
		f.joining.asked = nil
		for _, done := range asked {
			done(n)
		}
	}
	if n.canceled { // at once, if it is refused
		f.joining.out = false
		f.signal()
	}
	f.restLocked()
}

// attach gives a watcher a feed: one that has not delivered yet what the watcher
// wants, else a new one. From is the first revision wanted, 0: from now on.
func (ws *watches) attach(w *watcher, from int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.attachLocked(w, from)
}

func (ws *watches) attachLocked(w *watcher, from int64) {
	if ws.closed {
		return
	}
	for _, f := range ws.feeds[w.topic] {
		if f.admit(w, from) {
			return
		}
	}
	ctx, cancel := context.WithCancel(w.topic.who.context(context.Background()))
	f := &feed{set: ws, topic: w.topic, cancel: cancel, start: from, watchers: map[*watcher]bool{w: w.told}, wake: make(chan struct{}, 1)}
	w.feed, w.next = f, from
	ws.feeds[w.topic] = append(ws.feeds[w.topic], f)
	ws.count()
	ws.proxy.work.Go(func() { f.run(ctx) })
}

// admit takes a watcher in, if nothing that it wants has gone by.
func (f *feed) admit(w *watcher, from int64) bool {
	switch {
	case f.next == 0 && f.start != from, f.next != 0 && from != 0 && from < f.next:
		return false
	case f.next != 0 && from == 0 && f.start > f.revision:
		return false // it may wait for a revision that is yet to come
	case f.next == 0 || w.told:
		w.next = from
	default:
		if w.next = from; from == 0 {
			w.next = 1<<63 - 1 // what "now" is, the member has to say
		}
		f.joining.next = append(f.joining.next, func(n *notice) { f.join(w, n, from == 0) })
		f.signal()
	}
	w.feed = f
	f.watchers[w] = w.told
	return true
}

// join is what comes of a watcher that waited for a probe.
func (f *feed) join(w *watcher, n *notice, now bool) {
	switch {
	case w.feed != f || w.told: // it went meanwhile
	case n.canceled:
		f.refuse(w, n)
	case !now:
		f.tell(w, n.header)
	case n.revision < f.next: // what came after it has been delivered
		w.next = f.next
		f.tell(w, f.header)
	default:
		w.next = n.revision + 1
		f.tell(w, n.header)
	}
}

// tell says to a watcher that it is created, or that the ID which it wants is
// taken; then it is over.
func (f *feed) tell(w *watcher, header []byte) {
	w.told = true
	defer close(w.answered)
	switch {
	case w.guards != nil:
		f.watchers[w] = true
		w.said(header)
		return
	case w.said != nil:
		w.said(header)
	case w.stream.number(w):
		f.watchers[w] = true
		w.stream.push(response(header, w.id, flag(responseCreated)))
		return
	default:
		w.stream.push(response(header, -1, refusal("mvcc: duplicate watch ID provided on the WatchStream")))
	}
	delete(f.watchers, w)
	w.feed = nil
}

// refuse says to a watcher what the member said.
func (f *feed) refuse(w *watcher, n *notice) {
	w.told = true
	defer close(w.answered)
	delete(f.watchers, w)
	w.feed = nil
	switch {
	case w.guards != nil:
		w.guards()
		return
	case w.said != nil:
		w.said(n.header)
		return
	}
	w.stream.push(response(n.header, -1, n.tail))
}

// detach takes a watcher out. A feed without watchers ends.
func (ws *watches) detach(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.detachLocked(w)
}

func (ws *watches) detachLocked(w *watcher) {
	f := w.feed
	if f == nil {
		return
	}
	delete(f.watchers, w)
	w.feed, w.header = nil, f.header
	f.restLocked()
}

// part is detach that tells how far the cluster is: said is called once, with a
// header of now, or the newest known if no member answers soon.
func (ws *watches) part(w *watcher, said func(header []byte)) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	last := w.header
	if w.feed != nil {
		last = w.feed.header
	}
	asker := &watcher{stream: w.stream, topic: w.topic, answered: make(chan struct{})}
	late := time.AfterFunc(partPatience, func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.detachLocked(asker)
		if asker.said != nil {
			asker.said(last)
		}
	})
	asker.said = func(header []byte) {
		asker.said = nil
		late.Stop()
		said(header)
	}
	ws.attachLocked(asker, 0)
	ws.detachLocked(w)
}
