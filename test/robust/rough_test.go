package robust

import (
	"fmt"
	"testing"
	"time"
)

// Packets between members are lost, late, out of order and twice.
func TestRoughNetworkLosesNothing(t *testing.T) {
	t.Parallel()
	c, w := newRoughCluster(t, 3)
	l := c.load()
	for range rounds(t) {
		for _, now := range []weather{
			{lose: 0.05},
			{base: 15 * time.Millisecond},
			{base: time.Millisecond, late: 0.3, spread: 20 * time.Millisecond, twice: 0.05},
			{lose: 0.02, base: 2 * time.Millisecond, late: 0.2, spread: 60 * time.Millisecond, twice: 0.02},
		} {
			w.set(now)
			l.lasts(2 * time.Second)
			l.moves(0, 1, 2)
		}
		w.set(weather{})
	}
	l.moves(0, 1, 2)
	l.finish()
	t.Log(w)
	if w.sum.lost.Load() == 0 || w.sum.twice.Load() == 0 || w.sum.overtaken.Load() == 0 {
		t.Error("the weather was fine")
	}
}

// A gale now and then: half of the packets are lost for a while, so that
// leaders come and go.
func TestGalesLoseNothing(t *testing.T) {
	t.Parallel()
	c, w := newRoughCluster(t, 5)
	l := c.load()
	for range 2 * rounds(t) {
		l.moves(0, 1, 2, 3, 4)
		w.set(weather{lose: 0.5, base: time.Millisecond, late: 0.5, spread: 200 * time.Millisecond, twice: 0.1})
		l.lasts(3 * election)
		w.set(weather{})
	}
	l.moves(0, 1, 2, 3, 4)
	l.finish()
	t.Log(w)
}

// newRoughCluster is a cluster on a wire.
func newRoughCluster(t *testing.T, members int) (*cluster, *wire) {
	t.Helper()
	w := newWire()
	return newCluster(t, plan{size: members, net: makeNetwork(t, members, w)}), w
}

// String says what the weather did.
func (w *wire) String() string {
	return fmt.Sprintf("%d packets passed, %d lost, %d delayed, %d overtaken, %d twice",
		w.sum.passed.Load(), w.sum.lost.Load(), w.sum.delayed.Load(), w.sum.overtaken.Load(), w.sum.twice.Load())
}
