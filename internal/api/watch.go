package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/internal/mvcc"
	"kvd/internal/sender"
	"kvd/internal/watch"
)

func (a *API) watchService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Watch"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "Watch", ServerStreams: true, ClientStreams: true}, a.watchKeys),
		},
		Metadata: "rpc.proto",
	}
}

// Texts that clients see in a watch response's cancel_reason.
const (
	reasonDuplicate = "mvcc: duplicate watch ID provided on the WatchStream"
)

var reasonCompacted = rpctypes.ErrCompacted.Error()

// noWatcher is the watch_id of answers that are about no single watcher.
const noWatcher = -1

// watchStream is one Watch call. One goroutine reads requests and makes
// watchers; the API's senders take from the sink and send.
type watchStream struct {
	api    *API
	call   *call
	ctx    context.Context // ends with the call, or when reading fails
	sink   *watch.Sink
	sender *sender.Stream
	guard  *guard

	// Owned by the reading goroutine. A watcher that a compaction has ended
	// keeps its ID until it is cancelled.
	watchers map[int64]*watch.Watcher
	nextID   int64

	since atomic.Int64 // when the message was begun that is being sent, in Unix nanoseconds; 0: none is

	due  atomic.Bool // progress is to be told
	sent chan error  // why sending has ended; there is room for it

	// Owned by who sends.
	over  bool                    // nothing is sent any more
	quiet map[*watch.Watcher]bool // those that asked for progress: nothing was sent since the last tick
}

// tag is what a watcher's messages are sent with.
type tag struct {
	id       int64
	progress bool
	fragment bool
	owner    caller
	key, end []byte
	revoked  string // why it was taken from its owner; owned by who sends
}

func (a *API) watchKeys(c *call) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	w := &watchStream{
		api: a, call: c, ctx: ctx,
		watchers: map[int64]*watch.Watcher{},
		sent:     make(chan error, 1),
		quiet:    map[*watch.Watcher]bool{},
		guard:    newGuard(a, c),
	}
	conn, _ := peer.FromContext(c.ctx)
	w.sender = a.senders.Stream(conn, w.turn)
	w.sink = a.hub.SinkFor(w.sender.Ready)
	defer w.sink.Close()
	defer a.watching.add(w.sink)()
	defer context.AfterFunc(ctx, w.sender.Ready)()
	// Reading ends with the stream, that is with this function's return.
	go func() {
		if err := w.read(ctx); err != nil {
			cancel(err)
		}
	}()
	return w.attend()
}

// attend waits for the end of sending, or for a client that does not read, which
// holds sending up for as long as the stream is there. Now and then it has
// progress told.
func (w *watchStream) attend() error {
	// The jitter keeps streams that began together from answering together.
	interval := w.api.o.ProgressInterval
	progress := time.NewTicker(interval + rand.N(interval/10))
	defer progress.Stop()
	limit := w.api.o.WatchStall
	var look <-chan time.Time
	if limit >= 0 {
		ticker := time.NewTicker(limit / stallLooks)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case err := <-w.sent:
			return err
		case <-progress.C:
			w.due.Store(true)
			w.sender.Ready()
		case <-look:
			if since := w.since.Load(); since != 0 && time.Since(time.Unix(0, since)) > limit {
				return w.stalled(limit)
			}
		}
	}
}

// stalled is how a stream ends whose client does not read.
func (w *watchStream) stalled(limit time.Duration) error {
	w.api.metrics.stalled.Inc()
	err := status.Errorf(codes.Unavailable, "etcdserver: the watch was not read for %v; watch again from the last revision that came", limit)
	w.api.log.LogAttrs(w.call.ctx, slog.LevelWarn, "a watch stream is ended: its client does not read",
		append(w.call.told(w.call.ctx, nil, err), slog.Duration("waited", limit))...)
	return err
}

// stallLooks is how often within the time that it has a client is looked at.
const stallLooks = 4

// ended is how a stream that nobody wanted to end is told to have ended.
func (w *watchStream) ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		return errWatchCanceled
	}
	return err
}

// read serves requests until the stream ends. A client that has said all it
// wanted keeps its watchers.
func (w *watchStream) read(ctx context.Context) error {
	for {
		in, err := w.call.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			w.call.failed(err, "receive", "watch")
			return err
		}
		r := &pb.WatchRequest{}
		if err := proto.Unmarshal(in, r); err != nil {
			return malformed(err)
		}
		if err := w.sink.Admit(ctx); err != nil {
			return err
		}
		switch u := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			w.create(u.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			if one, ok := w.watchers[u.CancelRequest.GetWatchId()]; ok {
				one.Cancel()
				w.guard.remove(one)
				delete(w.watchers, u.CancelRequest.GetWatchId())
			}
		case *pb.WatchRequest_ProgressRequest:
			w.sink.RequestProgress()
		default:
			w.api.log.Debug("a watch request of an unknown kind is ignored")
		}
	}
}

