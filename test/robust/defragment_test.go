package robust

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// Puts go on all the while that a database is defragmented: from its beginning, through
// the change of files, to the end. The bench measures how much slower they are.
func TestPutsGoOnWhileADatabaseIsDefragmented(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	conn := m.Dial()
	keys := pb.NewKVClient(conn)
	const txns, ops, size = 64, 64, 16 << 10 // 64 MiB
	for i := range txns {
		var all []*pb.RequestOp
		for j := range ops {
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "fill/%d/%d", i, j), Value: make([]byte, size)}
			all = append(all, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if _, err := keys.Txn(t.Context(), &pb.TxnRequest{Success: all}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var putting sync.WaitGroup
	var acked []time.Time
	going := make(chan struct{})
	putting.Go(func() {
		for n := 0; ; n++ {
			_, err := keys.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: fmt.Append(nil, n)})
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("put %d: %v", n, err)
			}
			if acked = append(acked, time.Now()); n == 0 {
				close(going)
			}
		}
	})
	<-going
	began := time.Now()
	_, err := pb.NewMaintenanceClient(conn).Defragment(t.Context(), &pb.DefragmentRequest{})
	ended := time.Now()
	stop()
	putting.Wait()
	if err != nil {
		t.Fatal(err)
	}
	meanwhile, last, longest := 0, began, time.Duration(0)
	for _, at := range append(acked, ended) {
		if at.Before(began) || at.After(ended) {
			continue
		}
		meanwhile++
		longest, last = max(longest, at.Sub(last)), at
	}
	took := ended.Sub(began)
	t.Logf("%d puts in %v; the longest time without one was %v", meanwhile, took, longest)
	if meanwhile < 10 || longest > took/2 {
		t.Errorf("%d puts were made in the %v of a defragmentation, and none for %v of it", meanwhile, took, longest)
	}
	r, err := keys.Range(t.Context(), &pb.RangeRequest{Key: []byte("fill/"), RangeEnd: []byte("fill0"), CountOnly: true})
	if err != nil || r.Count != txns*ops {
		t.Errorf("%d keys, %v", r.GetCount(), err)
	}
}
