package proxy

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/sender"
)

// watcher is one watch of a client. watches.mu guards it.
type watcher struct {
	stream   *watchStream
	topic    topic
	wanted   int64 // the ID that the client chose; 0: none
	id       int64
	progress bool  // wants progress notifications
	feed     *feed // nil: it lags, or is over
	next     int64 // events below it has, or does not want
	told     bool  // that it is created
	from     int64 // the first revision that the client wants; 0: from now on
	header   []byte
	said     func(header []byte) // instead of a client: it wants a header of now and no more; nil: a client's
	guards   func()              // it is of a cached answer, not of a client: called when that is not current any more
	answered chan struct{}       // closed when the client has been told what came of it
}

// offer gives a watcher the events of a response that it wants. False: there is
// no room, and it has to come back for them.
func (w *watcher) offer(n *notice, first bool) bool {
	tail := n.tail
	if n.events > 0 && n.first < w.next {
		var err error
		if tail, err = n.since(w.next); err != nil || len(tail) == 0 {
			return true // it was parsed before
		}
	}
	m := n.same
	if n.sameID != w.id || len(tail) != len(n.tail) {
		m = response(n.header, w.id, tail)
	}
	if len(tail) == len(n.tail) {
		n.same, n.sameID = m, w.id
	}
	return w.stream.offer(w, m, first)
}

// watchStream is a client's stream of watches.
type watchStream struct {
	proxy *Proxy
	in    grpc.ServerStream
	who   identity

	mu       sync.Mutex
	watchers map[int64]*watcher
	nextID   int64
	queue    []mem.BufferSlice
	bytes    int
	lagging  []*watcher        // without a feed until there is room
	spare    []mem.BufferSlice // a queue that was sent; owned by whose turn it is
	sender   *sender.Stream    // is told when something waits, or is over
	ended    chan error        // why sending has ended; there is room for it
	closed   bool              // it has; owned by whose turn it is
	read     chan struct{}     // one signal: the client has taken something
	over     atomic.Pointer[error]
	since    atomic.Int64 // when it began to send what it sends, in ns of the clock; 0: nothing
}

// watch serves a client's stream of watches.
func (p *Proxy) watch(in grpc.ServerStream) error {
	s := &watchStream{
		proxy: p, in: in, who: identityOf(in.Context()), watchers: map[int64]*watcher{},
		ended: make(chan error, 1), read: make(chan struct{}, 1),
	}
	conn, _ := peer.FromContext(in.Context())
	s.sender = p.senders.Stream(conn, s.turn)
	defer s.leave()
	gone := context.AfterFunc(in.Context(), func() { s.fail(in.Context().Err()) })
	defer gone()
	p.watches.enter(s)
	defer p.watches.exit(s)
	go func() { // ends with the call
		if err := s.hear(); err != nil {
			s.fail(err)
		} // else the client asks for no more, and goes on listening
	}()
	return s.attend()
}

// turn sends what waits, unless the stream is over.
func (s *watchStream) turn() {
	if s.closed {
		return
	}
	var err error
	if over := s.over.Load(); over != nil {
		err = *over
	} else {
		err = s.send()
	}
	if err != nil {
		s.closed = true
		s.ended <- err
	}
}

// attend waits for the end of sending, or for a client that does not read, which
// holds sending up for as long as the call is there.
func (s *watchStream) attend() error {
	limit := s.proxy.o.WatchStall
	if limit <= 0 {
		return <-s.ended
	}
	look := time.NewTicker(limit / stallLooks)
	defer look.Stop()
	for {
		select {
		case err := <-s.ended:
			return err
		case <-look.C:
		}
		if since := s.since.Load(); since != 0 && time.Since(time.Unix(0, since)) > limit {
			s.proxy.log.Warn("a watch stream is ended: its client does not read", "waited", limit)
			return status.Errorf(codes.Unavailable, "kvd proxy: the watch was not read for %v; watch again from the last revision that came", limit)
		}
	}
}

// stallLooks is how often within the time that it has a client is looked at.
const stallLooks = 4

// leave takes all watchers out of their feeds.
func (s *watchStream) leave() {
	s.mu.Lock()
	all := s.watchers
	s.watchers, s.queue, s.lagging = nil, nil, nil
	s.mu.Unlock()
	for _, w := range all {
		s.proxy.watches.detach(w)
	}
	s.proxy.parts.Metrics.watchers.Sub(float64(len(all)))
}

// send sends what waits, then lets those come back that lag.
func (s *watchStream) send() error {
	s.mu.Lock()
	queue := s.queue
	s.queue = s.spare[:0]
	s.mu.Unlock()
	s.spare = nil
	if cap(queue) <= maxSpare {
		s.spare = queue
	}
	sent := 0
	for i, m := range queue {
		size := m.Len()
		queue[i] = nil
		s.since.Store(time.Now().UnixNano())
		if err := s.in.SendMsg(m); err != nil {
			return err
		}
		if sent += size; sent >= accountEvery || i == len(queue)-1 {
			s.sent(sent)
			sent = 0
		}
	}
	s.since.Store(0)
	if len(queue) == 0 {
		s.sent(0)
	}
	return nil
}

// maxSpare is how many responses a queue may have room for to be used again.
const maxSpare = 64

// accountEvery is after how many bytes room is made for more.
const accountEvery = 256 << 10

