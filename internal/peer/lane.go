package peer

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// laneMessages wait for one stream; further ones are dropped.
const laneMessages = 4096

// lane is one of the two streams to a member, and what waits for it. The member
// opens the stream; a new one takes the place of an old one.
type lane struct {
	mu     sync.Mutex
	open   *opened // nil: there is none, and nothing waits
	queue  []*raftpb.Message
	wanted bool // wake has been sent and not taken
}

// opened is one opening of a lane. The goroutine of its request writes.
type opened struct {
	wake     chan struct{} // one signal at most: the queue is not empty
	replaced chan struct{} // closed by who opens the lane again
}

// offer puts a message into the queue. It is not taken if the lane is not open,
// or full.
func (l *lane) offer(m *raftpb.Message) (open, taken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		return false, false
	}
	if len(l.queue) >= laneMessages {
		return true, false
	}
	l.queue = append(l.queue, m)
	if !l.wanted {
		l.wanted = true
		l.open.wake <- struct{}{} // there is room: it was taken before wanted became false
	}
	return true, true
}

// attach opens the lane, in place of who has it open. What waited is lost.
func (l *lane) attach() (o *opened, lost int) {
	o = &opened{wake: make(chan struct{}, 1), replaced: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != nil {
		close(l.open.replaced)
	}
	lost = len(l.queue)
	l.open, l.queue, l.wanted = o, nil, false
	return o, lost
}

// detach closes the lane, unless it has been opened again meanwhile. What waits
// is lost.
func (l *lane) detach(o *opened) (was bool, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != o {
		return false, 0
	}
	lost = len(l.queue)
	l.open, l.queue, l.wanted = nil, nil, false
	return true, lost
}

// take swaps what waits against an empty queue, after a signal of wake.
func (l *lane) take(o *opened, empty []*raftpb.Message) []*raftpb.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != o {
		return empty
	}
	all := l.queue
	l.queue, l.wanted = empty, false
	return all
}
