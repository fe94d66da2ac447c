package daemon

import "testing"

func TestSmallHeapIsCollectedSeldom(t *testing.T) {
	for _, c := range []struct {
		live    uint64
		percent int
	}{
		{0, mostGC}, {1 << 20, mostGC}, {64 << 20, mostGC}, {80 << 20, 300}, {160 << 20, 100}, {320 << 20, 50}, {1 << 30, leastGC},
	} {
		if got := gcPercent(c.live); got != c.percent {
			t.Errorf("%d bytes live: %d %%, want %d", c.live, got, c.percent)
		}
	}
}
