package robust

import (
	"context"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The leader and one more are cut off from three others.
func TestMinorityNeitherWritesNorReadsLinearizably(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 5, net: newNetwork(t, 5)})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2, 3, 4)
		leader := c.leader()
		few := []int{leader, (leader + 1) % 5}
		many := c.others(few...)
		c.net.split(few, many)
		l.moves(many...)
		var asked sync.WaitGroup
		for _, i := range few {
			asked.Go(func() { c.refuses(i) })
			get := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
			if err := done(pb.NewKVClient(c.dial(i)).Range(t.Context(), get)); err != nil {
				t.Errorf("serializable read of member %d in the minority: %v", i, err)
			}
		}
		asked.Wait()
		l.moves(many...)
		c.net.heal()
	}
	l.moves(0, 1, 2, 3, 4)
	l.finish()
}

// refuses checks that a member without a quorum does not answer what needs
// one.
func (c *cluster) refuses(i int) {
	c.t.Helper()
	kv := pb.NewKVClient(c.dial(i))
	ctx, cancel := context.WithTimeout(context.Background(), 2*election)
	defer cancel()
	if r, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err == nil {
		c.t.Errorf("member %d reads without a quorum: %v", i, r)
	}
	ctx, cancel = context.WithTimeout(context.Background(), election)
	defer cancel()
	if r, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("refused")}); err == nil {
		c.t.Errorf("member %d writes without a quorum: %v", i, r)
	}
}

// No side has three of five. Nobody may go on; afterwards all do.
func TestWithoutMajorityNobodyWrites(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 5, net: newNetwork(t, 5)})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2, 3, 4)
		p := c.Perm(5)
		c.net.split(p[:2], p[2:4], p[4:])
		l.lasts(callsEnd) // calls that were half done are over
		before := l.writes()
		l.lasts(2 * election)
		if after := l.writes(); after != before {
			t.Errorf("%d writes were acknowledged without a majority", after-before)
		}
		c.net.heal()
	}
	l.moves(0, 1, 2, 3, 4)
	l.finish()
}

// writes is how many were acknowledged.
func (l *load) writes() (n int64) {
	for i := range l.acked {
		n += l.acked[i].Load()
	}
	return n
}

// Two sides of two do not see each other; the fifth sees all. There is a
// majority, and it stays with one leader.
func TestBridgeBetweenTwoSidesKeepsOneLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 5, net: newNetwork(t, 5)})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2, 3, 4)
		p := c.Perm(5)
		c.net.split(p[:2], p[3:])
		l.moves(p[2])
		l.lasts(election)
		before, err := c.status(t.Context(), p[2])
		if err != nil {
			t.Fatal(err)
		}
		l.lasts(4 * election)
		after, err := c.status(t.Context(), p[2])
		if err != nil {
			t.Fatal(err)
		}
		if before.Leader != 0 && before.RaftTerm != after.RaftTerm {
			t.Errorf("the sides depose each other's leaders: term %d, then %d", before.RaftTerm, after.RaftTerm)
		}
		l.moves(p[2])
		c.net.heal()
	}
	l.moves(0, 1, 2, 3, 4)
	l.finish()
}

// A leader that is not heard, or does not hear, gives way to another.
func TestOneWayCutOfTheLeaderIsSurvived(t *testing.T) {
	for name, turn := range map[string]func(leader, other int) [2]int{
		"its words are lost": func(leader, other int) [2]int { return [2]int{leader, other} },
		"it hears nothing":   func(leader, other int) [2]int { return [2]int{other, leader} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, plan{size: 3, net: newNetwork(t, 3)})
			l := c.load()
			for range rounds(t) {
				l.moves(0, 1, 2)
				leader := c.leader()
				rest := c.others(leader)
				for _, other := range rest {
					c.net.cut(turn(leader, other))
				}
				l.moves(rest...)
				c.net.heal()
			}
			l.moves(0, 1, 2)
			l.finish()
		})
	}
}

// A follower of which one other does not hear: the rest must not suffer.
func TestCutBetweenFollowersIsHardlyNoticed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3, net: newNetwork(t, 3)})
	l := c.load()
	l.moves(0, 1, 2)
	rest := c.others(c.leader())
	before := c.term()
	c.net.split(rest[:1], rest[1:])
	l.lasts(3 * election)
	l.moves(0, 1, 2)
	if after := c.term(); after != before {
		t.Errorf("term %d, before the cut %d", after, before)
	}
	c.net.heal()
	l.finish()
}
