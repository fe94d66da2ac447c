package main

import (
	"context"
	"fmt"
	"os"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

const defragName = "defrag"

// Names of metrics of a defragmentation.
const (
	idleTail      = "idle_p99_us"
	tailOfIdle    = "p99_of_idle"         // p99 while it is defragmented, over p99 while idle
	compactOfIdle = "compact_p99_of_idle" // the same of a compaction
	compactWall   = "compact_s"
	defragWall    = "defrag_s"
)

// idlePerMiB makes the time in which the idle store is looked at about as long as
// its defragmentation takes. What comes seldom, as a collection of garbage every
// half minute, belongs to both or to neither.
const idlePerMiB = 45 * time.Millisecond

// defragSpace is the store that is defragmented. All of it is copied, whether
// there is anything to gain or not.
func defragSpace(mib int) space {
	s := learnerSpace(mib)
	s.prefix = "/registry/secrets/defrag/secret-"
	return s
}

// defrags measures each subject in turn, on a store of its own.
func (c *contest) defrags(ctx context.Context) error {
	for round := 1; round <= c.options.rounds; round++ {
		for _, sub := range c.results.Subjects {
			if sub.Name == floorName {
				continue // it keeps nothing
			}
			m, err := c.defrag(ctx, round, sub)
			if err := c.record(ctx, measurement{defragName, sub.Name, round, m, ""}, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// defrag fills a new server, and puts at a steady pace: first alone, then while
// the server defragments its store.
func (c *contest) defrag(ctx context.Context, round int, sub *subject) (metrics, error) {
	dir, err := os.MkdirTemp(c.dir, "defrag-"+sub.Name+"-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := sub.start(dir, c.options.profile != "")
	if err != nil {
		return nil, err
	}
	defer p.kill()
	if _, err := p.ready(ctx, small.key(0)); err != nil {
		return nil, err
	}
	keys := defragSpace(c.options.defragMB)
	if err := fill(ctx, p.addr, keys); err != nil {
		return nil, err
	}
	keys.n /= 4 // of which a past remains, for the compaction
	if err := fill(ctx, p.addr, keys); err != nil {
		return nil, err
	}
	if err := pause(ctx, c.options.settle); err != nil {
		return nil, err
	}
	idle := max(c.options.duration, idlePerMiB*time.Duration(c.options.defragMB))
	m, err := p.defragment(ctx, idle, uint64(round), c.profiler(round))
	if err != nil {
		return nil, err
	}
	_, err = p.stop()
	return m, err
}

// defragment compares puts on an idle server with those during a compaction, and
// those during one defragmentation.
func (p *process) defragment(ctx context.Context, idle time.Duration, seed uint64, profile profiler) (metrics, error) {
	conns, closeAll, err := dialAll([]*process{p}, meanwhileCallers)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	plain, err := dialPlain(p.addr)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	alone, err := meanwhile(ctx, conns, seed, patientPut, func(ctx context.Context) error { return pause(ctx, idle) })
	if err != nil {
		return nil, fmt.Errorf("idle: %w", err)
	}
	var compacted time.Duration
	compacting, err := meanwhile(ctx, conns, seed+2, patientPut, func(ctx context.Context) (err error) {
		compacted, err = compactOnce(ctx, plain)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("while it compacts: %w", err)
	}
	before, err := usageOf(p.pid())
	if err != nil {
		return nil, err
	}
	profiled := profile.begin(p, defragName, idle)
	defer profiled()
	var wall time.Duration
	busy, err := meanwhile(ctx, conns, seed+1, patientPut, func(ctx context.Context) (err error) {
		wall, err = defragmentOnce(ctx, plain)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("while it defragments: %w", err)
	}
	after, err := usageOf(p.pid())
	if err != nil {
		return nil, err
	}
	idleAt, busyAt := float64(percentile(alone, 99)), float64(percentile(busy, 99))
	return metrics{
		"ops":          float64(len(busy)),
		idleTail:       idleAt / 1e3,
		latencyTail:    busyAt / 1e3,
		latencyMedian:  float64(percentile(busy, 50)) / 1e3,
		tailOfIdle:     busyAt / idleAt,
		defragWall:     wall.Seconds(),
		compactOfIdle:  float64(percentile(compacting, 99)) / idleAt,
		compactWall:    compacted.Seconds(),
		"defrag_cpu_s": (after.CPU - before.CPU).Seconds(),
	}, nil
}

// compactOnce compacts to the present, and returns when what is past is removed.
func compactOnce(ctx context.Context, conn *grpc.ClientConn) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	keys := pb.NewKVClient(conn)
	now, err := keys.Range(ctx, &pb.RangeRequest{Key: []byte{0}})
	if err != nil {
		return 0, err
	}
	at := time.Now()
	_, err = keys.Compact(ctx, &pb.CompactionRequest{Revision: now.Header.Revision, Physical: true})
	return time.Since(at), err
}

func defragmentOnce(ctx context.Context, conn *grpc.ClientConn) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	at := time.Now()
	_, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{})
	return time.Since(at), err
}

// patientPut is putOp for a server that stands still while it defragments, as
// etcd does: a put that times out has taken that long, and the next is tried.
func patientPut(c caller) op {
	put := putOp(c)
	return func(ctx context.Context) error {
		err := put(ctx)
		if code := grpcstatus.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
			return nil
		}
		return err
	}
}