func (w *watchStream) create(r *pb.WatchCreateRequest) {
	if r == nil {
		return
	}
	if len(r.Key) == 0 {
		r.Key = []byte{0} // the smallest key
	}
	if r.StartRevision < 0 {
		w.sink.Refuse(reasonCompacted)
		return
	}
	owner, by, err := w.guard.judge(r)
	w.call.audit(as(w.call.ctx, owner), r, wire(err))
	if err != nil {
		w.sink.Refuse(wire(err).Error())
		return
	}
	spec := watch.Spec{
		Span:     mvcc.Span{Key: r.Key, End: r.RangeEnd},
		From:     r.StartRevision,
		Previous: r.PrevKv,
	}
	if spec.Span.Empty() {
		w.sink.Refuse(watch.ErrEmpty.Error())
		return
	}
	for _, f := range r.Filters {
		spec.NoPuts = spec.NoPuts || f == pb.WatchCreateRequest_NOPUT
		spec.NoDeletes = spec.NoDeletes || f == pb.WatchCreateRequest_NODELETE
	}
	id := r.WatchId
	if id == 0 {
		id = w.freeID()
	} else if _, taken := w.watchers[id]; taken {
		w.sink.Refuse(reasonDuplicate)
		return
	}
	one, err := w.api.hub.Watch(spec, w.sink, &tag{
		id: id, progress: r.ProgressNotify, fragment: r.Fragment, owner: owner, key: r.Key, end: r.RangeEnd,
	})
	if err != nil {
		w.sink.Refuse(err.Error())
		return
	}
	w.watchers[id] = one
	w.guard.add(one, by)
}

// freeID counts up; it never goes back to what was used before.
func (w *watchStream) freeID() int64 {
	for {
		id := w.nextID
		w.nextID++
		if _, taken := w.watchers[id]; !taken {
			return id
		}
	}
}

// turn sends what the sink holds, and progress to quiet watchers if that is due.
func (w *watchStream) turn() {
	if w.over {
		return
	}
	if err := w.send(); err != nil {
		w.over = true
		w.sent <- err
	}
}

func (w *watchStream) send() error {
	if w.ctx.Err() != nil {
		return w.ended(w.ctx)
	}
	w.guard.look()
	if w.due.Swap(false) {
		if err := w.progress(); err != nil {
			return err
		}
	}
	return w.drain()
}

// drainMost is how many messages are sent in a turn.
const drainMost = 64

// drain sends what waits.
func (w *watchStream) drain() error {
	began, messages, events := time.Now(), 0, 0
	for m := w.sink.Take(); m != nil; m = w.sink.Take() {
		w.since.Store(time.Now().UnixNano())
		err := w.transmit(m)
		w.since.Store(0)
		if err != nil {
			w.call.failed(err, "send", "watch")
			if w.call.ctx.Err() != nil {
				return w.ended(w.call.ctx)
			}
			return err
		}
		events += m.Count
		if messages++; messages == drainMost {
			w.sender.Ready()
			break
		}
	}
	if messages == 0 {
		return nil
	}
	took := time.Since(began).Seconds()
	if events == 0 {
		w.api.metrics.sendControl.Observe(took)
		return nil
	}
	w.api.metrics.sendEvents.Observe(took)
	w.api.metrics.sendPerEvent.Observe(took / float64(events))
	return nil
}

func (w *watchStream) transmit(m *watch.Message) error {
	h := w.api.header(w.api.member.View())
	h.Revision = m.Revision
	r := watchReply{header: h, id: noWatcher}
	if m.Watcher == nil {
		if m.Kind == watch.Refused {
			r.created, r.canceled, r.reason = true, true, m.Reason
		}
		return w.call.send(r.encode(nil))
	}
	t := m.Watcher.Tag.(*tag)
	r.id = t.id
	w.guard.look()
	if t.revoked != "" && m.Kind == watch.Events {
		return nil
	}
	switch m.Kind {
	case watch.Created:
		r.created = true
		if t.progress {
			w.quiet[m.Watcher] = true
		}
	case watch.Cancelled:
		r.canceled, r.compacted, r.reason = true, m.Compacted, cmp.Or(t.revoked, m.Reason)
		delete(w.quiet, m.Watcher)
	case watch.Events:
		if t.progress {
			w.quiet[m.Watcher] = false
		}
		if limit := w.api.o.MaxRequestBytes + overhead; t.fragment && m.Count > 1 && r.size()+m.Bytes >= limit {
			return w.fragments(&r, m.Pieces, limit)
		}
		return w.call.send(w.api.encodeEvents(&r, m.Pieces))
	}
	return w.call.send(r.encode(m.Pieces))
}

// fragments sends a response in parts that stay below limit, each with at
// least one event.
func (w *watchStream) fragments(r *watchReply, pieces [][]byte, limit int) error {
	events := splitEvents(pieces)
	r.fragment = true
	for len(events) > 0 {
		n, size := 1, r.size()+len(events[0])
		for n < len(events) && size+len(events[n]) < limit {
			size += len(events[n])
			n++
		}
		r.fragment = n < len(events)
		if err := w.call.send(r.encode(events[:n])); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// progress tells watchers that asked for it how far they are, unless something
// was sent to them since the last tick.
func (w *watchStream) progress() error {
	began := time.Now()
	for one, quiet := range w.quiet {
		w.quiet[one] = true
		if !quiet {
			continue
		}
		rev, ok := one.Progress()
		if !ok {
			continue
		}
		h := w.api.header(w.api.member.View())
		h.Revision = rev
		r := watchReply{header: h, id: one.Tag.(*tag).id}
		if err := w.call.send(r.encode(nil)); err != nil {
			w.call.failed(err, "send", "watch")
			return err
		}
	}
	w.api.metrics.sendProgress.Observe(time.Since(began).Seconds())
	return nil
}
