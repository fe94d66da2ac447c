package proxy

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	watchMethod = "/etcdserverpb.Watch/Watch"
	// progressPatience is at most how long a member's progress is waited for.
	progressPatience = time.Second
	// A feed that has lost its member looks for another at these intervals.
	feedBackoff, maxFeedBackoff = 50 * time.Millisecond, 2 * time.Second
)

// feed is a watch at a member that several watchers share. It outlives the
// member: it goes on at another one where it was. watches.mu guards all of it.
type feed struct {
	set    *watches
	topic  topic
	cancel context.CancelFunc

	start    int64             // revision that was asked for; 0: from now on
	next     int64             // events below have been delivered; 0: no member has answered yet
	header   []byte            // the newest
	revision int64             // and that in it
	watchers map[*watcher]bool // false: not told yet that it is created

	wake    chan struct{}     // there is something to ask; one signal
	asked   []func(n *notice) // wait for the progress that is asked for
	asking  []func(n *notice) // wait for the next
	sending bool              // progress is asked for and not answered
	pieces  []*notice         // of a fragmented response that is not whole yet
	opened  bool              // the member has created the watch
	joining joining
}

// restLocked ends a feed that nobody needs.
func (f *feed) restLocked() {
	if len(f.watchers) == 0 && len(f.asked)+len(f.asking) == 0 {
		f.endLocked()
	}
}

func (f *feed) endLocked() {
	f.cancel()
	all := slices.DeleteFunc(f.set.feeds[f.topic], func(other *feed) bool { return other == f })
	f.set.feeds[f.topic] = all
	if len(all) == 0 {
		delete(f.set.feeds, f.topic)
	}
	f.set.count()
}

// askLocked has done called with a response of the member that was sent after
// now, and after everything that came before.
func (f *feed) askLocked(done func(*notice)) {
	f.asking = append(f.asking, done)
	f.signal()
}

func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run keeps a watch at some member until the feed ends.
func (f *feed) run(ctx context.Context) {
	wait := feedBackoff
	for ctx.Err() == nil {
		heard, err := f.follow(ctx)
		f.unguarded()
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait = feedBackoff
		}
		if f.topic.who.wantsLeader() && f.set.proxy.endpoints.healthy() == 0 {
			err = errNoLeader // nobody can tell whether there is one
		}
		if final(err) {
			f.fail(err)
			return
		}
		f.set.proxy.log.Debug("a watch looks for another member", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxFeedBackoff)
	}
}

// errNoLeader is what etcd tells those who have asked to be told.
var errNoLeader = status.Error(codes.Unavailable, "etcdserver: no leader")

// final reports whether another member would say the same.
func final(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return status.Convert(err).Message() == status.Convert(errNoLeader).Message()
	case codes.Canceled, codes.Unknown, codes.Internal, codes.DeadlineExceeded, codes.ResourceExhausted, codes.OK:
		return false
	}
	return true
}

// free takes a watcher out that proved a cached answer.
func (f *feed) free(w *watcher) {
	delete(f.watchers, w)
	w.feed = nil
	w.guards()
}

// unguarded is that the member's watch is lost: nothing is proved any more.
func (f *feed) unguarded() {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	for w := range f.watchers {
		if w.guards != nil {
			f.free(w)
		}
	}
	f.restLocked()
}

// fail ends the streams of all watchers.
func (f *feed) fail(err error) {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	for w := range f.watchers {
		if w.guards != nil {
			f.free(w)
			continue
		}
		w.feed = nil
		w.stream.fail(err)
	}
	f.watchers = nil
	f.endLocked()
}

// follow watches at one member until that breaks.
func (f *feed) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, e, err := f.set.proxy.stream(ctx, watchMethod)
	if err != nil {
		return false, err
	}
	if err := out.SendMsg(f.request()); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	responses := make(chan *notice)
	broken := make(chan error, 1)
	go func() { broken <- f.receive(ctx, out, responses) }()
	defer func() { cancel(); <-broken }() //nolint:errcheck // its reason has been told
	patience := time.NewTicker(progressPatience)
	defer patience.Stop()
	for {
		select {
		case n := <-responses:
			heard = true
			if f.take(n) {
				return heard, nil
			}
		case <-f.wake:
		case <-patience.C:
			f.unanswered()
		case err := <-broken:
			broken <- err
			if status.Code(err) == codes.Unavailable && !final(err) {
				f.set.proxy.endpoints.setAside(e, status.Convert(err).Message())
			}
			return heard, err
		case <-ctx.Done():
			return heard, ctx.Err()
		}
		for _, request := range f.requests() {
			if err := out.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
				return heard, err
			}
		}
	}
}

// receive hands on what the member sends.
func (f *feed) receive(ctx context.Context, out grpc.ClientStream, to chan<- *notice) error {
	for {
		var in frame
		if err := out.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the member has ended the watch")
			}
			return err
		}
		if err := f.set.proxy.o.Namespace.answer(watchMethod, &in); err != nil {
			return err
		}
		data := in.data.Materialize()
		in.free()
		n, err := parseNotice(data)
		if err != nil {
			return err
		}
		select {
		case to <- n:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// request asks for what has not been delivered yet.
func (f *feed) request() *pb.WatchRequest {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	f.pieces, f.opened = nil, false
	f.asking, f.asked, f.sending = append(f.asked, f.asking...), nil, false
	f.joining.again()
	r := f.topic.request()
	r.StartRevision, r.PrevKv, r.ProgressNotify, r.Fragment = f.start, f.topic.prevKV, true, f.topic.fragment
	if f.next != 0 {
		r.StartRevision = f.next
	}
	if f.topic.noPut {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if f.topic.noDel {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

// request is a watch of the topic's keys from now on.
func (t topic) request() *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{Key: []byte(t.key)}
	if t.end != "" {
		r.RangeEnd = []byte(t.end)
	}
	return r
}

// requests are what has to be asked now.
func (f *feed) requests() (all []*pb.WatchRequest) {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	if !f.opened {
		return nil
	}
	if !f.sending && len(f.asking) > 0 {
		f.asked, f.asking, f.sending = f.asking, nil, true
		all = append(all, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	}
	if f.joining.wanted() {
		all = append(all, f.topic.probe()...)
	}
	return all
}

// unanswered gives the question for progress up: a member does not answer while
// a watch lags, and neither do we.
func (f *feed) unanswered() {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	f.asked, f.sending = nil, false
	f.restLocked()
}
