package compat

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// watch sends one request on a watch stream of both servers and compares the
// answer, if one is due.
func (s *session) watch(o op) *difference {
	known, err := s.streamOf(o)
	if err != nil {
		return &difference{what: err.Error()}
	}
	req := o.req.(*pb.WatchRequest)
	answered := true
	switch union := req.RequestUnion.(type) {
	case *pb.WatchRequest_CancelRequest:
		id := union.CancelRequest.WatchId
		answered = known.watchers[id] != nil || known.stuck[id]
		if d := s.settleWatchers(); d != nil { // none of its events may come later
			return d
		}
	case *pb.WatchRequest_ProgressRequest:
		if d := s.catchUp(); d != nil { // a watcher that reads history suppresses the answer
			return d
		}
		answered = s.model.answersProgress(known)
	case nil:
		answered = false
	}
	for _, one := range s.sides() {
		if err := one.streams[o.stream].stream.Send(req); err != nil {
			return &difference{what: o.String(), oracle: fmt.Sprintf("%s: %v", one.name, err)}
		}
	}
	if !answered {
		return s.read(o.stream, known)
	}
	a, d := s.control(o, known)
	if d != nil {
		return d
	}
	switch union := req.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		return s.created(o, known, union.CreateRequest, a)
	case *pb.WatchRequest_CancelRequest:
		id := union.CancelRequest.WatchId
		delete(known.watchers, id)
		delete(known.stuck, id)
		s.forget(o.stream, id)
	}
	return nil
}

// read waits until both servers have read what was sent on a stream. What goes
// unanswered now could be answered later: progress that is asked for before a
// write, and read behind it. A watcher of an empty range leaves no trace.
func (s *session) read(stream int, known *watching) *difference {
	o := watchCreate(stream, &pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	for _, one := range s.sides() {
		if err := one.streams[stream].stream.Send(o.req.(*pb.WatchRequest)); err != nil {
			return &difference{what: o.String(), oracle: fmt.Sprintf("%s: %v", one.name, err)}
		}
	}
	_, d := s.control(o, known)
	return d
}

// streamOf returns the stream of an op, opening it on both servers if needed.
func (s *session) streamOf(o op) (*watching, error) {
	if known, ok := s.model.streams[o.stream]; ok {
		return known, nil
	}
	for _, one := range s.sides() {
		w, err := one.open(o.md)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		one.streams[o.stream] = w
	}
	known := &watching{watchers: map[int64]*watcher{}, stuck: map[int64]bool{}}
	s.model.streams[o.stream] = known
	return known, nil
}

// control waits for the next control message on both streams and compares.
func (s *session) control(o op, known *watching) (*pb.WatchResponse, *difference) {
	a, b := s.both(func(one *side) answer { return one.streams[o.stream].controlAt(known.control) })
	known.control++
	if d := s.compare(o, a, b); d != nil {
		return nil, d
	}
	if a.msg == nil {
		return nil, &difference{what: o.String() + ": neither answers", oracle: a.String(), target: b.String()}
	}
	return a.msg.(*pb.WatchResponse), nil
}

// created files a watcher that both servers announced. One that starts behind
// the compaction is ended by a second message.
func (s *session) created(o op, known *watching, req *pb.WatchCreateRequest, a *pb.WatchResponse) *difference {
	if !a.Created {
		return &difference{what: o.String() + ": both sent something else first", oracle: text(a), target: text(a)}
	}
	if a.Canceled {
		return nil
	}
	if req.StartRevision > 0 && req.StartRevision < s.model.compacted {
		known.stuck[a.WatchId] = true
		_, d := s.control(o, known)
		return d
	}
	w := &watcher{key: req.Key, end: req.RangeEnd, from: req.StartRevision, start: req.StartRevision}
	if len(w.key) == 0 {
		w.key = []byte{0}
	}
	if w.from == 0 {
		w.from = s.model.revision + 1
	}
	w.live = w.from > s.model.revision
	s.model.behind = s.model.behind || !w.live
	w.put = slices.Contains(req.Filters, pb.WatchCreateRequest_NOPUT)
	w.del = slices.Contains(req.Filters, pb.WatchCreateRequest_NODELETE)
	known.watchers[a.WatchId] = w
	return nil
}

// settleWatchers waits until both servers have delivered to every watcher all
// that happened, and compares it.
func (s *session) settleWatchers() *difference {
	if d := s.extendHistory(); d != nil {
		return d
	}
	for stream, known := range s.model.streams {
		for id, w := range known.watchers {
			if d := s.settleWatcher(stream, id, w); d != nil {
				return d
			}
		}
	}
	return nil
}

// catchUp waits until no watcher reads history any more, and compares what all
// delivered. A server takes up those that read history in the order they came,
// or all at once; so one more, on a stream of its own, tells when the others
// are done.
func (s *session) catchUp() *difference {
	if s.model.behind {
		for _, one := range s.sides() {
			if err := one.sentinel(s.model.revision); err != nil {
				return &difference{what: fmt.Sprintf("%s: a watcher from revision %d: %v", one.name, s.model.revision, err)}
			}
		}
		s.model.behind = false
	}
	return s.settleWatchers()
}

// sentinel watches from the present revision, which is history already, until
// it is delivered.
func (s *side) sentinel(revision int64) error {
	if revision == 1 { // nothing was written: there is nothing to deliver
		time.Sleep(3 * catchUpPause)
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, answerWithin)
	defer cancel()
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: revision,
	}}})
	for err == nil {
		var r *pb.WatchResponse
		if r, err = stream.Recv(); err == nil && len(r.Events) > 0 {
			return nil
		}
	}
	return err
}

