package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Names of metrics of clusters.
const (
	failOver    = "fail_over_p50_us" // from the kill to the next acknowledged put
	failOverMax = "fail_over_max_us"
	caughtUp    = "catch_up_s" // from the learner's start until it serves the last key
)

// clusterStage is where a work of a cluster plays. In its stage the process
// is the leader, the others are the followers.
type clusterStage struct {
	stage
	cluster *cluster
	dir     string // for more members
	options options
}

// clusterWorkload is one row of the table for clusters.
type clusterWorkload struct {
	name string
	run  func(ctx context.Context, cs *clusterStage) (metrics, error)
}

// clusterWorkloads are the works, in the order in which they are played on
// one cluster. The learner comes last, since it leaves much data.
func clusterWorkloads() []clusterWorkload {
	linear := func(c caller) op { return getOp(c, false) }
	return []clusterWorkload{
		spread("put3", 64, 9, (*clusterStage).servers, putOp),
		spread("put3x512", 512, 24, (*clusterStage).servers, putOp),
		spread("get3", 64, 8, func(cs *clusterStage) []*process { return cs.others }, linear),
		{"failover", failOvers},
		{"learner", catchUp},
	}
}

// servers are all members, the leader first.
func (cs *clusterStage) servers() []*process { return cs.stage.servers() }

// spread returns a work whose callers share connections to some members.
func spread(name string, count, conns int, to func(cs *clusterStage) []*process, build func(c caller) op) clusterWorkload {
	return clusterWorkload{name, func(ctx context.Context, cs *clusterStage) (metrics, error) {
		all, closeAll, err := dialAll(to(cs), conns)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		return cs.callers(ctx, name, all, count, build)
	}}
}

// failOvers kills the leader, whoever it is, again and again.
func failOvers(ctx context.Context, cs *clusterStage) (metrics, error) {
	var gaps []int64
	for range cs.options.kills {
		lead, followers, err := cs.cluster.leader(ctx)
		if err != nil {
			return nil, err
		}
		gap, err := killOne(ctx, lead, followers)
		if err != nil {
			return nil, err
		}
		gaps = append(gaps, int64(gap))
		if err := lead.launch(cs.cluster.profiling); err != nil {
			return nil, err
		}
		if err := cs.cluster.ready(ctx); err != nil {
			return nil, err
		}
		// What the start has left to do shall not fall into the next gap.
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	slices.Sort(gaps)
	return metrics{
		"ops":       float64(len(gaps)),
		failOver:    micros(time.Duration(percentile(gaps, 50))),
		failOverMax: micros(time.Duration(gaps[len(gaps)-1])),
	}, nil
}

// killOne kills the leader and returns how long no put was acknowledged.
func killOne(ctx context.Context, lead *process, followers []*process) (time.Duration, error) {
	conns, closeAll, err := dialAll(followers, len(followers))
	if err != nil {
		return 0, err
	}
	defer closeAll()
	put := func(ctx context.Context, conn *grpc.ClientConn) error {
		return conn.Invoke(ctx, methodPut, &request{appendPut(nil, small.key(0), small.value(0))}, &reply{})
	}
	for _, conn := range conns { // connected before the clock runs
		if err := put(ctx, conn); err != nil {
			return 0, err
		}
	}
	at := time.Now()
	lead.kill()
	gap, err := firstOf(ctx, 5*time.Millisecond, len(conns), func(ctx context.Context, i int) error {
		return put(ctx, conns[i])
	})
	return gap.Sub(at), err
}

// firstOf begins a try on each of n targets, again at every interval, whether
// or not those before have ended: one that hangs shall not hide that
// another would succeed. It returns when the first succeeded. It gives up
// after a minute.
func firstOf(ctx context.Context, every time.Duration, n int, try func(ctx context.Context, i int) error) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	var tries sync.WaitGroup
	defer tries.Wait()
	defer cancel()
	done := make(chan time.Time, 1)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		for i := range n {
			tries.Go(func() {
				if try(ctx, i) != nil {
					return
				}
				select {
				case done <- time.Now():
				default: // another was first
				}
			})
		}
		select {
		case at := <-done:
			return at, nil
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("nothing succeeded: %w", ctx.Err())
		case <-ticks.C:
		}
	}
}

// learnerSpace is the data that a learner catches up.
func learnerSpace(mib int) space {
	const value = 1 << 10
	return space{prefix: "/registry/secrets/learner/secret-", n: mib << 20 / value, bytes: value}
}

// Puts while a learner catches up.
const (
	meanwhileCallers = 16
	meanwhilePerS    = 320 // together: what leaves the machine air
)

