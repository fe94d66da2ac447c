package robust

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	tenants    = 2
	leaseSpace = "lease/"
	leaseTTL   = 2 // seconds; the least that the election timeout allows
)

// A tenancy is a lease as its holder knows it: alive at least until Until.
type tenancy struct {
	ID      int64
	Key     string
	Until   time.Duration // the start of the last successful grant or renewal, and the TTL
	Renewed int
	Lost    string `json:",omitempty"` // why it is known to be gone too early
}

// A tenant takes one lease after the other, renews it a few times through any
// member, and lets it lapse.
type tenant struct {
	*rand.Rand
	load      *load
	conns     connections
	tenancies []*tenancy
}

func (n *tenant) run() {
	defer n.conns.close()
	for !n.load.over() {
		one := &tenancy{ID: n.Int64()>>1 | 1}
		one.Key = fmt.Sprintf("%s%d", leaseSpace, one.ID)
		if !n.grant(one) {
			n.load.rest(100 * time.Millisecond)
			continue
		}
		n.tenancies = append(n.tenancies, one)
		for range n.IntN(6) {
			n.load.rest(200*time.Millisecond + time.Duration(n.Int64N(int64(800*time.Millisecond))))
			if n.load.over() || !n.renew(one) {
				break
			}
		}
	}
}

// grant takes the lease and attaches its key. It may be there without the key
// if that fails, and lapses.
func (n *tenant) grant(one *tenancy) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callsEnd)
	defer cancel()
	start := n.load.now()
	r, err := pb.NewLeaseClient(n.any()).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: one.ID, TTL: leaseTTL})
	if err != nil {
		return false
	}
	one.Until = start + time.Duration(r.TTL)*time.Second
	_, err = pb.NewKVClient(n.any()).Put(ctx, &pb.PutRequest{Key: []byte(one.Key), Lease: one.ID})
	return err == nil
}

// renew keeps the lease alive, on a stream of its own, and returns whether it
// is still there as far as is known.
func (n *tenant) renew(one *tenancy) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callsEnd)
	defer cancel()
	start := n.load.now()
	stream, err := pb.NewLeaseClient(n.any()).LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(&pb.LeaseKeepAliveRequest{ID: one.ID})
	}
	if err != nil {
		return true
	}
	r, err := stream.Recv()
	if err != nil {
		return true
	}
	if r.TTL <= 0 {
		if now := n.load.now(); now < one.Until {
			one.Lost = fmt.Sprintf("said to be gone at %s", now)
		}
		return false
	}
	one.Renewed++
	one.Until = start + time.Duration(r.TTL)*time.Second
	return true
}

func (n *tenant) any() *grpc.ClientConn {
	doors := n.load.doors()
	return n.conns.to(doors[n.IntN(len(doors))])
}