// catchUpPause is how often etcd looks after watchers that read history.
const catchUpPause = 100 * time.Millisecond

// extendHistory reads the watcher of everything up to the current revision.
func (s *session) extendHistory() *difference {
	done := int64(1)
	if n := len(s.model.history); n > 0 {
		done = s.model.history[n-1].Kv.ModRevision
	}
	if s.model.revision <= done {
		return nil
	}
	what := fmt.Sprintf("watch of everything through revision %d", s.model.revision)
	var fresh [2][]event
	for i, one := range s.sides() {
		one.history.until(answerWithin, func() bool {
			all := one.history.events[0]
			return len(all) > 0 && lastRevision(all[len(all)-1]) >= s.model.revision
		})
		events, fault := one.history.flatten(0, s.model.revision, true)
		if fault != "" {
			return &difference{what: what + ": " + one.name + ": " + fault}
		}
		one.history.mu.Lock()
		delete(one.history.events, 0)
		one.history.mu.Unlock()
		fresh[i] = events
	}
	if d := compareEvents(what, fresh[0], fresh[1]); d != nil {
		return d
	}
	s.model.history = append(s.model.history, fresh[0]...)
	if n := len(s.model.history); n == 0 || s.model.history[n-1].Kv.ModRevision != s.model.revision {
		return &difference{what: what + ": neither delivers it"}
	}
	return nil
}

func lastRevision(r *pb.WatchResponse) int64 { return r.Events[len(r.Events)-1].Kv.ModRevision }

// settleWatcher waits for what one watcher is due and compares it.
func (s *session) settleWatcher(stream int, id int64, w *watcher) *difference {
	due := s.model.due(w)
	what := fmt.Sprintf("events of watcher %d on stream %d (key %q end %q from %d)", id, stream, w.key, w.end, w.from)
	var fresh [2][]event
	for i, one := range s.sides() {
		ws := one.streams[stream]
		ws.until(answerWithin, func() bool { return count(ws.events[id]) >= len(due) })
		events, fault := ws.flatten(id, s.model.revision, w.live)
		if fault != "" {
			return &difference{what: what + ": " + one.name + ": " + fault}
		}
		ws.mu.Lock()
		delete(ws.events, id)
		ws.mu.Unlock()
		fresh[i] = events
	}
	if d := compareEvents(what, fresh[0], fresh[1]); d != nil {
		return d
	}
	if d := compareEvents(what+" against all events", bare(due), bare(fresh[0])); d != nil {
		return d
	}
	w.at, w.seen = len(s.model.history), w.seen+len(due)
	return nil
}

// bare returns events without the values before, which a watcher may not want.
func bare(events []event) []event {
	var out []event
	for _, e := range events {
		out = append(out, &mvccpb.Event{Type: e.Type, Kv: e.Kv})
	}
	return out
}

func count(responses []*pb.WatchResponse) int {
	n := 0
	for _, r := range responses {
		n += len(r.Events)
	}
	return n
}

// compareEvents compares two lists of events.
func compareEvents(what string, a, b []event) *difference {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return &difference{what: what + ": one too many", oracle: "-", target: text(b[i])}
		case i >= len(b):
			return &difference{what: what + ": one is missing", oracle: text(a[i]), target: "-"}
		case !proto.Equal(a[i], b[i]):
			return &difference{what: what, oracle: text(a[i]), target: text(b[i])}
		}
	}
	return nil
}

// forget drops what a cancelled watcher had delivered.
func (s *session) forget(stream int, id int64) {
	for _, one := range s.sides() {
		w := one.streams[stream]
		w.mu.Lock()
		delete(w.events, id)
		w.mu.Unlock()
	}
}

// strays returns messages that came though none was due.
func (s *session) strays() *difference {
	for stream, known := range s.model.streams {
		for _, one := range s.sides() {
			w := one.streams[stream]
			w.mu.Lock()
			extra, ended, late := w.control[known.control:], w.ended, len(w.events)
			w.mu.Unlock()
			if len(extra) > 0 {
				return &difference{what: fmt.Sprintf("%s: %d messages on stream %d that were not due: %s", one.name, len(extra), stream, text(extra[0]))}
			}
			if late > 0 || ended != nil {
				return &difference{what: fmt.Sprintf("%s: stream %d has events nobody waits for, or ended: %v", one.name, stream, ended)}
			}
		}
	}
	return nil
}
