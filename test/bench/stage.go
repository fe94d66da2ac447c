package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
)

// The keys that every server holds before the first workload.
var (
	small = space{prefix: "/registry/pods/bench/pod-", n: 100_000, bytes: 256}
	large = space{prefix: "/registry/configmaps/bench/map-", n: 10_000, bytes: 512}
)

// metrics are the figures of one workload in one round, by name; the unit is
// the end of the name.
type metrics map[string]float64

// Names of metrics. "cpu" is the server's alone.
const (
	cpuPerOp      = "cpu_us_per_op"
	generatorCPU  = "generator_cpu_us_per_op"
	opsPerSecond  = "ops_per_s"
	latencyMedian = "p50_us"
	latencyTail   = "p99_us"
	writtenPerOp  = "written_bytes_per_op"
	residentAfter = "rss_mb"
	anonAfter     = "rss_anon_mb"
	fileAfter     = "rss_file_mb"
)

// stage is where a workload plays: a ready server and how long to load it.
type stage struct {
	process  *process   // where callers connect, unless the workload says otherwise
	others   []*process // the rest of its cluster
	duration time.Duration
	warm     time.Duration
	limit    int64 // of operations
	seed     uint64
	profile  profiler
	tool     string // path of etcd's benchmark, or empty
}

// workload is one row of the table.
type workload struct {
	name  string // for -only and the results
	title string
	run   func(ctx context.Context, st *stage) (metrics, error)
}

// window runs f between two readings of the clocks and returns the figures
// for the operations that f did. f starts the work and waits for all of it.
func (st *stage) window(workload string, f func() (tally, error)) (metrics, error) {
	for _, p := range st.servers() {
		profiled := st.profile.begin(p, workload, st.duration)
		defer profiled()
	}
	before, err := usageOfAll(st.servers())
	if err != nil {
		return nil, err
	}
	own, err := cpuClock(os.Getpid())
	if err != nil {
		return nil, err
	}
	t, err := f()
	if err != nil {
		return nil, err
	}
	ownAfter, err := cpuClock(os.Getpid())
	if err != nil {
		return nil, err
	}
	after, err := usageOfAll(st.servers())
	if err != nil {
		return nil, err
	}
	mem, err := memoryOf(st.process.pid())
	if err != nil {
		return nil, err
	}
	ops := float64(t.ops)
	m := metrics{
		"ops":        ops,
		"wall_s":     t.wall.Seconds(),
		opsPerSecond: ops / t.wall.Seconds(),
		cpuPerOp:     micros(after.CPU-before.CPU) / ops,
		generatorCPU: micros(ownAfter-own) / ops,
		writtenPerOp: float64(after.WriteBytes-before.WriteBytes) / ops,
	}
	m.addMemory(mem)
	if len(t.latencies) > 0 {
		m[latencyMedian] = micros(time.Duration(percentile(t.latencies, 50)))
		m[latencyTail] = micros(time.Duration(percentile(t.latencies, 99)))
	}
	return m, nil
}

// servers are all whose CPU time counts.
func (st *stage) servers() []*process { return append([]*process{st.process}, st.others...) }

// usageOfAll adds up what the processes have consumed.
func usageOfAll(ps []*process) (usage, error) {
	var sum usage
	for _, p := range ps {
		u, err := usageOf(p.pid())
		if err != nil {
			return usage{}, err
		}
		sum.CPU += u.CPU
		sum.WriteBytes += u.WriteBytes
	}
	return sum, nil
}

func (m metrics) addMemory(mem memory) {
	const mb = 1e6
	m[residentAfter] = float64(mem.Resident) / mb
	m[anonAfter] = float64(mem.Anon) / mb
	m[fileAfter] = float64(mem.File) / mb
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// callers returns the run of a workload in which so many callers, on so many
// connections, each repeat an operation of their own.
func callers(name, title string, count, conns int, build func(c caller) op) workload {
	return workload{name, title, func(ctx context.Context, st *stage) (metrics, error) {
		cs, closeAll, err := dialMany(st.process.addr, conns)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		return st.callers(ctx, name, cs, count, build)
	}}
}

// secureCallers is callers over TLS.
func secureCallers(name, title string, count, conns int, build func(c caller) op) workload {
	return workload{name, title, func(ctx context.Context, st *stage) (metrics, error) {
		cs, closeAll, err := many(conns, func() (*grpc.ClientConn, error) { return dialTLS(st.process.secure) })
		if err != nil {
			return nil, err
		}
		defer closeAll()
		return st.callers(ctx, name, cs, count, build)
	}}
}

// callers lets so many callers share the connections evenly.
func (st *stage) callers(ctx context.Context, name string, cs []*grpc.ClientConn, count int, build func(c caller) op) (metrics, error) {
	ops := make([]op, count)
	for i := range ops {
		ops[i] = build(caller{conn: cs[i%len(cs)], id: i, seed: st.seed})
	}
	if _, err := drive(ctx, ops, st.warm, st.limit); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	return st.window(name, func() (tally, error) { return drive(ctx, ops, st.duration, st.limit) })
}

// caller is what an operation is built from.
type caller struct {
	conn *grpc.ClientConn
	id   int
	seed uint64
}
