package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	perfLasts    = 60 * time.Second
	perfKeyBytes = 256
	perfValBytes = 1024

	scaleKeyBytes = 512
	scaleValBytes = 512

	cleanupWithin = 30 * time.Second
)

// perfLoad is how hard "check perf" tries.
type perfLoad struct {
	writesPerSecond int
	clients         int
}

func perfLoads() map[string]perfLoad {
	return map[string]perfLoad{"s": {150, 50}, "m": {1000, 200}, "l": {8000, 500}, "xl": {15000, 1000}}
}

// scaleLoad is how much "check datascale" writes.
type scaleLoad struct {
	keys    int
	clients int
}

func scaleLoads() map[string]scaleLoad {
	return map[string]scaleLoad{"s": {10_000, 50}, "m": {100_000, 200}, "l": {1_000_000, 500}, "xl": {3_000_000, 1000}}
}

// loadNames are the words for the loads, short and long.
var loadNames = []string{"s", "m", "l", "xl", "small", "medium", "large", "xLarge"}

func shortLoad(name string) string {
	if i := slices.Index(loadNames, name); i >= 4 {
		return loadNames[i-4]
	}
	return name
}

// checkOptions are the flags that both checks have.
type checkOptions struct {
	load    string
	prefix  string
	compact bool
	defrag  bool
	lasts   time.Duration // of perf; tests take less
}

func (o *checkOptions) bind(cmd *cobra.Command, prefix string) {
	fs := cmd.Flags()
	fs.StringVar(&o.load, "load", "s", "how hard to try: s(small), m(medium), l(large) or xl(xLarge)")
	fs.StringVar(&o.prefix, "prefix", prefix, "what the keys begin with that are written, and deleted in the end")
	fs.BoolVar(&o.compact, "auto-compact", false, "compact the store at its last revision in the end")
	fs.BoolVar(&o.defrag, "auto-defrag", false, "defragment the endpoints in the end")
	_ = cmd.RegisterFlagCompletionFunc("load", oneOf("small", "medium", "large", "xLarge")) // the flag is declared above
}

func (p *program) checkCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "check <subcommand>",
		Short:   "Measures what a cluster can take",
		GroupID: groupUtility,
	}
	perf, scale := checkOptions{lasts: perfLasts}, checkOptions{}
	perfCmd := &cobra.Command{
		Use:   "perf [options]",
		Short: "Measures whether a cluster keeps up with a load",
		Long: `Writes for a minute at a steady pace and says whether the cluster kept up: at least
90 % of the writes, none slower than 0.5 s, a standard deviation below 0.1 s.

load          s      m      l      xl
writes/s    150   1000   8000   15000
clients      50    200    500    1000

It writes real data (1 KiB a key) to the cluster that it measures: not for one
that is short of space or whose clients are sensitive.
`,
		Run: p.does(func(cmd *cobra.Command, _ []string) error { return p.checkPerf(cmd, &perf) }),
	}
	perf.bind(perfCmd, "/etcdctl-check-perf/")
	scaleCmd := &cobra.Command{
		Use:   "datascale [options]",
		Short: "Measures how much memory a server needs for more data",
		Long: `Writes data to the first endpoint, prints by how much the memory of the server
grew, as its /metrics tell, and deletes the data.

load          s        m          l          xl
keys     10,000  100,000  1,000,000   3,000,000    of 1 KiB each
clients      50      200        500        1000
`,
		Run: p.does(func(cmd *cobra.Command, _ []string) error { return p.checkScale(cmd, &scale) }),
	}
	scale.bind(scaleCmd, "/etcdctl-check-datascale/")
	group.AddCommand(perfCmd, scaleCmd)
	return group
}

// crowd is many clients of one cluster, as a load comes from.
type crowd []*clientv3.Client

