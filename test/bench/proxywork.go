package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of metrics of proxies.
const (
	addedMedian   = "added_p50_us" // the latency through the proxy less that without
	addedTail     = "added_p99_us"
	directMedian  = "direct_p50_us"
	watchesBehind = "watches" // at the member, for all of the proxy's watchers
)

// proxyStage is where a work of a proxy plays. In its stage the process is the
// proxy, so that its CPU alone counts.
type proxyStage struct {
	stage
	member  string // where clients connect to the member behind it
	metrics string // URL of the member's metrics
}

// proxyWorkload is one row of the table for proxies.
type proxyWorkload struct {
	name string
	run  func(ctx context.Context, ps *proxyStage) (metrics, error)
}

func proxyWorkloads() []proxyWorkload {
	return []proxyWorkload{
		through("proxyput", 64, 8, putOp),
		through("proxyget", 64, 8, func(c caller) op { return getOp(c, false) }),
		{"proxyadds", added},
		through("proxyrange", 4, 4, rangeOp),
		{"proxywatch", watchThrough},
	}
}

// through returns a work whose callers share connections to the proxy.
func through(name string, count, conns int, build func(c caller) op) proxyWorkload {
	return proxyWorkload{name, func(ctx context.Context, ps *proxyStage) (metrics, error) {
		cs, closeAll, err := dialMany(ps.process.addr, conns)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		return ps.callers(ctx, name, cs, count, build)
	}}
}

// added lets one caller read by turns from the member and through the proxy: what
// else the machine does then befalls both alike.
func added(ctx context.Context, ps *proxyStage) (metrics, error) {
	var reads [2]op
	for i, addr := range []string{ps.member, ps.process.addr} {
		cs, closeAll, err := dialMany(addr, 1)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		reads[i] = getOp(caller{conn: cs[0], seed: ps.seed}, false)
	}
	var took [2][]int64
	both := func(ctx context.Context) error {
		for i, read := range reads {
			at := time.Now()
			if err := read(ctx); err != nil {
				return err
			}
			took[i] = append(took[i], int64(time.Since(at)))
		}
		return nil
	}
	if _, err := drive(ctx, []op{both}, ps.warm, ps.limit); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	took = [2][]int64{}
	m, err := ps.window("proxyadds", func() (tally, error) { return drive(ctx, []op{both}, ps.duration, ps.limit) })
	if err != nil {
		return nil, err
	}
	for _, each := range took {
		slices.Sort(each)
	}
	at := func(which int, p float64) float64 { return micros(time.Duration(percentile(took[which], p))) }
	m[directMedian] = at(0, 50)
	m[addedMedian] = at(1, 50) - at(0, 50)
	m[addedTail] = at(1, 99) - at(0, 99)
	return m, nil
}

// All of these watch the one key of oneKey.
const (
	proxyWatchers = 1000
	proxyConns    = 10
	proxyPuts     = 20 // a second
)

var oneKey = space{prefix: "/registry/leases/bench/lease-", n: 1, bytes: 256}

// watchThrough measures what it costs the proxy to deliver an event of one key to
// one of many watchers. The writers put at the member.
func watchThrough(ctx context.Context, ps *proxyStage) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*ps.duration+drainPatience)
	defer cancel()
	before, err := watchesAt(ctx, ps.metrics)
	if err != nil {
		return nil, err
	}
	who := crowd{proxyWatchers, proxyConns, oneKey, appendWatch(nil, oneKey.key(0), nil)}
	a, err := openAudience(ctx, ps.process.addr, who)
	if err != nil {
		return nil, err
	}
	defer a.close()
	puts := max(1, int64(proxyPuts*ps.duration.Seconds()))
	m, err := ps.audience(ctx, a, "proxywatch", ps.member, puts, proxyPuts)
	if err != nil {
		return nil, err
	}
	after, err := watchesAt(ctx, ps.metrics)
	if err != nil {
		return nil, err
	}
	m[watchesBehind] = after - before
	return m, nil
}

// watchesAt reads how many watches a member has.
func watchesAt(ctx context.Context, url string) (float64, error) {
	const name = "etcd_debugging_mvcc_watcher_total "
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), name); found {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s does not tell how many watches there are", url)
}

// proxyArgs is the command line of a proxy in front of a member.
func proxyArgs(name, member string) func(p *process, profiling bool) []string {
	return func(p *process, profiling bool) []string {
		args := []string{"grpc-proxy", "start", "--endpoints=" + member, "--listen-addr=" + p.addr, "--advertise-client-url="}
		if name == kvdName {
			args = []string{
				"--proxy=on", "--data-dir=" + filepath.Join(p.dir, "data"),
				"--proxy-endpoints=http://" + member, "--listen-client-urls=http://" + p.addr,
			}
		}
		if profiling {
			args = append(args, "--enable-pprof")
		}
		return args
	}
}

// proxyRounds plays the works of a proxy: every subject's proxy in turn, all in
// front of one member, of the first subject.
func (c *contest) proxyRounds(ctx context.Context) error {
	chosen := chosenOf(proxyWorkloads(), func(w proxyWorkload) bool { return c.options.wants(w.name) })
	subjects := chosenOf(slices.Clone(c.results.Subjects), func(s *subject) bool { return s.Name != floorName })
	if len(chosen) == 0 || len(subjects) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp(c.dir, "behind-")
	if err != nil {
		return err
	}
	member, err := subjects[0].startFilled(ctx, dir, false)
	if err != nil {
		return err
	}
	defer member.kill()
	for round := 1; round <= c.options.rounds; round++ {
		for _, sub := range subjects {
			if err := c.playProxy(ctx, round, sub, member, chosen); err != nil {
				err = fmt.Errorf("round %d through %s's proxy: %w", round, sub.Name, err)
				if err := c.record(ctx, measurement{Workload: "proxy", Subject: sub.Name, Round: round}, err); err != nil {
					return err
				}
			}
		}
	}
	_, err = member.stop()
	return err
}

// playProxy runs the works through a fresh proxy.
func (c *contest) playProxy(ctx context.Context, round int, sub *subject, member *process, chosen []proxyWorkload) (err error) {
	dir, err := os.MkdirTemp(c.dir, sub.Name+"-proxy-")
	if err != nil {
		return err
	}
	proxied := *sub
	proxied.args = proxyArgs(sub.Name, member.addr)
	p, err := proxied.start(dir, c.options.profile != "")
	if err != nil {
		return err
	}
	defer func() { // etcd's proxy knows no other end
		p.kill()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if _, err := p.ready(ctx, small.key(0)); err != nil {
		return err
	}
	ps := &proxyStage{member: member.addr, metrics: "http://" + member.addr + "/metrics", stage: c.stage(round)}
	ps.process = p
	for _, w := range chosen {
		m, err := w.run(ctx, ps)
		if err := c.record(ctx, measurement{w.name, sub.Name, round, m, ""}, err); err != nil {
			return err
		}
	}
	return nil
}
