package mixed

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// patience is how long a test waits for what must happen.
const patience = 40 * time.Second

// often makes snapshots of the log and of the database frequent.
var often = []string{"--snapshot-count=50", "--snapshot-catchup-entries=20"}

// seats turns "eek" into two etcds and a kvd.
func seats(t *testing.T, text string) (all []oracle.Binary) {
	for _, s := range text {
		all = append(all, kind(t, s))
	}
	return all
}

func kind(t *testing.T, letter rune) oracle.Binary {
	if letter == 'e' {
		return oracle.Etcd(t)
	}
	return oracle.Kvd(t)
}

// live are the numbers of the members that run.
func live(c *oracle.Cluster) (all []int) {
	for i, m := range c.Members {
		select {
		case <-m.Ended():
		default:
			all = append(all, i)
		}
	}
	return all
}

// eventually tries until it goes well.
func eventually(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// agree compares the hashes of all members at one revision.
func agree(t *testing.T, c *oracle.Cluster) {
	t.Helper()
	which := live(c)
	var hashes []*clientv3.HashKVResponse
	eventually(t, "the members come to one revision", func(ctx context.Context) error {
		first, err := c.Client(t, which[0]).Get(ctx, "x")
		if err != nil {
			return err
		}
		hashes = hashes[:0]
		for _, i := range which {
			client := c.Client(t, i)
			if _, err := client.Get(ctx, "x"); err != nil { // it has all that is acknowledged
				return err
			}
			h, err := client.HashKV(ctx, c.Members[i].ClientURL, first.Header.Revision)
			if err != nil {
				return err
			}
			hashes = append(hashes, h)
		}
		for _, h := range hashes {
			if h.CompactRevision != hashes[0].CompactRevision {
				return errors.New("a compaction lies between the hashes")
			}
		}
		return nil
	})
	for at, h := range hashes {
		if h.Hash != hashes[0].Hash {
			t.Errorf("at %d member %d has hash %d, member %d has %d", h.HashRevision, which[at], h.Hash, which[0], hashes[0].Hash)
		}
	}
}

// lead hands leadership to a member.
func lead(t *testing.T, c *oracle.Cluster, to int) {
	t.Helper()
	eventually(t, fmt.Sprintf("member %d leads", to), func(ctx context.Context) error {
		statuses := c.Statuses(ctx)
		if statuses[to] == nil {
			return errors.New("it does not answer")
		}
		id := statuses[to].Header.MemberId
		if statuses[to].Leader == id {
			return nil
		}
		for i, s := range statuses {
			if s != nil && s.Leader == s.Header.MemberId {
				if _, err := c.Client(t, i).MoveLeader(ctx, id); err != nil {
					return err
				}
			}
		}
		return errors.New("somebody else leads")
	})
}

// Members of both kinds, each of them leading in turn, under load.
func TestMembersOfBothKindsAgreeAtEveryRevision(t *testing.T) {
	for _, text := range []string{"eek", "ekk"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			c := oracle.StartCluster(t, seats(t, text), oracle.ClusterOptions{Args: often})
			l := begin(t, c)
			for i := range c.Members {
				lead(t, c, i)
				for range 3 {
					l.moves(60)
					agree(t, c)
				}
			}
			l.finish()
		})
	}
}

// A lease is granted, renewed and asked for through members of either kind, and
// ends in time on all.
func TestLeasesAreKeptThroughMembersOfEitherKind(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, seats(t, "eek"), oracle.ClusterOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for leader := range c.Members {
		lead(t, c, leader)
		granted, err := c.Client(t, (leader+1)%3).Grant(ctx, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client(t, leader).Put(ctx, "held", "", clientv3.WithLease(granted.ID)); err != nil {
			t.Fatal(err)
		}
		for i := range c.Members {
			client := c.Client(t, i)
			if r, err := client.KeepAliveOnce(ctx, granted.ID); err != nil || r.TTL != 100 {
				t.Errorf("member %d leads, renewed through %d: %v, %v", leader, i, r, err)
			}
			r, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
			if err != nil || r.TTL < 95 || r.GrantedTTL != 100 || len(r.Keys) != 1 {
				t.Errorf("member %d leads, asked through %d: %v, %v", leader, i, r, err)
			}
			if r, err := client.TimeToLive(ctx, 1); err != nil || r.TTL != -1 {
				t.Errorf("a lease that is not there, through %d: %v, %v", i, r, err)
			}
			if _, err := client.KeepAliveOnce(ctx, 1); err == nil {
				t.Errorf("a lease that is not there was renewed through %d", i)
			}
		}
		if _, err := c.Client(t, (leader+2)%3).Revoke(ctx, granted.ID); err != nil {
			t.Error(err)
		}
		short, err := c.Client(t, (leader+2)%3).Grant(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client(t, leader).Put(ctx, "short", "", clientv3.WithLease(short.ID)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the lease ends", func(ctx context.Context) error {
			r, err := c.Client(t, (leader+1)%3).Get(ctx, "short")
			if err == nil && len(r.Kvs) > 0 {
				err = errors.New("it is still there")
			}
			return err
		})
	}
	agree(t, c)
}

// A member that was down for longer than the log reaches back is sent a
// snapshot, by a leader of either kind.
func TestMemberFarBehindIsSentASnapshotByEitherKind(t *testing.T) {
	for _, text := range []string{"eek", "ekk"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			c := oracle.StartCluster(t, seats(t, text), oracle.ClusterOptions{Args: often})
			l := begin(t, c)
			for behind, m := range c.Members {
				for _, leader := range []int{(behind + 1) % 3, (behind + 2) % 3} {
					lead(t, c, leader)
					l.change(m.Stop)
					l.moves(150)
					l.change(m.Relaunch)
					if err := m.Ready(patience); err != nil {
						t.Fatalf("member %d behind %d: %v", behind, leader, err)
					}
					agree(t, c)
				}
			}
			l.finish()
		})
	}
}

// A learner of either kind joins and is promoted, by a leader of either kind.
func TestLearnersOfEitherKindGetAVoteFromEitherKind(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, seats(t, "eke"), oracle.ClusterOptions{Args: often})
	l := begin(t, c)
	for _, joins := range []struct {
		kind    rune
		leader  int
		through int
	}{{'k', 0, 1}, {'e', 1, 2}} {
		l.moves(100)
		lead(t, c, joins.leader)
		var m *oracle.Member
		l.change(func() { m = c.AddMember(kind(t, joins.kind), oracle.Options{Learner: true}) })
		number := len(c.Members) - 1
		status, err := c.Client(t, number).Status(t.Context(), m.ClientURL)
		if err != nil || !status.IsLearner {
			t.Fatalf("learner %d: %v, %v", number, status, err)
		}
		eventually(t, "the learner gets its vote", func(ctx context.Context) error {
			_, err := c.Client(t, joins.through).MemberPromote(ctx, status.Header.MemberId)
			return err
		})
		agree(t, c)
		lead(t, c, number)
		l.moves(50)
	}
	l.finish()
}
