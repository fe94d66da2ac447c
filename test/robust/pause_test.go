package robust

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A leader that was stopped for longer than it takes to elect another does not
// know of it when it goes on. It must neither answer from what it had nor end
// leases that were renewed meanwhile. (etcd 3.7.3 sometimes ends them.)
func TestLeaderThatWasStoppedDoesNotActOnOldKnowledge(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2)
		old := c.leader()
		rest := c.others(old)
		key := []byte("pause/key")
		lease := int64(c.Uint32()) | 1
		conn := c.dial(old)
		if err := done(pb.NewLeaseClient(conn).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: lease, TTL: leaseTTL + 1})); err != nil {
			t.Fatal(err)
		}
		if err := done(pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: key, Value: []byte("old"), Lease: lease})); err != nil {
			t.Fatal(err)
		}
		end := c.holds(lease, rest)
		c.pause(old)
		c.leader(rest...)
		c.eventually("the new leader takes a write", func(ctx context.Context) error {
			return done(pb.NewKVClient(c.dial(rest[0])).Put(ctx, &pb.PutRequest{Key: key, Value: []byte("new"), Lease: lease}))
		})
		reads := c.ask(old, key)
		l.moves(rest...)
		l.lasts((leaseTTL + 2) * time.Second) // the old leader would have ended the lease by now
		c.resume(old)
		reads()
		l.moves(0, 1, 2)
		l.lasts(leaseTTL * time.Second)
		end()
		r, err := pb.NewKVClient(c.dial(rest[0])).Range(t.Context(), &pb.RangeRequest{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Kvs) != 1 {
			t.Error("a lease that was renewed all the time has ended")
		}
		if err := done(pb.NewLeaseClient(c.dial(rest[0])).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: lease})); err != nil {
			t.Error(err)
		}
	}
	l.finish()
}

// ask sends linearizable reads to a member that is stopped: they lie in its
// sockets when it goes on. The function returned waits for the answers, each of
// which must be the new value or none.
func (c *cluster) ask(member int, key []byte) (answers func()) {
	var all sync.WaitGroup
	for range 20 {
		conn := c.members[member].Dial()
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			for range 3 {
				r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: key})
				if err == nil && (len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "new") {
					c.t.Errorf("a stopped leader reads %v when it goes on", r.Kvs)
				}
			}
		})
	}
	return all.Wait
}

// holds renews a lease through the members given until the end that it
// returns.
func (c *cluster) holds(lease int64, through []int) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	for _, i := range through {
		client := pb.NewLeaseClient(c.dial(i))
		both.Go(func() {
			for ctx.Err() == nil {
				if err := renewOnce(ctx, client, lease); err != nil && ctx.Err() == nil {
					c.t.Logf("renew through member %d: %v", i, err)
				}
				time.Sleep(150 * time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		both.Wait()
	}
}

func renewOnce(ctx context.Context, client pb.LeaseClient, lease int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stream, err := client.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: lease}); err != nil {
		return err
	}
	r, err := stream.Recv()
	if err == nil && r.TTL <= 0 {
		err = fmt.Errorf("the lease is gone")
	}
	return err
}

// A follower that was stopped goes on as one: nobody is deposed for it.
func TestFollowerThatWasStoppedDeposesNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	l.moves(0, 1, 2)
	i := c.follower()
	before := c.term()
	c.pause(i)
	l.lasts(3 * election)
	c.resume(i)
	l.moves(0, 1, 2)
	if after := c.term(); after != before {
		t.Errorf("term %d, before it was stopped %d", after, before)
	}
	l.finish()
}

// term is the one that the members agree on.
func (c *cluster) term() uint64 {
	c.t.Helper()
	s, err := c.status(context.Background(), c.leader())
	if err != nil {
		c.t.Fatal(err)
	}
	return s.RaftTerm
}
