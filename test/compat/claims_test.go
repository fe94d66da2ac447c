package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

// claims is a conversation with the services Election and Lock of one server,
// written down in its own words but for what differs between servers.
type claims struct {
	t        *testing.T
	ctx      context.Context
	kv       pb.KVClient
	lease    pb.LeaseClient
	lock     v3lockpb.LockClient
	election v3electionpb.ElectionClient
	told     []string
}

// TestElectionAndLockAreEtcds holds one conversation with both servers.
func TestElectionAndLockAreEtcds(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	var told [2][]string
	for i, m := range []*oracle.Member{judge, judged} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*answerWithin)
		defer cancel()
		conn := m.Dial()
		c := &claims{
			t: t, ctx: ctx, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn),
			lock: v3lockpb.NewLockClient(conn), election: v3electionpb.NewElectionClient(conn),
		}
		c.locks()
		c.elections()
		c.oddities()
		told[i] = c.told
	}
	if len(told[0]) < 40 {
		t.Errorf("the conversation has only %d lines", len(told[0]))
	}
	for i := range max(len(told[0]), len(told[1])) {
		line := func(of []string) string {
			if i < len(of) {
				return of[i]
			}
			return "nothing"
		}
		if a, b := line(told[0]), line(told[1]); a != b {
			t.Fatalf("line %d\n  etcd: %s\n  kvd:  %s\nafter\n  %s", i, a, b, strings.Join(told[0][max(0, i-5):i], "\n  "))
		}
	}
}

func (c *claims) say(format string, args ...any) {
	c.told = append(c.told, fmt.Sprintf(format, args...))
}

// answer writes down what an RPC came to.
func (c *claims) answer(what string, h *pb.ResponseHeader, rest any, err error) {
	if err != nil {
		c.say("%s: %s %q", what, status.Code(err), status.Convert(err).Message())
		return
	}
	if h.GetMemberId() == 0 || h.GetClusterId() == 0 || h.GetRaftTerm() == 0 {
		c.say("%s: a header that is not whole: %v", what, h)
	}
	c.say("%s: at %d: %v", what, h.GetRevision(), rest)
}

func (c *claims) grant(id int64) {
	if _, err := c.lease.LeaseGrant(c.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 600}); err != nil {
		c.t.Fatal(err)
	}
}

// keys writes down what lies under a prefix.
func (c *claims) keys(prefix string) []*mvccpb.KeyValue {
	r, err := c.kv.Range(c.ctx, &pb.RangeRequest{
		Key: []byte(prefix), RangeEnd: []byte(prefix[:len(prefix)-1] + "0"), SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Kvs
}

// settle waits until n keys lie under a prefix, and writes them down.
func (c *claims) settle(prefix string, n int) {
	c.t.Helper()
	for late := time.Now().Add(answerWithin); len(c.keys(prefix)) != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			c.t.Fatalf("%d keys under %s, want %d", len(c.keys(prefix)), prefix, n)
		}
	}
	for _, kv := range c.keys(prefix) {
		c.say("%s = %q, lease %x, created at %d, modified at %d", kv.Key, kv.Value, kv.Lease, kv.CreateRevision, kv.ModRevision)
	}
}

// claiming makes a call that waits, and returns when its key is the nth under
// the prefix, with what hands over the answer.
func (c *claims) claiming(ctx context.Context, prefix string, n int, call func(context.Context) string) (answer func()) {
	done := make(chan string, 1)
	go func() { done <- call(ctx) }()
	c.settle(prefix, n)
	return func() {
		select {
		case line := <-done:
			c.say("%s", line)
		case <-c.ctx.Done():
			c.t.Error("a waiter has not been answered")
		}
	}
}

