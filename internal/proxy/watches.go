package proxy

import "sync"

// topic is what watchers must have in common to share a watch at a member.
type topic struct {
	who                            identity
	key, end                       string
	prevKV, fragment, noPut, noDel bool
}

// watches are the feeds, by topic.
type watches struct {
	proxy  *Proxy
	mu     sync.Mutex
	feeds  map[topic][]*feed
	closed bool

	streams  sync.Mutex
	open     map[*watchStream]bool
	stopping bool
}

func newWatches(p *Proxy) *watches {
	return &watches{proxy: p, feeds: map[topic][]*feed{}, open: map[*watchStream]bool{}}
}

// enter notes a stream, which ends when the proxy stops.
func (ws *watches) enter(s *watchStream) {
	ws.streams.Lock()
	defer ws.streams.Unlock()
	ws.open[s] = true
	if ws.stopping {
		s.fail(errStopping)
	}
}

func (ws *watches) exit(s *watchStream) {
	ws.streams.Lock()
	defer ws.streams.Unlock()
	delete(ws.open, s)
}

// end ends all streams, and those to come.
func (ws *watches) end() {
	ws.streams.Lock()
	defer ws.streams.Unlock()
	ws.stopping = true
	for s := range ws.open {
		s.fail(errStopping)
	}
}

// count keeps the metric of watches at members.
func (ws *watches) count() {
	n := 0
	for _, feeds := range ws.feeds {
		n += len(feeds)
	}
	ws.proxy.parts.Metrics.feeds.Set(float64(n))
}

func (ws *watches) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for _, feeds := range ws.feeds {
		for _, f := range feeds {
			f.cancel()
		}
	}
}
