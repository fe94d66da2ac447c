// Command bench runs kvd and etcd in turn on one machine, under the same load
// from one generator, and prints how they compare: throughput, latency,
// the server's CPU time per operation and its memory. It is no stress test:
// it checks only samples of the answers, so that a server that answers
// garbage is not called fast. README.md beside it says how to use it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == limitCommand {
		return serveLimit(args[1:])
	}
	o, err := parseOptions(args, os.Stderr)
	if err != nil {
		return err
	}
	if o.from != "" {
		r, err := loadResults(o.from)
		if err != nil {
			return err
		}
		return o.show(r)
	}
	// The generator has little garbage; collecting it less often leaves more
	// of the machine to the server. NB: servers do not inherit this.
	debug.SetGCPercent(400)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	r, err := measure(ctx, o, os.Stderr)
	if r != nil {
		err = errors.Join(err, r.save(o.out), o.show(r))
	}
	if err == nil && len(r.faults()) > 0 {
		err = fmt.Errorf("%d measurements failed, see above", len(r.faults()))
	}
	return err
}

// show prints the results, and puts them into the document.
func (o *options) show(r *results) error {
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if o.markdown == "" {
		return nil
	}
	document, err := os.ReadFile(o.markdown)
	if err != nil {
		return err
	}
	text, err := intoDocument(string(document), r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", o.markdown, err)
	}
	return os.WriteFile(o.markdown, []byte(text), 0o644)
}

// contest is one run of the program.
type contest struct {
	options options
	dir     string // of all data, removed at the end
	results *results
	log     io.Writer
}

// measure runs everything that was asked for. What was found until an error
// is returned with it.
func measure(ctx context.Context, o options, log io.Writer) (*results, error) {
	base := o.dir
	if base == "" {
		base = "/var/tmp" // unlike /tmp, never in memory
	}
	dir, err := os.MkdirTemp(base, "kvd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return nil, err
		}
	}
	c := contest{options: o, dir: dir, log: log, results: &results{Began: time.Now(), Options: o.String()}}
	if c.results.Machine, err = describe(dir); err != nil {
		return nil, err
	}
	if err := c.gather(); err != nil {
		return nil, err
	}
	err = c.rounds(ctx)
	if err == nil {
		err = c.clusterRounds(ctx)
	}
	if err == nil && o.wants(defragName) {
		err = c.defrags(ctx)
	}
	if err == nil {
		err = c.proxyRounds(ctx)
	}
	if err == nil && o.wants(restartName) {
		err = c.restarts(ctx)
	}
	c.results.Took = time.Since(c.results.Began).Round(time.Second).String()
	return c.results, err
}

// gather finds the subjects.
func (c *contest) gather() error {
	for _, b := range []struct{ name, path string }{{etcdName, c.options.etcd}, {kvdName, c.options.kvd}} {
		if b.path == "" {
			continue
		}
		sub, err := newSubject(b.name, b.path)
		if err != nil {
			return err
		}
		c.results.Subjects = append(c.results.Subjects, sub)
	}
	if c.options.limit {
		sub, err := limitSubject()
		if err != nil {
			return err
		}
		c.results.Subjects = append(c.results.Subjects, sub)
	}
	return nil
}

// record keeps a measurement, or the fault in its place. Only the end of the
// contest's context ends the contest.
func (c *contest) record(ctx context.Context, m measurement, err error) error {
	if err != nil {
		m.Metrics, m.Fault = nil, err.Error()
	}
	c.results.Measurements = append(c.results.Measurements, m)
	fmt.Fprintf(c.log, "round %d  %-6s %-10s %s\n", m.Round, m.Subject, m.Workload, m.summary())
	return ctx.Err()
}

func (m *measurement) summary() string {
	if m.Fault != "" {
		return "FAULT: " + m.Fault
	}
	if wall, ok := m.Metrics["start_wall_s"]; ok {
		return fmt.Sprintf("start %s, resident %s", figure("_s", wall), figure("_mb", m.Metrics[residentAfter]))
	}
	if gap, ok := m.Metrics[failOver]; ok {
		return fmt.Sprintf("fail-over %s, at most %s", figure("_us", gap), figure("_us", m.Metrics[failOverMax]))
	}
	if wall, ok := m.Metrics[caughtUp]; ok {
		return fmt.Sprintf("caught up in %s, puts p99 %s", figure("_s", wall), figure("_us", m.Metrics[latencyTail]))
	}
	if ratio, ok := m.Metrics[tailOfIdle]; ok {
		return fmt.Sprintf("puts p99 %s idle, %s meanwhile (%.2f), defragmented in %s",
			figure("_us", m.Metrics[idleTail]), figure("_us", m.Metrics[latencyTail]), ratio, figure("_s", m.Metrics[defragWall]))
	}
	own, ok := m.Metrics[generatorCPU]
	if !ok {
		own = math.NaN()
	}
	return fmt.Sprintf("%s an op, %s (generator %s)", figure("_us", m.Metrics[cpuPerOp]),
		figure("_per_s", m.Metrics[opsPerSecond]), figure("_us", own))
}