func (c *claims) locks() {
	lock := func(name string, lease int64) {
		r, err := c.lock.Lock(c.ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
		c.answer(fmt.Sprintf("lock %q for %x", name, lease), r.GetHeader(), string(r.GetKey()), err)
	}
	unlock := func(key string) {
		r, err := c.lock.Unlock(c.ctx, &v3lockpb.UnlockRequest{Key: []byte(key)})
		c.answer("unlock "+key, r.GetHeader(), "", err)
	}
	waiting := func(lease int64) func(context.Context) string {
		return func(ctx context.Context) string {
			r, err := c.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
			// The revision at which a waiter reads its key is a race in etcd.
			return fmt.Sprintf("lock for %x: %q %s %q", lease, r.GetKey(), status.Code(err), status.Convert(err).Message())
		}
	}
	for id := int64(0xa1); id <= 0xa5; id++ {
		c.grant(id)
	}
	lock("l", 0xa1)
	lock("l", 0xa1)
	lock("l", 0xdead)
	lock("", 0xa1)
	lock("a/b", 0xa1)
	second := c.claiming(c.ctx, "l/", 2, waiting(0xa2))
	gone, cancel := context.WithCancel(c.ctx)
	third := c.claiming(gone, "l/", 3, waiting(0xa3))
	fourth := c.claiming(c.ctx, "l/", 4, waiting(0xa4))
	fifth := c.claiming(c.ctx, "l/", 5, waiting(0xa5))
	cancel()
	third()
	c.settle("l/", 4)
	if _, err := c.lease.LeaseRevoke(c.ctx, &pb.LeaseRevokeRequest{ID: 0xa4}); err != nil {
		c.t.Fatal(err)
	}
	c.settle("l/", 3)
	unlock("l/a1")
	second()
	unlock("l/a2")
	fifth()
	fourth() // in etcd it hears only now
	unlock("l/a5")
	unlock("l/a5")
	unlock("")
	c.settle("l/", 0)
}

func (c *claims) elections() {
	campaign := func(lease int64, value string) {
		r, err := c.election.Campaign(c.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)})
		l := r.GetLeader()
		c.answer(fmt.Sprintf("campaign of %x", lease), r.GetHeader(), fmt.Sprintf("%s %s %d %x", l.GetName(), l.GetKey(), l.GetRev(), l.GetLease()), err)
	}
	leader := func(name string) {
		r, err := c.election.Leader(c.ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
		c.answer("leader of "+name, r.GetHeader(), fmt.Sprintf("%s %s", r.GetKv().GetKey(), r.GetKv().GetValue()), err)
	}
	holding := func(lease int64) *v3electionpb.LeaderKey {
		key := fmt.Sprintf("e/%x", lease)
		for _, kv := range c.keys("e/") {
			if string(kv.Key) == key {
				return &v3electionpb.LeaderKey{Name: []byte("e"), Key: kv.Key, Rev: kv.CreateRevision, Lease: lease}
			}
		}
		c.t.Fatalf("no %s", key)
		return nil
	}
	proclaim := func(l *v3electionpb.LeaderKey, value string) {
		r, err := c.election.Proclaim(c.ctx, &v3electionpb.ProclaimRequest{Leader: l, Value: []byte(value)})
		c.answer("proclaim "+value, r.GetHeader(), "", err)
	}
	resign := func(l *v3electionpb.LeaderKey) {
		r, err := c.election.Resign(c.ctx, &v3electionpb.ResignRequest{Leader: l})
		c.answer("resign", r.GetHeader(), "", err)
	}
	for id := int64(0xb1); id <= 0xb3; id++ {
		c.grant(id)
	}
	leader("e")
	heard := c.observe("e")
	campaign(0xb1, "one")
	heard()
	leader("e")
	campaign(0xb1, "one")
	campaign(0xb1, "other")
	heard()
	campaign(0xdead, "x")
	first := holding(0xb1)
	proclaim(first, "news")
	heard()
	waiting := func(lease int64) func(context.Context) string {
		return func(ctx context.Context) string {
			r, err := c.election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: fmt.Appendf(nil, "%x", lease)})
			return fmt.Sprintf("campaign of %x: %s at %d %s", lease, r.GetLeader().GetKey(), r.GetHeader().GetRevision(), status.Code(err))
		}
	}
	gone, cancel := context.WithCancel(c.ctx)
	second := c.claiming(gone, "e/", 2, waiting(0xb2))
	third := c.claiming(c.ctx, "e/", 3, waiting(0xb3))
	cancel()
	second()
	c.settle("e/", 2)
	leader("e")
	resign(first)
	third()
	heard()
	resign(first)
	proclaim(first, "late")
	leader("e")
	resign(holding(0xb3))
	leader("e")
}