func (s *session) crowd(size int) (crowd, error) {
	var all crowd
	for range size {
		c, err := s.dial(s.log.Named("client"), s.spec.Endpoints...)
		if err != nil {
			all.hangUp()
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (all crowd) hangUp() {
	for _, c := range all {
		hangUp(c)
	}
}

// empty refuses to write among keys that are there already.
func (s *session) empty(c *clientv3.Client, prefix string) error {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return s.refused(exitError, err)
	}
	if len(resp.Kvs) > 0 {
		return failf(exitInvalidInput, "prefix %q has keys. Delete with 'kvctl del --prefix %s' first", prefix, prefix)
	}
	return nil
}

// load has all clients write values under prefix, one for each token. It
// returns when the tokens end or ctx does, and every write is answered.
func (all crowd) load(ctx context.Context, tokens <-chan struct{}, prefix string, keyBytes, valueBytes int, each func()) *tally {
	t := &tally{begun: time.Now(), errors: map[string]int{}}
	value := string(make([]byte, valueBytes))
	var working sync.WaitGroup
	for _, c := range all {
		working.Go(func() {
			key := make([]byte, keyBytes)
			for range tokens {
				rand.Read(key[:8])
				begun := time.Now()
				_, err := c.Put(ctx, prefix+string(key), value)
				if ctx.Err() != nil {
					continue // not the cluster's fault
				}
				t.add(time.Since(begun), err)
				each()
			}
		})
	}
	working.Wait()
	t.took = time.Since(t.begun)
	return t
}

// tally is what a load came to.
type tally struct {
	begun time.Time
	took  time.Duration

	mu      sync.Mutex
	seconds []float64
	errors  map[string]int
}

func (t *tally) add(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.errors[err.Error()]++
		return
	}
	t.seconds = append(t.seconds, took.Seconds())
}

func (t *tally) rate() float64 { return float64(len(t.seconds)) / t.took.Seconds() }

func (t *tally) slowest() float64 {
	if len(t.seconds) == 0 {
		return 0
	}
	return slices.Max(t.seconds)
}

func (t *tally) deviation() float64 {
	if len(t.seconds) == 0 {
		return 0
	}
	var sum, squares float64
	for _, s := range t.seconds {
		sum += s
	}
	mean := sum / float64(len(t.seconds))
	for _, s := range t.seconds {
		squares += (s - mean) * (s - mean)
	}
	return math.Sqrt(squares / float64(len(t.seconds)))
}

// verdict is the report of "check perf", line by line.
func (t *tally) verdict(wanted int) (lines []string, ok bool) {
	ok = true
	say := func(good bool, pass, bad string, args ...any) {
		text := pass
		if !good {
			text, ok = bad, false
		}
		lines = append(lines, fmt.Sprintf(text, args...))
	}
	if len(t.errors) > 0 {
		lines, ok = t.complaints(), false
	}
	say(t.rate()/float64(wanted) > 0.9, "PASS: Throughput is %d writes/s", "FAIL: Throughput too low: %d writes/s", int(t.rate())+1)
	say(t.slowest() <= 0.5, "PASS: Slowest request took %fs", "Slowest request took too long: %fs", t.slowest())
	say(t.deviation() <= 0.1, "PASS: Stddev is %fs", "Stddev too high: %fs", t.deviation())
	return lines, ok
}

// complaints are the errors that came, each with how often.
func (t *tally) complaints() []string {
	lines := []string{"FAIL: too many errors"}
	for err, n := range t.errors {
		lines = append(lines, fmt.Sprintf("FAIL: ERROR(%v) -> %d", err, n))
	}
	slices.Sort(lines[1:])
	return lines
}

// cleanUp deletes what a check wrote and gives the space back if it was asked.
func (s *session) cleanUp(c *clientv3.Client, o *checkOptions) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupWithin)
	defer cancel()
	resp, err := c.Delete(ctx, o.prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("cleanup failed during key deletion, \"kvctl del --prefix %s\" does it again: %w", o.prefix, err)
	}
	if o.compact {
		if err := s.say("Compacting with revision %d", resp.Header.GetRevision()); err != nil {
			return err
		}
		if _, err := c.Compact(ctx, resp.Header.GetRevision(), clientv3.WithCompactPhysical()); err != nil {
			return err
		}
		if err := s.say("Compacted with revision %d", resp.Header.GetRevision()); err != nil {
			return err
		}
	}
	if !o.defrag {
		return nil
	}
	for _, e := range s.spec.Endpoints {
		if err := s.say("Defragmenting %q", e); err != nil {
			return err
		}
		if _, err := c.Defragment(ctx, e); err != nil {
			return err
		}
		if err := s.say("Defragmented %q", e); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) checkPerf(cmd *cobra.Command, o *checkOptions) error {
	load, ok := perfLoads()[shortLoad(o.load)]
	if !ok {
		return failf(exitBadFeature, "unknown load option %v", o.load)
	}
	s, err := p.prepare(cmd)
	if err != nil {
		return err
	}
	all, err := s.crowd(load.clients)
	if err != nil {
		return err
	}
	defer all.hangUp()
	if err := s.empty(all[0], o.prefix); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	shown := s.bar("writing", int64(o.lasts), inTime())
	tokens := paced(ctx, load.writesPerSecond, o.lasts, load.clients, func(passed time.Duration) { shown.done.Store(int64(passed)) })
	t := all.load(ctx, tokens, o.prefix, perfKeyBytes, perfValBytes, func() {})
	shown.clear()
	if err := s.cleanUp(all[0], o); err != nil {
		return s.refused(exitError, err)
	}
	if ctx.Err() != nil {
		return failf(exitError, "interrupted; what was written is deleted again")
	}
	lines, passed := t.verdict(load.writesPerSecond)
	end := map[bool]string{true: "PASS", false: "FAIL"}[passed]
	for _, l := range append(lines, end) {
		if err := p.say("%s", l); err != nil {
			return err
		}
	}
	if !passed {
		return &failure{code: exitError, hint: "disks that sync slowly are the usual reason: look at kvd's wal_fsync and backend_commit durations in /metrics; then at the network between members, and at other work on the hosts"}
	}
	return nil
}

