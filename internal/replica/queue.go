package replica

import "sync"

// queue carries work to one goroutine, which takes all that waits at once. It
// does not bound itself: DESIGN.md says what bounds each.
type queue[T any] struct {
	mu      sync.Mutex
	items   []T
	stopped bool          // no more will come
	aborted bool          // what is there is not wanted any more
	wake    chan struct{} // one signal at most
}

func newQueue[T any]() *queue[T] { return &queue[T]{wake: make(chan struct{}, 1)} }

// put adds an item and wakes the taker.
func (q *queue[T]) put(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	q.signal()
}

// leave adds an item that can wait until something else wakes the taker.
func (q *queue[T]) leave(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
}

func (q *queue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next says how the taker goes on.
type next int

const (
	goOn   next = iota
	finish      // do what was taken, then end
	quit        // end at once; nothing was taken
)

// take empties the queue into buf, whose items are given up.
func (q *queue[T]) take(buf []T) (items []T, then next) {
	clear(buf)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.aborted {
		return nil, quit
	}
	if q.stopped {
		then = finish
	}
	items, q.items = q.items, buf[:0]
	return items, then
}

func (q *queue[T]) stop() {
	q.mu.Lock()
	q.stopped = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue[T]) abort() {
	q.mu.Lock()
	q.aborted = true
	q.mu.Unlock()
	q.signal()
}

// drain returns what nobody will take any more.
func (q *queue[T]) drain() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := q.items
	q.items = nil
	return left
}