// sent makes room for more, and gives feeds to those that lag once there is enough.
func (s *watchStream) sent(size int) {
	s.mu.Lock()
	s.bytes -= size
	var back []*watcher
	if s.bytes < s.proxy.o.WatchBuffer/2 {
		back, s.lagging = s.lagging, nil
	}
	s.mu.Unlock()
	select {
	case s.read <- struct{}{}:
	default:
	}
	for _, w := range back {
		s.proxy.watches.attach(w, w.next)
	}
}

func (s *watchStream) push(m mem.BufferSlice) {
	s.mu.Lock()
	s.queue = append(s.queue, m)
	s.bytes += m.Len()
	s.mu.Unlock()
	s.sender.Ready()
}

// offer pushes a response with events. False: there is no room for its first piece,
// and the watcher has to come back when the client has read.
func (s *watchStream) offer(w *watcher, m mem.BufferSlice, first bool) bool {
	s.mu.Lock()
	room := !first || s.bytes < s.proxy.o.WatchBuffer
	if room {
		s.queue = append(s.queue, m)
		s.bytes += m.Len()
	} else if s.watchers != nil {
		s.lagging = append(s.lagging, w)
	}
	s.mu.Unlock()
	s.sender.Ready() // without room, too: it may have read everything meanwhile
	return room
}

func (s *watchStream) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes >= s.proxy.o.WatchBuffer
}

func (s *watchStream) forget(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers[w.id] == w {
		delete(s.watchers, w.id)
		s.proxy.parts.Metrics.watchers.Dec()
	}
	s.lagging = slices.DeleteFunc(s.lagging, func(other *watcher) bool { return other == w })
}

// fail ends the stream; the first error is the caller's.
func (s *watchStream) fail(err error) {
	s.over.CompareAndSwap(nil, &err)
	s.sender.Ready()
}

// hear takes the client's requests until there are no more. It answers one
// before it takes the next, as a member does: clients tell by the order which
// watch was created. Who does not take the answers is not heard.
func (s *watchStream) hear() error {
	for {
		for s.full() {
			select {
			case <-s.read:
			case <-s.in.Context().Done():
				return s.in.Context().Err()
			}
		}
		var r pb.WatchRequest
		if err := s.in.RecvMsg(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		s.proxy.o.Namespace.into(&r)
		switch u := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			s.create(u.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			s.cancel(u.CancelRequest.WatchId)
		case *pb.WatchRequest_ProgressRequest:
			s.progress()
		}
	}
}

func (s *watchStream) create(r *pb.WatchCreateRequest) {
	w := &watcher{
		stream: s, wanted: r.WatchId, from: r.StartRevision, progress: r.ProgressNotify, answered: make(chan struct{}),
		topic: topic{who: s.who, key: string(r.Key), end: string(r.RangeEnd), prevKV: r.PrevKv, fragment: r.Fragment},
	}
	for _, f := range r.Filters {
		w.topic.noPut = w.topic.noPut || f == pb.WatchCreateRequest_NOPUT
		w.topic.noDel = w.topic.noDel || f == pb.WatchCreateRequest_NODELETE
	}
	s.proxy.watches.attach(w, r.StartRevision)
	select {
	case <-w.answered:
	case <-s.in.Context().Done():
		s.proxy.watches.detach(w)
	}
}

// number gives a watcher its ID: the one that the client wants, or the next.
func (s *watchStream) number(w *watcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		return false
	}
	wanted := w.wanted
	if wanted != 0 {
		if s.watchers[wanted] != nil {
			return false
		}
	} else {
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		wanted = s.nextID
		s.nextID++
	}
	w.id = wanted
	s.watchers[w.id] = w
	s.proxy.parts.Metrics.watchers.Inc()
	return true
}

func (s *watchStream) cancel(id int64) {
	s.mu.Lock()
	w := s.watchers[id]
	s.mu.Unlock()
	if w == nil {
		return
	}
	s.forget(w)
	said := make(chan struct{})
	s.proxy.watches.part(w, func(header []byte) {
		s.push(response(header, id, flag(responseCanceled)))
		close(said)
	})
	select {
	case <-said: // the ID is free for what the client asks next
	case <-s.in.Context().Done():
	}
}

// progress answers once every watch of the stream has told how far it is, with
// the least of them. While one lags, or waits for its first revision, there is no
// answer, as at a member.
func (s *watchStream) progress() {
	ws := s.proxy.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	s.mu.Lock()
	feeds := map[*feed]bool{}
	lagging, from := len(s.lagging) > 0, int64(0)
	for _, w := range s.watchers {
		from = max(from, w.from)
		lagging = lagging || w.feed == nil
		if w.feed != nil {
			feeds[w.feed] = true
		}
	}
	s.mu.Unlock()
	if lagging {
		return
	}
	var least *notice
	left := len(feeds)
	for f := range feeds {
		f.askLocked(func(n *notice) {
			if least == nil || n.revision < least.revision {
				least = n
			}
			if left--; left == 0 && from <= least.revision {
				s.push(response(least.header, -1, nil))
			}
		})
	}
}

// refusal is the tail of a response to a watch that is not created.
func refusal(reason string) []byte {
	tail := flag(responseCreated, responseCanceled)
	tail = protowire.AppendTag(tail, responseReason, protowire.BytesType)
	return protowire.AppendString(tail, reason)
}
