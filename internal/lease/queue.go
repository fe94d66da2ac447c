package lease

import (
	"container/heap"
	"time"
)

// queue holds a time for each lease and knows the earliest that is due. Leases
// of the same time come by ID.
type queue struct {
	heap times
	byID map[ID]*entry
}

type entry struct {
	id  ID
	at  time.Time // as set
	due time.Time // when it is returned: at, or later
	i   int       // where it is in the heap; resting if it is not
}

const resting = -1

// set gives a lease its time, whatever was set before.
func (q *queue) set(id ID, at time.Time) {
	e, ok := q.byID[id]
	if !ok {
		q.add(id, at)
		return
	}
	e.at, e.due = at, at
	if e.i == resting {
		heap.Push(&q.heap, e)
	} else {
		heap.Fix(&q.heap, e.i)
	}
}

// setNew gives a lease a time that has none.
func (q *queue) setNew(id ID, at time.Time) {
	if _, ok := q.byID[id]; !ok {
		q.add(id, at)
	}
}

func (q *queue) add(id ID, at time.Time) {
	if q.byID == nil {
		q.byID = map[ID]*entry{}
	}
	e := &entry{id: id, at: at, due: at}
	q.byID[id] = e
	heap.Push(&q.heap, e)
}

// postpone returns a lease of the queue only later.
func (q *queue) postpone(id ID, due time.Time) {
	e := q.byID[id]
	e.due = due
	heap.Fix(&q.heap, e.i)
}

// rest keeps a lease's time, but returns it no more.
func (q *queue) rest(id ID) {
	if e, ok := q.byID[id]; ok && e.i != resting {
		heap.Remove(&q.heap, e.i)
		e.i = resting
	}
}

func (q *queue) remove(id ID) {
	q.rest(id)
	delete(q.byID, id)
}

// due returns the earliest lease if its time has come. It stays in the queue.
func (q *queue) due(now time.Time) (ID, bool) {
	if len(q.heap) == 0 || q.heap[0].due.After(now) {
		return 0, false
	}
	return q.heap[0].id, true
}

// times is the heap of a queue, as container/heap wants it.
type times []*entry

func (t times) Len() int { return len(t) }

func (t times) Less(i, j int) bool {
	if c := t[i].due.Compare(t[j].due); c != 0 {
		return c < 0
	}
	return t[i].id < t[j].id
}

func (t times) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].i, t[j].i = i, j
}

func (t *times) Push(e any) {
	entry := e.(*entry)
	entry.i = len(*t)
	*t = append(*t, entry)
}

func (t *times) Pop() any {
	last := len(*t) - 1
	e := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	return e
}