// paced hands out tokens at a steady pace for so long; tokens that nobody
// takes in time are not made up for. The channel is closed in the end.
func paced(ctx context.Context, perSecond int, lasts time.Duration, room int, tell func(time.Duration)) <-chan struct{} {
	tokens := make(chan struct{}, room)
	go func() { // ends after lasts, or with ctx
		defer close(tokens)
		begun := time.Now()
		tick := time.NewTicker(max(time.Second/time.Duration(perSecond), time.Millisecond))
		defer tick.Stop()
		given := 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			passed := time.Since(begun)
			if passed >= lasts {
				return
			}
			tell(passed)
			for due := int(passed.Seconds() * float64(perSecond)); given < due; given++ {
				select {
				case tokens <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return tokens
}

func (p *program) checkScale(cmd *cobra.Command, o *checkOptions) error {
	load, ok := scaleLoads()[shortLoad(o.load)]
	if !ok {
		return failf(exitBadFeature, "unknown load option %v", o.load)
	}
	s, err := p.prepare(cmd)
	if err != nil {
		return err
	}
	all, err := s.crowd(load.clients)
	if err != nil {
		return err
	}
	defer all.hangUp()
	if err := s.empty(all[0], o.prefix); err != nil {
		return err
	}
	before, err := s.residentBytes()
	if err != nil {
		return failf(exitError, "could not read process_resident_memory_bytes before the put operations: %w", err)
	}
	if err := p.say("Start data scale check for work load [%v key-value pairs, %v bytes per key-value, %v concurrent clients].",
		load.keys, scaleKeyBytes+scaleValBytes, load.clients); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	shown := s.bar("writing", int64(load.keys), counting("keys"))
	t := all.load(ctx, numberOf(ctx, load.keys), o.prefix, scaleKeyBytes, scaleValBytes, func() { shown.add(1) })
	shown.clear()
	after, err := s.residentBytes()
	err = errors.Join(err, s.cleanUp(all[0], o))
	switch {
	case err != nil:
		return s.refused(exitError, err)
	case ctx.Err() != nil:
		return failf(exitError, "interrupted; what was written is deleted again")
	case len(t.errors) > 0:
		for _, l := range t.complaints() {
			if err := p.say("%s", l); err != nil {
				return err
			}
		}
		return &failure{code: exitError}
	}
	return p.say("PASS: Approximate system memory used : %.2f MB.", (after-before)/(1<<20))
}

// numberOf hands out so many tokens.
func numberOf(ctx context.Context, n int) <-chan struct{} {
	tokens := make(chan struct{})
	go func() { // ends with the last token, or with ctx
		defer close(tokens)
		for range n {
			select {
			case tokens <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return tokens
}