// observe begins to observe; what it returns writes down what is heard next.
func (c *claims) observe(name string) (heard func()) {
	s, err := c.election.Observe(c.ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
	if err != nil {
		c.t.Fatal(err)
	}
	return func() {
		r, err := s.Recv()
		c.answer("observe", r.GetHeader(), fmt.Sprintf("%s %s", r.GetKv().GetKey(), r.GetKv().GetValue()), err)
	}
}

func (c *claims) oddities() {
	c.grant(0xc1)
	for _, l := range []*v3electionpb.LeaderKey{
		nil,
		{},
		{Name: []byte("e"), Key: []byte("e/c1"), Rev: 1, Lease: 0xc1},
		{Name: []byte("e"), Key: []byte("e/c1"), Lease: 0xc1}, // a key that is not there was created at 0
		{Name: []byte("e"), Key: []byte("e/c2"), Lease: 0xdead},
	} {
		p, err := c.election.Proclaim(c.ctx, &v3electionpb.ProclaimRequest{Leader: l, Value: []byte("v")})
		c.answer(fmt.Sprintf("proclaim with %v", l), p.GetHeader(), "", err)
		r, err := c.election.Resign(c.ctx, &v3electionpb.ResignRequest{Leader: l})
		c.answer(fmt.Sprintf("resign with %v", l), r.GetHeader(), "", err)
	}
	// A caller without a lease gets one, of a minute.
	r, err := c.lock.Lock(c.ctx, &v3lockpb.LockRequest{Name: []byte("own")})
	c.answer("lock without a lease", r.GetHeader(), len(r.GetKey()) > len("own/"), err)
	for _, kv := range c.keys("own/") {
		ttl, err := c.lease.LeaseTimeToLive(c.ctx, &pb.LeaseTimeToLiveRequest{ID: kv.Lease})
		c.say("its key is its lease %v, of %d s (%v)", string(kv.Key) == fmt.Sprintf("own/%x", kv.Lease), ttl.GetGrantedTTL(), err)
	}
	// A call that has a deadline ends with it.
	late, cancel := context.WithTimeout(c.ctx, 300*time.Millisecond)
	defer cancel()
	_, err = c.lock.Lock(late, &v3lockpb.LockRequest{Name: []byte("own"), Lease: 0xc1})
	c.say("lock with a deadline: %s", status.Code(err))
	for late := time.Now().Add(answerWithin); len(c.keys("own/")) != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			c.t.Fatal("a waiter that is late stays")
		}
	}
}

// TestWaitersLeaveNoLeaseBehind is where kvd does more than etcd, which keeps the
// lease that it has granted for the waiter.
func TestWaitersLeaveNoLeaseBehind(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	conn := m.Dial()
	lock, leases := v3lockpb.NewLockClient(conn), pb.NewLeaseClient(conn)
	if _, err := lock.Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("l")}); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		r, err := leases.LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Leases)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
		ended <- err
	}()
	wait := func(n int) {
		t.Helper()
		for late := time.Now().Add(answerWithin); count() != n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("%d leases, want %d", count(), n)
			}
		}
	}
	wait(2)
	cancel()
	if err := <-ended; err == nil {
		t.Error("a waiter that was cancelled has the lock")
	}
	wait(1)
}

// TestALockHoldsAcrossMembers has waiters on every member of a cluster.
func TestALockHoldsAcrossMembers(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, []oracle.Binary{target(t)}, oracle.ClusterOptions{Size: 3})
	ctx, cancel := context.WithTimeout(t.Context(), 2*oracle.SettleWithin)
	defer cancel()
	const rounds = 5
	type turn struct{ member, round int }
	var holders atomic.Int32
	turns := make(chan turn, rounds*len(c.Members))
	done := make(chan error, len(c.Members))
	for i, m := range c.Members {
		lock := v3lockpb.NewLockClient(m.Dial())
		go func() {
			done <- func() error {
				for round := range rounds {
					r, err := lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
					if err != nil {
						return err
					}
					if n := holders.Add(1); n != 1 {
						return fmt.Errorf("%d hold the lock", n)
					}
					turns <- turn{i, round}
					holders.Add(-1)
					if _, err := lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: r.Key}); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range c.Members {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	close(turns)
	next := map[int]int{}
	for one := range turns {
		if next[one.member] != one.round {
			t.Errorf("member %d has turn %d, want %d", one.member, one.round, next[one.member])
		}
		next[one.member]++
	}
}

// TestAnObserverHearsTheLast is told of a leader that is there already, and hears
// the end of the server.
func TestAnObserverHearsTheLast(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	e := v3electionpb.NewElectionClient(m.Dial())
	if _, err := e.Campaign(t.Context(), &v3electionpb.CampaignRequest{Name: []byte("e"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	s, err := e.Observe(t.Context(), &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || string(r.Kv.Value) != "v" {
		t.Fatalf("heard %v, %v", r, err)
	}
	m.Stop()
	if _, err := s.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the end of the server is %v", err)
	}
}
