package replica

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/state"
)

// BenchmarkPut is 64 callers who put 256 bytes each, as fast as they are
// answered, with everything synced. cpu-ns/op is what the process spent.
func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) { benchmarkPut(b, callers) })
	}
}

func benchmarkPut(b *testing.B, callers int) {
	h := newHome(b)
	h.options = Options{}
	h.wal.SegmentBytes = 0
	var syncs atomic.Int64
	h.wal.OnFsync = func(time.Duration) { syncs.Add(1) }
	r := h.start(b)
	value := make([]byte, 256)
	r.mustPut("k", "v")
	raws := make([][]byte, 10_000)
	for i := range raws {
		raw, err := proto.Marshal(&pb.PutRequest{Key: fmt.Appendf(nil, "key-%08d", i), Value: value})
		must(b, err)
		raws[i] = raw
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	synced := syncs.Load()
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				raw := raws[i%int64(len(raws))]
				put, err := state.DecodePut(raw)
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := r.Propose(context.Background(), &state.Request{Put: put}, raw); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/float64(syncs.Load()-synced), "puts/sync")
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
