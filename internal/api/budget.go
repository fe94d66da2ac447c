package api

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// budget bounds the memory of the answers to ranges: those that are being read
// and those that their clients have not taken yet.
type budget struct {
	limit   int64 // bytes; 0: none
	used    atomic.Int64
	refused atomic.Int64
}

const (
	// budgetStep is in which steps an answer takes from the budget: small ones
	// take nothing, their number is bounded.
	budgetStep = 64 << 10
	// longestHold is how long an answer counts at most. gRPC frees what was
	// sent; what waited for a connection that broke it may forget to.
	longestHold = 5 * time.Minute
)

// hold is what one answer has taken. A nil hold counts nothing.
type hold struct {
	of    *budget
	bytes int64 // gathered
	taken int64 // of the budget, in steps
	once  sync.Once
}

func (b *budget) hold() *hold {
	if b.limit <= 0 {
		return nil
	}
	return &hold{of: b}
}

// spend counts bytes that were gathered; an error says that there is no room for
// them. One goroutine calls it.
func (h *hold) spend(n int) error {
	if h.bytes += int64(n); h.bytes < h.taken+budgetStep {
		return nil
	}
	more := h.bytes - h.taken
	if h.of.used.Add(more) > h.of.limit {
		h.of.used.Add(-more)
		h.of.refused.Add(1)
		return status.Errorf(codes.ResourceExhausted,
			"etcdserver: the answers to ranges need more memory than range-memory-bytes (%d) allows at once; ask for less with a limit, or with RangeStream", h.of.limit)
	}
	h.taken += more
	return nil
}

// spender is what a view is to call for each thing that it gathers; nil if
// nothing is counted.
func (h *hold) spender() func(int) error {
	if h == nil {
		return nil
	}
	return h.spend
}

// release gives everything back. It may be called more than once, and by any
// goroutine once nothing is gathered any more.
func (h *hold) release() {
	if h != nil && h.taken > 0 {
		h.once.Do(func() { h.of.used.Add(-h.taken) })
	}
}

// until has the answer released when gRPC has sent it: when it frees the last
// buffer, which the pool that is returned is of.
func (h *hold) until() mem.BufferPool {
	if h == nil || h.taken == 0 {
		return pieces
	}
	late := time.AfterFunc(longestHold, h.release)
	return &lastPiece{func() { late.Stop(); h.release() }}
}

// lastPiece is a pool for one buffer.
type lastPiece struct{ freed func() }

func (p *lastPiece) Get(length int) *[]byte { return pieces.Get(length) }

func (p *lastPiece) Put(b *[]byte) {
	pieces.Put(b)
	p.freed()
}
