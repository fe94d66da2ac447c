package lease

import (
	"container/heap"
	"time"
)

// queue holds a time for each lease and knows the earliest. Leases of the same
// time come by ID.
type queue struct {
	heap times
	byID map[ID]*entry
}

type entry struct {
	id ID
	at time.Time
	i  int // where it is in the heap
}

func (q *queue) set(id ID, at time.Time) {
	if e, ok := q.byID[id]; ok {
		e.at = at
		heap.Fix(&q.heap, e.i)
		return
	}
	if q.byID == nil {
		q.byID = map[ID]*entry{}
	}
	e := &entry{id: id, at: at}
	q.byID[id] = e
	heap.Push(&q.heap, e)
}

func (q *queue) remove(id ID) {
	if e, ok := q.byID[id]; ok {
		heap.Remove(&q.heap, e.i)
		delete(q.byID, id)
	}
}

// due returns the earliest lease if its time has come. It stays in the queue.
func (q *queue) due(now time.Time) (ID, bool) {
	if len(q.heap) == 0 || q.heap[0].at.After(now) {
		return 0, false
	}
	return q.heap[0].id, true
}

// times is the heap of a queue, as container/heap wants it.
type times []*entry

func (t times) Len() int { return len(t) }

func (t times) Less(i, j int) bool {
	if !t[i].at.Equal(t[j].at) {
		return t[i].at.Before(t[j].at)
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