// rounds plays the workloads on one subject after the other, again and again.
func (c *contest) rounds(ctx context.Context) error {
	chosen := chosenOf(workloads(), func(w workload) bool {
		needsTool := w.name == "toolput" || w.name == "toolrange"
		return c.options.wants(w.name) && (!needsTool || c.options.tool != "")
	})
	if len(chosen) == 0 {
		return nil
	}
	for round := 1; round <= c.options.rounds; round++ {
		for _, sub := range c.results.Subjects {
			if err := c.play(ctx, round, sub, chosen); err != nil {
				err = fmt.Errorf("round %d on %s: %w", round, sub.Name, err)
				if err := c.record(ctx, measurement{Workload: "round", Subject: sub.Name, Round: round}, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// play runs the workloads on a fresh server with fresh data.
func (c *contest) play(ctx context.Context, round int, sub *subject, chosen []workload) error {
	dir, err := os.MkdirTemp(c.dir, sub.Name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := sub.startFilled(ctx, dir, c.options.profile != "")
	if err != nil {
		return err
	}
	defer p.kill()
	st := c.stage(round)
	st.process = p
	for _, w := range chosen {
		if sub.Name == floorName && beyondLimit(w) {
			continue
		}
		m, err := w.run(ctx, &st)
		if err := c.record(ctx, measurement{w.name, sub.Name, round, m, ""}, err); err != nil {
			return err
		}
	}
	_, err = p.stop()
	return err
}

// chosenOf are the works that are wanted, in order.
func chosenOf[W any](works []W, wanted func(W) bool) []W {
	return slices.DeleteFunc(works, func(w W) bool { return !wanted(w) })
}

// stage is where a work of a round plays, but for the process.
func (c *contest) stage(round int) stage {
	return stage{
		duration: c.options.duration,
		warm:     c.options.duration / 5,
		limit:    2_000_000,
		seed:     uint64(round),
		profile:  c.profiler(round),
		tool:     c.options.tool,
	}
}

func (c *contest) profiler(round int) profiler {
	return profiler{dir: c.options.profile, round: round, log: c.log}
}

// startFilled executes a server and gives it the keys of small and large.
func (s *subject) startFilled(ctx context.Context, dir string, profiling bool) (*process, error) {
	p, err := s.start(dir, profiling)
	if err != nil {
		return nil, err
	}
	if _, err = p.ready(ctx, small.key(0)); err == nil {
		err = fill(ctx, p.addr, small)
	}
	if err == nil {
		err = fill(ctx, p.addr, large)
	}
	if err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// restarts fills every subject once, then starts them again in turn.
func (c *contest) restarts(ctx context.Context) error {
	var trials []*trial
	for _, sub := range c.results.Subjects {
		if sub.Name == floorName {
			continue // it keeps nothing
		}
		t := &trial{
			subject: sub,
			dir:     filepath.Join(c.dir, "restart-"+sub.Name),
			keys:    space{prefix: "/registry/pods/restart/pod-", n: c.options.fillKeys, bytes: 256},
			settle:  c.options.settle,
			profile: c.profiler(0),
		}
		if err := os.Mkdir(t.dir, 0o700); err != nil {
			return err
		}
		m, err := t.first(ctx)
		if err := c.record(ctx, measurement{"fill", sub.Name, 1, m, ""}, err); err != nil {
			return err
		}
		if err == nil {
			trials = append(trials, t)
		}
	}
	for round := 1; round <= c.options.rounds; round++ {
		for _, t := range trials {
			t.profile.round = round
			m, err := t.again(ctx)
			if err := c.record(ctx, measurement{"restart", t.subject.Name, round, m, ""}, err); err != nil {
				return err
			}
		}
	}
	return nil
}
