package api

import (
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/auth"
	"kvd/internal/state"
	"kvd/internal/watch"
)

// guard takes back what a watch stream was allowed when users and roles change:
// etcd looks once, when a watcher is made, and lets it hear everything after.
// One goroutine, the one that sends, calls look.
type guard struct {
	api  *API
	call *call

	mu       sync.Mutex
	seen     *auth.View // that all watchers have been judged by
	watchers map[*watch.Watcher]struct{}
}

func newGuard(a *API, c *call) *guard {
	return &guard{api: a, call: c, seen: a.member.View().Users, watchers: map[*watch.Watcher]struct{}{}}
}

// judge reports who asks for a span now, and why it is not theirs to watch.
func (g *guard) judge(r *pb.WatchCreateRequest) (who caller, by *auth.View, err error) {
	ctx, err := g.call.authorize()
	if err != nil {
		return caller{}, nil, err
	}
	v := g.api.member.View()
	return callerOf(ctx), v.Users, permit(ctx, v, watched(r.Key, r.RangeEnd))
}

// watched is what a watcher reads, as a request.
func watched(key, end []byte) *state.Request {
	return &state.Request{Range: &pb.RangeRequest{Key: key, RangeEnd: end}}
}

// add has a watcher judged again at every change after by.
func (g *guard) add(w *watch.Watcher, by *auth.View) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watchers[w] = struct{}{}
	if g.api.member.View().Users != by {
		g.seen = nil
	}
}

func (g *guard) remove(w *watch.Watcher) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.watchers, w)
}

// look cancels the watchers whose owner may not have them any more. Whoever
// sends calls it before each message: an event that came after the change is not
// sent.
func (g *guard) look() {
	v := g.api.member.View()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == v.Users {
		return
	}
	g.seen = v.Users
	for w := range g.watchers {
		t := w.Tag.(*tag)
		if err := g.still(v, t); err != nil {
			t.revoked = wire(err).Error()
			delete(g.watchers, w)
			w.Cancel()
		}
	}
}

// still reports why a watcher is no longer its owner's. The owner was known when
// it was made, and neither the end of a token nor the age of one changes that.
func (g *guard) still(v *state.View, t *tag) error {
	if !v.Users.Enabled() {
		return nil
	}
	who := t.owner
	if !who.known { // made while nobody was asked
		var err error
		if who, err = g.api.identify(g.call.ctx); err != nil {
			return err
		}
	}
	who.dated = false
	return v.Permit(who.at(v.Users), watched(t.key, t.end))
}

// sinks are the watch streams that are open, to be woken when users change. The
// zero value is ready.
type sinks struct {
	mu   sync.Mutex
	open map[*watch.Sink]struct{}
}

func (s *sinks) add(one *watch.Sink) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*watch.Sink]struct{}{}
	}
	s.open[one] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, one)
	}
}

func (s *sinks) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		one.Wake()
	}
}
