package main

import (
	"cmp"
	"container/heap"
	"slices"
)

// counter is how often a prefix was seen, and with how many bytes.
type counter struct {
	Prefix string `json:"prefix"`
	Count  int64  `json:"count"`
	Bytes  int64  `json:"bytes"`
}

func byCount(c *counter) int64 { return c.Count }
func byBytes(c *counter) int64 { return c.Bytes }

// counters count many prefixes in bounded memory. While they are few enough the
// counts are exact; after that a new one takes the place, and the counts, of
// the smallest: large ones are never lost, and none is counted too low.
type counters struct {
	max    int
	weight func(*counter) int64
	sum    counter // of all that was added, exactly
	by     map[string]*counted
	heap   smallestFirst
}

// counted is a counter with its place in the heap.
type counted struct {
	counter
	at     int
	weight func(*counter) int64
}

func newCounters(most int, weight func(*counter) int64) *counters {
	return &counters{max: most, weight: weight, by: map[string]*counted{}}
}

func (s *counters) add(prefix string, count, bytes int64) {
	s.sum.Count += count
	s.sum.Bytes += bytes
	c := s.by[prefix]
	switch {
	case c != nil:
	case len(s.by) < s.max:
		c = &counted{counter: counter{Prefix: prefix}, weight: s.weight}
		heap.Push(&s.heap, c)
		s.by[prefix] = c
	default:
		c = s.heap[0]
		delete(s.by, c.Prefix)
		c.Prefix = prefix
		s.by[prefix] = c
	}
	c.Count += count
	c.Bytes += bytes
	heap.Fix(&s.heap, c.at)
}

// top are the n counters of the largest weight, the largest first.
func (s *counters) top(n int) []counter {
	all := make([]counter, 0, len(s.by))
	for _, c := range s.by {
		all = append(all, c.counter)
	}
	slices.SortFunc(all, func(a, b counter) int {
		return cmp.Or(cmp.Compare(s.weight(&b), s.weight(&a)), cmp.Compare(a.Prefix, b.Prefix))
	})
	return all[:min(n, len(all))]
}

// smallestFirst is a heap of counters.
type smallestFirst []*counted

func (h smallestFirst) Len() int { return len(h) }

func (h smallestFirst) Less(i, j int) bool {
	return h[i].weight(&h[i].counter) < h[j].weight(&h[j].counter)
}

func (h smallestFirst) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push is for container/heap.
func (h *smallestFirst) Push(x any) {
	c := x.(*counted)
	c.at = len(*h)
	*h = append(*h, c)
}

// Pop is for container/heap.
func (h *smallestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
