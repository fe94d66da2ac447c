// Package sender lends few goroutines to many streams that now and then have
// something to send.
//
// Messages that one goroutine sends to a hundred streams in a row share writes
// to their sockets, since a connection's writer finds several each time that it
// looks. When a hundred goroutines are woken for it, nearly each message is
// written alone: that takes twice the CPU (test/bench/RESULTS.md).
//
// Sending may block for as long as a client does not read. Nobody waits longer
// than the patience for somebody else's client: what waits then gets goroutines
// of its own.
package sender

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// patience is how long streams wait for one that is held up, twice that at most.
	patience = 10 * time.Millisecond
	// crowd is how many waiting streams are worth another worker.
	crowd = 128
	// probation is how many turns a stream that was held up takes on a
	// goroutine of its own before it is trusted again.
	probation = 1000
)

// Pool serves streams with at most as many workers as Go runs at once, besides
// those that are held up. Goroutines are there only while somebody has
// something to send. The zero value is ready.
type Pool struct {
	mu       sync.Mutex
	waiting  int      // streams in groups that no worker has taken
	groups   []*group // in order; those before head are taken
	head     int
	by       map[any]*group
	workers  []*worker
	watchdog *time.Timer
	watching bool // the timer is set
}

// Stream is one stream's place in a pool.
type Stream struct {
	pool *Pool
	conn any
	turn func()

	// Guarded by the pool.
	ready     bool // asked for since its last turn began
	busy      bool // waits, or has its turn
	probation int
}

// group is streams of one connection that wait for their turns.
type group struct {
	conn    any
	streams []*Stream
}

// worker takes one stream after the other.
type worker struct {
	group  *group
	stream *Stream // whose turn it is
	turns  int     // that it has begun
	seen   int     // turns when the watchdog last looked
	held   bool
}

// Stream returns the place of a stream in the pool. Those of one connection, a
// comparable value, have their turns after each other. After each Ready turn is
// called at least once, never twice at the same time, and by any goroutine; it
// should return after a bounded number of messages, having called Ready again
// if there are more.
func (p *Pool) Stream(conn any, turn func()) *Stream {
	return &Stream{pool: p, conn: conn, turn: turn}
}

// Ready says that there is something to send. It does not block.
func (s *Stream) Ready() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ready {
		return
	}
	s.ready = true
	if !s.busy {
		s.busy = true
		p.admit(s)
	}
}

// admit lets a busy stream wait for its turn.
func (p *Pool) admit(s *Stream) {
	if s.probation > 0 {
		go p.alone(s)
		return
	}
	g := p.by[s.conn]
	if g == nil {
		if p.by == nil {
			p.by = map[any]*group{}
		}
		g = &group{conn: s.conn}
		p.by[s.conn] = g
		p.append(g)
	}
	g.streams = append(g.streams, s)
	p.waiting++
	if n := len(p.workers); n == 0 || p.waiting > n*crowd && n < runtime.GOMAXPROCS(0) {
		w := &worker{}
		p.workers = append(p.workers, w)
		go p.work(w)
	}
	if !p.watching {
		p.watching = true
		if p.watchdog == nil {
			p.watchdog = time.AfterFunc(patience, p.look)
		} else {
			p.watchdog.Reset(patience)
		}
	}
}

func (p *Pool) append(g *group) {
	if p.head > len(p.groups)/2 { // what was taken makes room
		n := copy(p.groups, p.groups[p.head:])
		clear(p.groups[n:])
		p.groups, p.head = p.groups[:n], 0
	}
	p.groups = append(p.groups, g)
}

// work serves those that wait until there are none.
func (p *Pool) work(w *worker) {
	p.mu.Lock()
	for p.next(w) {
		s := w.stream
		s.ready = false
		p.mu.Unlock()
		s.turn()
		p.mu.Lock()
		if w.held { // others do its work since
			p.mu.Unlock()
			p.alone(s)
			return
		}
		w.stream = nil
		if s.busy = s.ready; s.busy {
			p.admit(s)
		}
	}
	p.workers = slices.DeleteFunc(p.workers, func(other *worker) bool { return other == w })
	p.mu.Unlock()
}

// next gives the worker the next stream of its group, or the first of another.
func (p *Pool) next(w *worker) bool {
	if w.group == nil || len(w.group.streams) == 0 {
		if p.head == len(p.groups) {
			p.groups, p.head = p.groups[:0], 0
			return false
		}
		w.group = p.groups[p.head]
		p.groups[p.head] = nil
		p.head++
		delete(p.by, w.group.conn)
		p.waiting -= len(w.group.streams)
	}
	w.stream = w.group.streams[0]
	w.group.streams[0] = nil
	w.group.streams = w.group.streams[1:]
	w.turns++
	return true
}

// alone serves a busy stream until it has nothing to send.
func (p *Pool) alone(s *Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s.ready {
		s.ready = false
		p.mu.Unlock()
		s.turn()
		p.mu.Lock()
		s.probation--
	}
	s.probation = max(s.probation, 0)
	s.busy = false
}

// look takes workers that are held up out of the pool, and gives a goroutine to
// each stream that waits, since it may wait behind them.
func (p *Pool) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var held []*group
	p.workers = slices.DeleteFunc(p.workers, func(w *worker) bool {
		w.held = w.stream != nil && w.turns == w.seen
		if w.held {
			held = append(held, w.group)
			w.stream.probation = probation
		}
		w.seen = w.turns
		return w.held
	})
	if held != nil {
		for _, g := range slices.Concat(held, p.groups[p.head:]) {
			for _, s := range g.streams {
				go p.alone(s)
			}
		}
		p.groups, p.head, p.waiting = nil, 0, 0
		clear(p.by)
	}
	p.watching = len(p.workers) > 0
	if p.watching {
		p.watchdog.Reset(patience)
	}
}
