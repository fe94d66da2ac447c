package proxy

import (
	"container/list"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

const (
	maxCached = 2048 // ranges, and with each a watch that may be shared
	// cachedFor is how long a member is not asked again: the watch says when keys
	// change, and nothing when somebody may not read them any more.
	cachedFor = 2 * time.Second
	askedOnce = 4096 // ranges that are remembered for having been asked for once
)

// cache keeps answers to serializable ranges of callers without a token, as long
// as a watch of the range has told of no change and its member is connected. It
// does not hold its lock when it attaches or detaches a watcher.
type cache struct {
	proxy *Proxy
	mu    sync.Mutex
	all   map[string]*cached // by request
	order *list.List         // of *cached, those used last in front
	bytes int
	once  map[string]bool // asked for lately, not cached
}

// cached is one answer.
type cached struct {
	request string
	answer  []byte
	watcher *watcher
	proved  bool // the watch has been created
	until   time.Time
	place   *list.Element // nil: it is out
}

func newCache(p *Proxy) *cache {
	return &cache{proxy: p, all: map[string]*cached{}, order: list.New(), once: map[string]bool{}}
}

// size is what an entry takes of the budget.
func (e *cached) size() int { return len(e.request) + len(e.answer) + 512 }

// concerns reports whether an answer to a call may be kept, and the call's range.
func (c *cache) concerns(call *call, request *frame) (*pb.RangeRequest, string) {
	if c.proxy.o.CacheBytes == 0 || call.name != rangeMethod || identityOf(call.ctx) != "" {
		return nil, ""
	}
	data := request.data.Materialize()
	var r pb.RangeRequest
	if proto.Unmarshal(data, &r) != nil || !r.Serializable || r.Revision != 0 || len(r.Key) == 0 {
		return nil, ""
	}
	return &r, string(data)
}

// get returns the answer to a request that is proved to be current.
func (c *cache) get(request string) (mem.BufferSlice, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.all[request]
	if e == nil || !e.proved || time.Now().After(e.until) {
		c.proxy.parts.Metrics.misses.Inc()
		return nil, false
	}
	c.order.MoveToFront(e.place)
	c.proxy.parts.Metrics.hits.Inc()
	return mem.BufferSlice{mem.SliceBuffer(e.answer)}, true
}

// put keeps an answer, if it is the second to this request, and has its range
// watched from behind the answer's revision on.
func (c *cache) put(r *pb.RangeRequest, request string, answer []byte) {
	e := &cached{request: request, answer: answer, until: time.Now().Add(cachedFor)}
	revision := headerOf(answer)
	if revision == 0 || e.size() > c.proxy.o.CacheBytes/4 {
		return
	}
	w := &watcher{
		stream: &watchStream{proxy: c.proxy}, answered: make(chan struct{}),
		topic: topic{key: string(r.Key), end: string(r.RangeEnd)},
	}
	w.said = func([]byte) { c.prove(e) }
	w.guards = func() { c.drop(e) }
	e.watcher = w
	c.mu.Lock()
	old := c.all[request]
	if old != nil && time.Now().Before(old.until) {
		c.mu.Unlock()
		return // somebody else has asked at the same time
	}
	if old != nil || !c.once[request] {
		if len(c.once) >= askedOnce {
			clear(c.once)
		}
		c.once[request] = true
		var out *watcher
		if old != nil { // its time is over
			out = c.outLocked(old)
		}
		c.mu.Unlock()
		c.detach(out)
		return
	}
	delete(c.once, request)
	c.all[request], e.place = e, c.order.PushFront(e)
	c.bytes += e.size()
	var out []*watcher
	for c.bytes > c.proxy.o.CacheBytes || c.order.Len() > maxCached {
		out = append(out, c.outLocked(c.order.Back().Value.(*cached)))
	}
	c.count()
	c.mu.Unlock()
	c.detach(out...)
	c.proxy.watches.attach(w, revision+1)
	c.mu.Lock()
	gone := e.place == nil // meanwhile, when there was nothing to detach yet
	c.mu.Unlock()
	if gone {
		c.detach(w)
	}
}

func (c *cache) detach(out ...*watcher) {
	for _, w := range out {
		if w != nil {
			c.proxy.watches.detach(w)
		}
	}
}

// prove is that the member watches the range.
func (c *cache) prove(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.proved = true
}

// drop is that a range has changed, or is not watched any more.
func (c *cache) drop(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outLocked(e)
}

// outLocked takes an entry out and returns its watcher.
func (c *cache) outLocked(e *cached) *watcher {
	e.proved = false
	if e.place == nil {
		return nil
	}
	c.order.Remove(e.place)
	e.place = nil
	delete(c.all, e.request)
	c.bytes -= e.size()
	c.count()
	return e.watcher
}

func (c *cache) count() { c.proxy.parts.Metrics.cached.Set(float64(c.order.Len())) }
