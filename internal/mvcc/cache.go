package mvcc

import "sync/atomic"

// recordOverhead is what a cached value costs beside its bytes.
const recordOverhead = 24

// cache bounds the values that stay in memory after their rows are on disk.
// The writer owns it but for offer, which any reader may call.
type cache struct {
	budget  int64
	used    atomic.Int64
	offered atomic.Pointer[offer] // filled by readers since the last evict
	queue   fifo[*record]         // second chance: oldest in front
}

// offer is one value that a reader has put back into memory.
type offer struct {
	record *record
	next   *offer
}

func newCache(budget int64) *cache { return &cache{budget: budget} }

func cost(size int) int64 { return int64(size) + recordOverhead }

// add takes over a record whose row has just reached the disk.
func (c *cache) add(r *record) {
	if wire := r.wire(); wire != nil {
		c.used.Add(cost(len(wire)))
		c.queue.push(r)
	}
}

// offer keeps a value that a reader had to read from its row. Any goroutine.
func (c *cache) offer(r *record, wire []byte) {
	if len(wire) == 0 || c.used.Load()+cost(len(wire)) > c.budget+c.budget/8 || !r.holdAgain(wire) {
		return // full: the next evict makes room
	}
	c.used.Add(cost(len(wire)))
	o := &offer{record: r}
	for {
		o.next = c.offered.Load()
		if c.offered.CompareAndSwap(o.next, o) {
			return
		}
	}
}

// forget lets go of the value of a record that is being collected; counted
// says whether its row was on disk, and the value so in the budget.
func (c *cache) forget(r *record, counted bool) {
	if size := r.letGo(); size > 0 && counted {
		c.used.Add(-cost(int(size)))
	}
}

// evict brings the cache back below its budget. Values that were read since
// the last time get a second chance.
func (c *cache) evict() {
	for o := c.offered.Swap(nil); o != nil; o = o.next {
		c.queue.push(o.record)
	}
	for c.used.Load() > c.budget {
		r, ok := c.queue.front()
		if !ok {
			return
		}
		c.queue.pop()
		if r.used.Swap(false) {
			c.queue.push(r)
			continue
		}
		if size := r.letGo(); size > 0 {
			c.used.Add(-cost(int(size)))
		}
	}
}
