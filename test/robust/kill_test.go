package robust

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// rounds is how often a test of a cluster repeats its fault.
func rounds(t *testing.T) int { return number(t, "KVD_ROBUST_ROUNDS", 1) }

func TestClusterSurvivesKillOfAnyMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	for range rounds(t) {
		for _, i := range c.Perm(3) {
			l.moves(0, 1, 2)
			c.kill(i)
			l.moves(c.others(i)...)
			c.launch(i)
		}
	}
	l.moves(0, 1, 2)
	l.finish()
}

func TestClusterSurvivesKillOfItsLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 5})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2, 3, 4)
		first := c.leader()
		c.kill(first)
		l.moves(c.others(first)...)
		second := c.leader()
		c.kill(second)
		l.moves(c.others(first, second)...) // three of five
		c.launch(first)
		c.launch(second)
	}
	l.moves(0, 1, 2, 3, 4)
	l.finish()
}

func TestClusterSurvivesKillOfAllAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3, args: []string{"--snapshot-count=300"}})
	l := c.load()
	for range 1 + rounds(t) {
		l.moves(0, 1, 2)
		c.kill(0, 1, 2)
		for _, i := range c.Perm(3) {
			c.launch(i)
		}
	}
	l.moves(0, 1, 2)
	l.finish()
}

// Each member begins its life anew in turn, and in the end none of the first
// ones is left. Every other one comes as a learner.
func TestMembersAreReplacedWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	for old := range 3 {
		c.replace(l, old, old%2 == 1)
	}
	l.finish()
}

// replace removes a member, which must end by itself and in order, and adds
// one with a fresh directory.
func (c *cluster) replace(l *load, old int, learner bool) {
	c.t.Helper()
	ctx := context.Background()
	rest := c.others(old)
	l.moves(rest...)
	status, err := c.status(ctx, old)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.members[old].gone, c.members[old].up = true, false
	c.mu.Unlock()
	through := pb.NewClusterClient(c.dial(rest[c.IntN(len(rest))]))
	c.eventually(fmt.Sprintf("member %d is removed", old), func(ctx context.Context) error {
		return done(through.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: status.Header.MemberId}))
	})
	exit, err := c.members[old].Wait(healsIn)
	if err != nil {
		c.t.Fatalf("removed member: %v", err)
	}
	if !exit.InOrder() {
		c.t.Errorf("removed member ended with %s", exit)
	}
	l.moves(rest...)

	fresh := &seat{options: c.settle(len(c.members))}
	var id uint64
	c.eventually("a member is added", func(ctx context.Context) error {
		r, err := through.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{fresh.options.PeerURL}, IsLearner: learner})
		if err == nil {
			id = r.Member.ID
		}
		return err
	})
	i := len(c.members)
	c.mu.Lock()
	c.members = append(c.members, fresh)
	c.mu.Unlock()
	fresh.options.Cluster = c.names()
	fresh.options.Existing = true
	c.launch(i)
	if learner {
		c.eventually("the learner is promoted", func(ctx context.Context) error {
			return done(through.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id}))
		})
	}
	l.moves(c.others()...)
}

// done drops an answer of which only the error is wanted.
func done[Answer any](_ Answer, err error) error { return err }