// catchUp fills the cluster and lets a new learner join it.
func catchUp(ctx context.Context, cs *clusterStage) (metrics, error) {
	keys := learnerSpace(cs.options.learnerMB)
	if err := fill(ctx, cs.process.addr, keys); err != nil {
		return nil, err
	}
	// More entries than a leader keeps in its log: the learner needs a snapshot.
	if err := putSome(ctx, cs.process.addr, keys, tailPuts); err != nil {
		return nil, err
	}
	if err := pause(ctx, cs.options.settle); err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	p := cs.cluster.learner(cs.dir, addrs)
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, err
	}
	if err := addLearner(ctx, cs.process, p); err != nil {
		return nil, err
	}
	conns, closeAll, err := dialAll(cs.servers(), meanwhileCallers)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	before, err := usageOfAll(cs.servers())
	if err != nil {
		return nil, err
	}
	if err := p.launch(false); err != nil {
		return nil, err
	}
	defer p.kill()
	var wall time.Duration
	latencies, err := meanwhile(ctx, conns, cs.seed, putOp, func(ctx context.Context) (err error) {
		wall, err = p.serves(ctx, keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := usageOfAll(append(cs.servers(), p))
	if err != nil {
		return nil, err
	}
	return metrics{
		"ops":            float64(len(latencies)),
		caughtUp:         wall.Seconds(),
		"catch_up_cpu_s": (after.CPU - before.CPU).Seconds(),
		latencyMedian:    micros(time.Duration(percentile(latencies, 50))),
		latencyTail:      micros(time.Duration(percentile(latencies, 99))),
	}, nil
}

// addLearner announces the process; refusals are tried again for a while,
// since members that have just met refuse changes.
func addLearner(ctx context.Context, lead, p *process) error {
	conn, err := dial(lead.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	add := request{appendAddLearner(nil, "http://"+p.peer)}
	for try := 0; ; try++ {
		err := conn.Invoke(ctx, methodMemberAdd, &add, &reply{})
		if err == nil {
			return nil
		}
		if try == 30 {
			return fmt.Errorf("add a learner: %w", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// serves waits until a learner has the last key of the space, checks that it
// has all, and returns the time since its start until the first.
func (p *process) serves(ctx context.Context, keys space) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	conn, err := dial(p.addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	last := request{appendRange(nil, keys.key(keys.n-1), nil, 0, true)}
	out := reply{keep: true}
	for {
		err := conn.Invoke(ctx, methodRange, &last, &out)
		if err == nil && out.n >= keys.bytes {
			wall := time.Since(p.started)
			return wall, p.complete(ctx, conn, keys, out.body)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s's learner has not caught up: %w (last answer: %w)", p.subject.Name, ctx.Err(), err)
		case <-p.ended:
			return 0, fmt.Errorf("%s's learner ended; its log ends:\n%s", p.subject.Name, p.logTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// complete checks the last key's answer and the number of keys.
func (p *process) complete(ctx context.Context, conn *grpc.ClientConn, keys space, last []byte) error {
	if err := checkGet(last, keys, keys.n-1); err != nil {
		return err
	}
	out := reply{keep: true}
	count := request{appendInt(appendCount(nil, []byte(keys.prefix), keys.end()), 7, 1)} // serializable
	if err := conn.Invoke(ctx, methodRange, &count, &out); err != nil {
		return err
	}
	var r pb.RangeResponse
	if err := proto.Unmarshal(out.body, &r); err != nil {
		return err
	}
	if r.Count != int64(keys.n) {
		return fmt.Errorf("the learner has %d keys of %d", r.Count, keys.n)
	}
	return nil
}

// meanwhile calls at a steady pace over the connections until f returns, and
// returns the sorted latencies. Each counts from when the put was due: a put
// that waits for the one before it is late too.
func meanwhile(ctx context.Context, conns []*grpc.ClientConn, seed uint64, build func(c caller) op, f func(ctx context.Context) error) ([]int64, error) {
	running, stop := context.WithCancel(ctx)
	var (
		callers sync.WaitGroup
		each    = make([][]int64, len(conns))
		faults  = make([]error, len(conns))
		every   = time.Second * time.Duration(len(conns)) / meanwhilePerS
		start   = time.Now()
	)
	for i, conn := range conns {
		put := build(caller{conn: conn, id: i, seed: seed})
		offset := every * time.Duration(i) / time.Duration(len(conns))
		callers.Go(func() {
			each[i], faults[i] = paced(running, start.Add(offset), every, func() error { return put(ctx) })
		})
	}
	err := f(ctx)
	stop()
	callers.Wait()
	for _, fault := range faults {
		if err == nil {
			err = fault
		}
	}
	latencies := slices.Concat(each...)
	slices.Sort(latencies)
	if err == nil && len(latencies) == 0 {
		err = fmt.Errorf("no put was due meanwhile")
	}
	return latencies, err
}

// paced does f at first and then at every interval, one after the other,
// until ctx ends, and returns how long after it was due each was done.
func paced(ctx context.Context, first time.Time, every time.Duration, f func() error) ([]int64, error) {
	var took []int64
	for due := first; ; due = due.Add(every) {
		if pause(ctx, time.Until(due)) != nil {
			return took, nil
		}
		if err := f(); err != nil {
			return took, err
		}
		took = append(took, int64(time.Since(due)))
	}
}
