package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// slackBytes is how much garbage a small heap may gather between two
	// collections: below it collecting costs more than the memory is worth. What
	// lives is taken off, down to leastSlackBytes.
	slackBytes      = 320 << 20
	leastSlackBytes = 160 << 20
	paceEvery       = time.Second
	loadingGC       = 10_000 // while nothing but what will live is being read: first at some 400 MiB
	leastGC         = 40     // per cent of the living heap; a large one is collected sooner, for its memory
	mostGC          = 400    // no heap is so small that it needs more
)

// ownsHeap reports whether the operator has left the heap's pace to us.
func ownsHeap() bool { return os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" }

// hurryHeap is for the time of loading: next to nothing of what is allocated
// then is garbage.
func hurryHeap() {
	if ownsHeap() {
		debug.SetGCPercent(loadingGC)
	}
}

// paceHeap lets a small heap be collected seldom and a large one often: memory
// is held near what lives, where it matters. An operator who sets GOGC or
// GOMEMLIMIT has said what is wanted, and is not overruled.
func paceHeap(ctx context.Context) error {
	if !ownsHeap() {
		<-ctx.Done()
		return nil
	}
	debug.FreeOSMemory() // what loading has left behind
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for was := 0; ; {
		metrics.Read(live)
		if percent := gcPercent(live[0].Value.Uint64()); percent != was {
			debug.SetGCPercent(percent)
			was = percent
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// gcPercent is the garbage to allow, in per cent of what lives.
func gcPercent(live uint64) int {
	slack := slackBytes - min(live, slackBytes-leastSlackBytes)
	return int(min(max(slack*100/max(live, 1), leastGC), mostGC))
}
