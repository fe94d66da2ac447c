package replica

import (
	"sync/atomic"
	"time"
)

// ids makes request IDs that no other member and no earlier life of this one
// has made, as etcd does: the low 16 bits of the member's ID, 40 bits of
// milliseconds at the start, 8 bits of counter that carry into the time.
type ids struct {
	prefix uint64
	suffix atomic.Uint64
}

const idSuffixBits = 48

func newIDs(member uint64, now time.Time) *ids {
	g := &ids{prefix: member << idSuffixBits}
	g.suffix.Store(uint64(now.UnixMilli()) << 8)
	return g
}

func (g *ids) next() uint64 {
	return g.prefix | g.suffix.Add(1)&(1<<idSuffixBits-1)
}
