package replica

import (
	"sync/atomic"
	"time"
)

// IDs makes numbers that no other member and no earlier life of this one has
// made, as etcd does: the low 16 bits of the member's ID, 40 bits of
// milliseconds at the start, 8 bits of counter that carry into the time. They
// ascend. IDs is for any goroutine.
type IDs struct {
	prefix uint64
	suffix atomic.Uint64
}

const idSuffixBits = 48

// NewIDs makes the IDs of a member whose life begins now.
func NewIDs(member uint64, now time.Time) *IDs {
	g := &IDs{prefix: member << idSuffixBits}
	g.suffix.Store(uint64(now.UnixMilli()) << 8)
	return g
}

// Next returns another one.
func (g *IDs) Next() uint64 {
	return g.prefix | g.suffix.Add(1)&(1<<idSuffixBits-1)
}
