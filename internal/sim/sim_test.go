// Package sim runs clusters of members on one goroutine, in an order that a seed
// decides: the real core of package replica, the real machine, the real log on
// a disk that crashes, and a network that loses, delays, repeats and reorders.
// A run that fails is repeated by its seed. DESIGN.md says what is simulated.
//
// It holds tests only, stands outside the floors, and imports what it drives.
package sim

import (
	"flag"
	"testing"
	"testing/cryptotest"
)

var (
	seeds = flag.Uint64("sim.seeds", 60, "how many runs")
	seed  = flag.Uint64("sim.seed", 0, "the first run's seed")
)

// simulate makes one run.
func simulate(t *testing.T, seed uint64, b bug) (w *world, fault string) {
	t.Helper()
	t.Run("", func(t *testing.T) { // raft's own randomness ends with the subtest
		cryptotest.SetGlobalRandom(t, seed)
		w = newWorld(seed, b)
		fault = w.run()
	})
	return w, fault
}

func TestEveryRunHolds(t *testing.T) {
	answered, snapshots := 0, 0
	did := map[string]int{}
	for s := *seed; s < *seed+*seeds; s++ {
		w, fault := simulate(t, s, none)
		if fault != "" {
			t.Fatalf("seed %d: %s\nagain: make sim SEED=%d SEEDS=1\nthe end of its trace:\n%s", s, fault, s, w.tail())
		}
		for _, o := range w.history {
			if o.known {
				answered++
			}
		}
		for kind, n := range w.did {
			did[kind] += n
		}
		did["lease granted"] += w.promises.granted
		did["lease renewed"] += w.promises.renewed
		did["lease ended"] += w.promises.ended
		for _, n := range w.nodes {
			snapshots += len(n.images)
		}
	}
	t.Logf("%d runs, %d operations answered, %d snapshots received, %v", *seeds, answered, snapshots, did)
	if answered < int(*seeds)*20 {
		t.Error("hardly anything was answered")
	}
	if *seeds < 50 {
		return
	}
	if snapshots == 0 {
		t.Error("no member ever needed a snapshot")
	}
	for _, kind := range happenings {
		if did[kind] == 0 {
			t.Errorf("it never happened: %s", kind)
		}
	}
}

func TestSameSeedMakesTheSameRun(t *testing.T) {
	for s := uint64(1); s < 6; s++ {
		first, _ := simulate(t, s, none)
		again, _ := simulate(t, s, none)
		if first.sum != again.sum {
			t.Errorf("seed %d: two runs differ", s)
		}
	}
}

// happenings are what no choice of chances may leave out.
var happenings = []string{
	"crash", "pause", "cut", "transfer", "member added or promoted", "learner added", "member removed", "compaction",
	"lease granted", "lease renewed", "lease ended",
}

// A simulator that finds nothing may be blind: it must see these.
func TestPlantedBugsAreFound(t *testing.T) {
	for name, b := range map[string]bug{"syncs that do nothing": lyingDisks, "reads that do not ask": staleReads, "leases ended by who leads no more": staleDeadlines} {
		found := false
		for s := uint64(1000); s < 1040 && !found; s++ {
			_, fault := simulate(t, s, b)
			found = fault != ""
		}
		if !found {
			t.Errorf("%s: not found in 40 runs", name)
		}
	}
}
