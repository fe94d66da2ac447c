package robust

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// Many callers count in one key as Kubernetes updates an object: read, then
// put if the revision is still the one that was read. No count may be lost,
// and no read may be older than what was acknowledged before it began.
func TestCompareAndPutLosesNoCount(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	var known, done atomic.Int64 // counts acknowledged at least; counts in all
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const callers, each = 8, 150
	var all sync.WaitGroup
	for range callers {
		keys := pb.NewKVClient(m.Dial())
		all.Go(func() {
			for n := 0; n < each; {
				counted, err := count(ctx, keys, &known)
				if err != nil {
					t.Error(err)
					return
				}
				if counted {
					n++
					done.Add(1)
				}
			}
		})
	}
	all.Wait()
	r, err := pb.NewKVClient(m.Dial()).Range(ctx, &pb.RangeRequest{Key: []byte("count")})
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Kvs[0].Value) != strconv.FormatInt(done.Load(), 10) || r.Kvs[0].Version != done.Load() {
		t.Errorf("the count is %s, version %d, after %d counts", r.Kvs[0].Value, r.Kvs[0].Version, done.Load())
	}
}

// count tries to add one, and tells whether it was the first to.
func count(ctx context.Context, keys pb.KVClient, known *atomic.Int64) (counted bool, err error) {
	key, floor := []byte("count"), known.Load()
	r, err := keys.Range(ctx, &pb.RangeRequest{Key: key, Limit: 1})
	if err != nil {
		return false, err
	}
	value, revision := int64(0), int64(0)
	if len(r.Kvs) > 0 {
		revision = r.Kvs[0].ModRevision
		if value, err = strconv.ParseInt(string(r.Kvs[0].Value), 10, 64); err != nil {
			return false, err
		}
	}
	if value < floor {
		return false, fmt.Errorf("read %d after %d was acknowledged", value, floor)
	}
	t, err := keys.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: key, Value: strconv.AppendInt(nil, value+1, 10)},
		}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	})
	if err != nil || !t.Succeeded {
		return false, err
	}
	for was := known.Load(); was < value+1 && !known.CompareAndSwap(was, value+1); was = known.Load() {
	}
	return true, nil
}
