package compat

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestClaimsNeedPermissions has users lock and campaign under names that they may
// write, and under others.
func TestClaimsNeedPermissions(t *testing.T) {
	t.Parallel()
	u := newUsers(t)
	u.prepareClaims()
	for _, who := range []string{nobody, "holder", "root"} {
		for _, name := range []string{"mine", "other"} {
			var told [2][]string
			for i, s := range u.sides {
				told[i] = claimAs(t, s, u.bearer(i, who), name)
			}
			for line := range told[0] {
				if a, b := told[0][line], told[1][line]; a != b {
					t.Errorf("%q: etcd %s; kvd %s", who, a, b)
				}
			}
		}
	}
}

// prepareClaims has a user who may write below mine/, and turns authentication on.
func (u *users) prepareClaims() {
	u.do(nobody,
		userAdd("root", "root"), roleAdd("root"), grantRole("root", "root"),
		userAdd("holder", "holder"), roleAdd("holds"), grantKeys("holds", 2, "mine/", "mine0"), grantRole("holder", "holds"),
		lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 0xa1, TTL: 600}),
		authOp("AuthEnable", &pb.AuthEnableRequest{}),
	)
	u.logIn("root", "root")
	u.logIn("holder", "holder")
}

func claimAs(t *testing.T, s *side, md metadata.MD, name string) (told []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), answerWithin)
	defer cancel()
	conn := s.member.Dial()
	locks, elections := v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	say := func(what string, err error) {
		told = append(told, fmt.Sprintf("%s %s: %s %q", what, name, status.Code(err), status.Convert(err).Message()))
	}
	lock, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: 0xa1})
	say("lock", err)
	key := lock.GetKey()
	if key == nil {
		key = []byte(name + "/a1")
	}
	_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: key})
	say("unlock", err)
	campaign, err := elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: 0xa1, Value: []byte("v")})
	say("campaign", err)
	leader := campaign.GetLeader()
	if leader == nil {
		leader = &v3electionpb.LeaderKey{Name: []byte(name), Key: []byte(name + "/a1"), Rev: 1, Lease: 0xa1}
	}
	_, err = elections.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("w")})
	say("proclaim", err)
	_, err = elections.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
	say("leader", err)
	_, err = elections.Resign(ctx, &v3electionpb.ResignRequest{Leader: leader})
	say("resign", err)
	return told
}

// TestAWaiterThatGoesLeavesNothingWithUsers is where etcd leaves the key: it
// removes it in nobody's name.
func TestAWaiterThatGoesLeavesNothingWithUsers(t *testing.T) {
	t.Parallel()
	u := newUsers(t)
	u.prepareClaims()
	kvd := u.sides[1]
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), u.bearer(1, "holder")), answerWithin)
	defer cancel()
	conn := kvd.member.Dial()
	locks, kv := v3lockpb.NewLockClient(conn), pb.NewKVClient(conn)
	if _, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("mine"), Lease: 0xa1}); err != nil {
		t.Fatal(err)
	}
	keys := func() int64 {
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("mine/"), RangeEnd: []byte("mine0"), CountOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return r.Count
	}
	wait := func(n int64) {
		t.Helper()
		for late := time.Now().Add(answerWithin); keys() != n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("%d keys, want %d", keys(), n)
			}
		}
	}
	waiting, leave := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := locks.Lock(waiting, &v3lockpb.LockRequest{Name: []byte("mine")})
		ended <- err
	}()
	wait(2)
	leave()
	if err := <-ended; err == nil {
		t.Error("the waiter has the lock")
	}
	wait(1)
}
