package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

const (
	putsPerTxn = 100
	fillers    = 4
	// After the fill come so many single puts: the log then ends as on an
	// ordinary day, and not in ten thousand transactions of 30 kB each, which
	// no client writes and which a start would have to read again.
	tailPuts = 20_000
)

// fill puts all numbers of the space, a hundred at a time.
func fill(ctx context.Context, addr string, s space) error {
	conns, closeAll, err := dialMany(addr, 2)
	if err != nil {
		return err
	}
	defer closeAll()
	batches := (s.n + putsPerTxn - 1) / putsPerTxn
	var next atomic.Int64
	ops := make([]op, fillers)
	for i := range ops {
		u := unary{conn: conns[i%len(conns)], method: methodTxn, sample: 64, least: 4}
		ops[i] = func(ctx context.Context) error {
			first := int(next.Add(1)-1) * putsPerTxn
			u.in.bytes = appendPuts(u.in.bytes[:0], s, first, min(first+putsPerTxn, s.n))
			return u.call(ctx, func(body []byte) error {
				var r pb.TxnResponse
				if err := proto.Unmarshal(body, &r); err != nil {
					return err
				}
				if !r.Succeeded || len(r.Responses) == 0 {
					return fmt.Errorf("transaction of puts: succeeded %t, %d responses", r.Succeeded, len(r.Responses))
				}
				return nil
			})
		}
	}
	if _, err := drive(ctx, ops, 10*time.Minute, int64(batches)); err != nil {
		return fmt.Errorf("fill %d keys: %w", s.n, err)
	}
	return nil
}

// putSome puts so many numbers of the space one by one, with 64 callers.
func putSome(ctx context.Context, addr string, s space, count int) error {
	conns, closeAll, err := dialMany(addr, 8)
	if err != nil {
		return err
	}
	defer closeAll()
	var next atomic.Int64
	ops := make([]op, 64)
	for i := range ops {
		u := unary{conn: conns[i%len(conns)], method: methodPut, sample: sampleSmall, least: 4}
		ops[i] = func(ctx context.Context) error {
			number := int(next.Add(1)-1) % s.n
			u.in.bytes = appendPut(u.in.bytes[:0], s.key(number), s.value(number))
			return u.call(ctx, func([]byte) error { return nil })
		}
	}
	_, err = drive(ctx, ops, 10*time.Minute, int64(count))
	return err
}

// trial is the restart of one subject with many keys.
type trial struct {
	subject *subject
	dir     string
	keys    space
	settle  time.Duration // before memory is read
	profile profiler
}

// first fills a new data directory and stops the server again.
func (t *trial) first(ctx context.Context) (metrics, error) {
	return t.run(ctx, func(p *process) (metrics, error) {
		at := time.Now()
		if err := fill(ctx, p.addr, t.keys); err != nil {
			return nil, err
		}
		if err := putSome(ctx, p.addr, t.keys, tailPuts); err != nil {
			return nil, err
		}
		m := metrics{"fill_s": time.Since(at).Seconds()}
		u, err := usageOf(p.pid())
		if err != nil {
			return nil, err
		}
		m["fill_cpu_s"] = u.CPU.Seconds()
		return m, nil
	})
}

// again starts the server on the filled directory and stops it.
func (t *trial) again(ctx context.Context) (metrics, error) {
	return t.run(ctx, func(p *process) (metrics, error) {
		u, err := usageOf(p.pid())
		if err != nil {
			return nil, err
		}
		return metrics{"start_cpu_s": u.CPU.Seconds()}, t.check(ctx, p)
	})
}

// run starts the server, lets f use it, and reads its memory when it has
// settled.
func (t *trial) run(ctx context.Context, f func(p *process) (metrics, error)) (metrics, error) {
	p, err := t.subject.start(t.dir, t.profile.on())
	if err != nil {
		return nil, err
	}
	defer p.kill()
	wall, err := p.ready(ctx, t.keys.key(t.keys.n-1))
	if err != nil {
		return nil, err
	}
	m, err := f(p)
	if err != nil {
		return nil, err
	}
	m["start_wall_s"] = wall.Seconds()
	if err := pause(ctx, t.settle); err != nil {
		return nil, err
	}
	mem, err := memoryOf(p.pid())
	if err != nil {
		return nil, err
	}
	m.addMemory(mem)
	m["rss_peak_mb"] = float64(mem.Peak) / 1e6
	t.profile.heap(p, "memory")
	stop, err := p.stop()
	if err != nil {
		return nil, err
	}
	m["stop_s"] = stop.Seconds()
	bytes, err := diskUsage(filepath.Join(t.dir, "data"))
	if err != nil {
		return nil, err
	}
	m["data_dir_mb"] = float64(bytes) / 1e6
	return m, nil
}

// check reads after a restart what was there before it.
func (t *trial) check(ctx context.Context, p *process) error {
	conn, err := dial(p.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	out := reply{keep: true}
	for _, number := range []int{0, t.keys.n / 2, t.keys.n - 1} {
		if err := conn.Invoke(ctx, methodRange, &request{appendRange(nil, t.keys.key(number), nil, 0, false)}, &out); err != nil {
			return err
		}
		if err := checkGet(out.body, t.keys, number); err != nil {
			return fmt.Errorf("after a restart: %w", err)
		}
	}
	if err := conn.Invoke(ctx, methodRange, &request{appendCount(nil, []byte(t.keys.prefix), t.keys.end())}, &out); err != nil {
		return err
	}
	var r pb.RangeResponse
	if err := proto.Unmarshal(out.body, &r); err != nil {
		return err
	}
	if r.Count != int64(t.keys.n) {
		return fmt.Errorf("after a restart: %d keys, of %d that were put", r.Count, t.keys.n)
	}
	return nil
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// diskUsage adds up the sizes of the files under dir.
func diskUsage(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}
