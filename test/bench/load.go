package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// op does one operation for one caller. An error ends the whole workload: a
// server that answers wrongly has no speed.
type op func(ctx context.Context) error

// tally is what a window of load amounted to.
type tally struct {
	ops       int64
	wall      time.Duration
	latencies []int64 // nanoseconds, sorted
}

// drive lets every op be called again and again by a caller of its own, until
// the duration has passed or the limit of operations is reached. Every
// operation begun is finished and counted before it returns.
func drive(ctx context.Context, ops []op, duration time.Duration, limit int64) (tally, error) {
	ctx, cancel := context.WithTimeout(ctx, duration+time.Minute) // a server that hangs
	defer cancel()
	var (
		callers sync.WaitGroup
		began   atomic.Int64
		stop    atomic.Bool
		failure atomic.Pointer[error]
		each    = make([][]int64, len(ops))
		start   = time.Now()
	)
	alarm := time.AfterFunc(duration, func() { stop.Store(true) })
	defer alarm.Stop()
	for i, do := range ops {
		callers.Go(func() {
			for !stop.Load() && began.Add(1) <= limit {
				at := time.Now()
				if err := do(ctx); err != nil {
					failure.CompareAndSwap(nil, &err)
					stop.Store(true)
					return
				}
				each[i] = append(each[i], int64(time.Since(at)))
			}
		})
	}
	callers.Wait()
	t := tally{wall: time.Since(start), latencies: slices.Concat(each...)}
	slices.Sort(t.latencies)
	t.ops = int64(len(t.latencies))
	if err := failure.Load(); err != nil {
		return t, fmt.Errorf("after %d operations: %w", t.ops, *err)
	}
	if t.ops == 0 {
		return t, fmt.Errorf("no operation was finished")
	}
	return t, nil
}
