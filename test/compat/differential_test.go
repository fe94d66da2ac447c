package compat

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"kvd/test/oracle"
)

const (
	opsInAll       = 21_000 // of a run, unless KVD_COMPAT_OPS says otherwise
	opsOfASequence = 1_000
)

// variants are the flags that sequences start their servers with, in turn.
var variants = []struct {
	name   string
	flags  []string
	limits limits
}{
	{"defaults", nil, limits{txnOps: 128, requestBytes: 1_572_864}},
	{"small limits", []string{"--max-txn-ops=8", "--max-request-bytes=20000"}, limits{txnOps: 8, requestBytes: 20_000}},
	{"often a snapshot", []string{"--snapshot-count=50", "--snapshot-catchup-entries=20"}, limits{txnOps: 128, requestBytes: 1_572_864}},
}

// TestEveryAnswerIsEtcds sends generated sequences to etcd and to kvd in
// lockstep and compares every answer. KVD_COMPAT_SEED replays the sequence of
// that seed alone, KVD_COMPAT_OPS sets how many operations are sent in all,
// KVD_COMPAT_TARGET names the program to judge, KVD_COMPAT_DIFFERENCES how many
// differences end a sequence, KVD_COMPAT_SCRIPT how many operations before a
// difference are shown, and with KVD_COMPAT_SHRINK=1 fewer operations are
// looked for that make the first difference.
func TestEveryAnswerIsEtcds(t *testing.T) {
	judge, judged := oracle.Etcd(t), target(t)
	if text := os.Getenv("KVD_COMPAT_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		runSequence(t, judge, judged, seed, min(number(t, "KVD_COMPAT_OPS", opsOfASequence), opsOfASequence))
		return
	}
	total := number(t, "KVD_COMPAT_OPS", opsInAll)
	first := rand.Uint64() >> 16
	for i := 0; total > 0; i++ {
		seed, n := first+uint64(i), min(total, opsOfASequence)
		total -= n
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			runSequence(t, judge, judged, seed, n)
		})
	}
}

// target is the program under test: kvd, or what KVD_COMPAT_TARGET names.
func target(t testing.TB) oracle.Binary {
	if path := os.Getenv("KVD_COMPAT_TARGET"); path != "" {
		return oracle.Binary{Name: "target", Path: path}
	}
	return oracle.Kvd(t)
}

// number reads a variable that holds one.
func number(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// runSequence sends the n operations that follow from a seed.
func runSequence(t *testing.T, judge, judged oracle.Binary, seed uint64, n int) {
	t.Helper()
	variant := variants[seed%uint64(len(variants))]
	s := newSession(t, judge, judged, variant.flags)
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), model: s.model, limits: variant.limits}
	restartAt := g.IntN(2 * n) // one sequence in two is interrupted
	began := time.Now()
	var ops []op
	differences := 0
	for len(ops) < n {
		o := g.next()
		if len(ops) == restartAt {
			o = op{method: methodRestart, kill: g.one(2)}
		}
		ops = append(ops, o)
		d := s.do(o)
		if d == nil && len(ops)%25 == 0 {
			d = s.settleWatchers()
		}
		if d == nil && len(ops) == n {
			d = s.finish()
		}
		if d != nil {
			t.Errorf("seed %d (%s), operation %d: %v\nafter\n%sreplay with KVD_COMPAT_SEED=%d",
				seed, variant.name, len(ops)-1, d, script(ops, number(t, "KVD_COMPAT_SCRIPT", 12)), seed)
			if os.Getenv("KVD_COMPAT_SHRINK") == "1" {
				ops = shrink(t, judge, judged, variant.flags, ops)
				t.Fatalf("%d operations are enough:\n%s", len(ops), script(ops, len(ops)))
			}
			if differences++; differences >= number(t, "KVD_COMPAT_DIFFERENCES", 1) {
				return
			}
		}
	}
	t.Logf("seed %d (%s): %d operations, revision %d, %d events, %s", seed, variant.name, n,
		s.model.revision, len(s.model.history), time.Since(began).Round(time.Millisecond))
}
