package sender

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadyLeadsToATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		turns := 0
		s := p.Stream(0, func() { turns++ })
		for want := 1; want <= 3; want++ {
			s.Ready()
			synctest.Wait()
			if turns != want {
				t.Fatalf("%d turns after Ready was called %d times", turns, want)
			}
		}
	})
}

// TestWhoSaysReadyInItsTurnGetsAnother: nothing is lost between a last look and
// the end of a turn.
func TestWhoSaysReadyInItsTurnGetsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		var s *Stream
		left := 5
		s = p.Stream(0, func() {
			if left--; left > 0 {
				s.Ready()
			}
		})
		s.Ready()
		synctest.Wait()
		if left != 0 {
			t.Errorf("%d turns are missing", left)
		}
	})
}

// TestASmallCrowdSharesAWorker: this is what makes messages share writes.
func TestASmallCrowdSharesAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		var now, most atomic.Int64
		turns := make([]int, crowd)
		for i := range turns {
			p.Stream(0, func() {
				most.Store(max(most.Load(), now.Add(1)))
				turns[i]++
				runtime.Gosched()
				now.Add(-1)
			}).Ready()
		}
		synctest.Wait()
		for i, n := range turns {
			if n != 1 {
				t.Errorf("stream %d had %d turns", i, n)
			}
		}
		if most.Load() != 1 {
			t.Errorf("%d had their turn at once", most.Load())
		}
	})
}

func TestALargeCrowdHasAsManyWorkersAsRunAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 3
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers))
		var p Pool
		var now, most, turns atomic.Int64
		const n = 10 * crowd
		for i := range n {
			p.Stream(i%(10*workers), func() {
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(patience / n) // lets all others run
				now.Add(-1)
				turns.Add(1)
			}).Ready()
		}
		time.Sleep(2 * patience)
		synctest.Wait()
		if turns.Load() != n || most.Load() != workers {
			t.Errorf("%d turns of %d, %d at once, not %d", turns.Load(), n, most.Load(), workers)
		}
	})
}

// TestThoseOfOneConnectionComeAfterEachOther whatever the order in which they
// are ready.
func TestThoseOfOneConnectionComeAfterEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		block := make(chan struct{})
		p.Stream("first", func() { <-block }).Ready()
		synctest.Wait()
		var order []int
		for i := range 12 {
			p.Stream(i%3, func() { order = append(order, i%3) }).Ready()
		}
		close(block)
		synctest.Wait()
		if want := []int{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}; !slices.Equal(order, want) {
			t.Errorf("the connections had their turns in the order %v", order)
		}
	})
}

// TestNobodyWaitsLongForWhoIsHeldUp: a client that does not read holds up its own
// stream alone.
func TestNobodyWaitsLongForWhoIsHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		release := make(chan struct{})
		turns := 0
		slow := p.Stream(0, func() {
			if turns++; turns == 1 {
				<-release
			}
		})
		slow.Ready()
		began := time.Now()
		var served atomic.Int64
		const others = 3
		for range others {
			p.Stream(0, func() {
				if served.Add(1) == others && time.Since(began) > 2*patience {
					t.Errorf("the last waited for %v", time.Since(began))
				}
			}).Ready()
		}
		time.Sleep(2 * patience)
		synctest.Wait()
		if served.Load() != others {
			t.Fatalf("%d of %d streams were served beside one that is held up", served.Load(), others)
		}
		// Those that come later do not wait at all.
		began = time.Now()
		p.Stream(0, func() { served.Add(1) }).Ready()
		synctest.Wait()
		if served.Load() != others+1 || time.Since(began) != 0 {
			t.Error("a stream waited though the one that is held up was known")
		}
		// Nothing that it was ready for is lost, and nothing is sent beside it.
		slow.Ready()
		synctest.Wait()
		if turns != 1 {
			t.Errorf("a stream had %d turns at once", turns)
		}
		close(release)
		synctest.Wait()
		if turns != 2 {
			t.Errorf("%d turns after it was held up, not 2", turns)
		}
		// For some time it holds nobody up again, then it is trusted.
		for range probation {
			if slow.probation == 0 {
				break
			}
			slow.Ready()
			synctest.Wait()
		}
		if slow.probation != 0 {
			t.Errorf("it is still on probation for %d turns", slow.probation)
		}
	})
}

// TestTurnsOfAStreamNeverOverlap: many streams, many who call, some held up.
func TestTurnsOfAStreamNeverOverlap(t *testing.T) {
	var p Pool
	const n, calls = 300, 200
	var callers sync.WaitGroup
	asked, seen := make([]atomic.Int64, n), make([]int64, n)
	done := make(chan struct{}, n)
	for i := range n {
		var inside atomic.Bool
		s := p.Stream(i%7, func() {
			if inside.Swap(true) {
				t.Error("two turns of a stream at once")
			}
			if rand.N(2000) == 0 {
				time.Sleep(3 * patience)
			}
			seen[i] = asked[i].Load()
			inside.Store(false)
			if seen[i] == calls {
				select {
				case done <- struct{}{}:
				default:
				}
			}
		})
		callers.Go(func() {
			for range calls {
				asked[i].Add(1)
				s.Ready()
				if rand.N(10) == 0 {
					time.Sleep(time.Duration(rand.N(100)) * time.Microsecond)
				}
			}
		})
	}
	callers.Wait()
	late := time.After(20 * time.Second)
	for i := range n {
		select {
		case <-done:
		case <-late:
			t.Fatalf("%d of %d streams saw the last that they were asked for", i, n)
		}
	}
}
