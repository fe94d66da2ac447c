package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const clusterSize = 3

// cluster is several processes of one subject, each a member.
type cluster struct {
	members   []*process
	profiling bool
}

// newCluster names the members of a cluster that is not started yet, each
// with a directory of its own under dir. addrs holds two for each member.
func newCluster(sub *subject, dir string, addrs []string, profiling bool) *cluster {
	c := &cluster{profiling: profiling}
	var entries []string
	for i := range len(addrs) / 2 {
		name := fmt.Sprintf("m%d", i+1)
		p := &process{subject: sub, name: name, dir: filepath.Join(dir, name), addr: addrs[2*i], peer: addrs[2*i+1]}
		entries = append(entries, p.entry())
		c.members = append(c.members, p)
	}
	for _, p := range c.members {
		p.cluster = strings.Join(entries, ",")
	}
	return c
}

// learner names one more process, that joins the cluster.
func (c *cluster) learner(dir string, addrs []string) *process {
	first := c.members[0]
	p := &process{subject: first.subject, name: "learner", dir: filepath.Join(dir, "learner"), addr: addrs[0], peer: addrs[1], joins: true}
	p.cluster = first.cluster + "," + p.entry()
	return p
}

// startCluster executes a new cluster and waits until every member serves.
// What was started is returned also with an error.
func startCluster(ctx context.Context, sub *subject, dir string, profiling bool) (*cluster, error) {
	addrs, err := freeAddrs(2 * clusterSize)
	if err != nil {
		return &cluster{}, err
	}
	c := newCluster(sub, dir, addrs, profiling)
	for _, p := range c.members {
		if err := os.Mkdir(p.dir, 0o700); err != nil {
			return c, err
		}
		if err := p.launch(profiling); err != nil {
			return c, err
		}
	}
	return c, c.ready(ctx)
}

// ready waits until every member answers a linearizable read.
func (c *cluster) ready(ctx context.Context) error {
	for _, p := range c.members {
		if _, err := p.ready(ctx, small.key(0)); err != nil {
			return err
		}
	}
	return nil
}

// kill ends all members at once.
func (c *cluster) kill() {
	for _, p := range c.members {
		if p.ended != nil {
			p.kill()
		}
	}
}

// alive returns an error for the first member that has ended by itself.
func (c *cluster) alive() error {
	for _, p := range c.members {
		select {
		case <-p.ended:
			return fmt.Errorf("%s %s ended by itself; its log ends:\n%s", p.subject.Name, p.name, p.logTail())
		default:
		}
	}
	return nil
}

// leader waits until all members name the same leader, and returns it and the
// others.
func (c *cluster) leader(ctx context.Context) (*process, []*process, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		statuses := make([]*pb.StatusResponse, len(c.members))
		var err error
		for i, p := range c.members {
			var failed error
			if statuses[i], failed = status(ctx, p); failed != nil {
				err = failed
			}
		}
		if i := leaderOf(statuses); i >= 0 {
			lead, followers := splitAt(c.members, i)
			return lead, followers, nil
		}
		if failed := pause(ctx, 10*time.Millisecond); failed != nil {
			return nil, nil, fmt.Errorf("no leader that all members name: %w", errors.Join(failed, err))
		}
	}
}

// leaderOf returns the index of the member that all call leader, or -1. A nil
// status is that of a member that did not answer.
func leaderOf(statuses []*pb.StatusResponse) int {
	lead := -1
	for i, s := range statuses {
		if s == nil || s.Leader == 0 || s.Leader != statuses[0].GetLeader() {
			return -1
		}
		if s.Header.GetMemberId() == s.Leader {
			lead = i
		}
	}
	return lead
}

// splitAt returns the member with the index, and the others in order.
func splitAt(ps []*process, i int) (*process, []*process) {
	return ps[i], append(append([]*process{}, ps[:i]...), ps[i+1:]...)
}

// status asks one member how it is.
func status(ctx context.Context, p *process) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dial(p.addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	out := reply{keep: true}
	if err := conn.Invoke(ctx, methodStatus, &request{}, &out); err != nil {
		return nil, err
	}
	var s pb.StatusResponse
	return &s, proto.Unmarshal(out.body, &s)
}

// dialAll makes n connections, spread over the processes.
func dialAll(ps []*process, n int) (conns []*grpc.ClientConn, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, f := range closers {
			f()
		}
	}
	for i := range n {
		cs, f, err := dialMany(ps[i%len(ps)].addr, 1)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		conns, closers = append(conns, cs...), append(closers, f)
	}
	return conns, closeAll, nil
}

// clusterRounds plays the works of a cluster on one subject after the other,
// again and again.
func (c *contest) clusterRounds(ctx context.Context) error {
	chosen := chosenOf(clusterWorkloads(), func(w clusterWorkload) bool { return c.options.wants(w.name) })
	if len(chosen) == 0 {
		return nil
	}
	for round := 1; round <= c.options.rounds; round++ {
		for _, sub := range c.results.Subjects {
			if sub.Name == floorName {
				continue // it has no members
			}
			if err := c.playCluster(ctx, round, sub, chosen); err != nil {
				err = fmt.Errorf("round %d on three of %s: %w", round, sub.Name, err)
				if err := c.record(ctx, measurement{Workload: "cluster", Subject: sub.Name, Round: round}, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// playCluster runs the works on a fresh cluster with fresh data.
func (c *contest) playCluster(ctx context.Context, round int, sub *subject, chosen []clusterWorkload) error {
	dir, err := os.MkdirTemp(c.dir, sub.Name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	members, err := startCluster(ctx, sub, dir, c.options.profile != "")
	defer members.kill()
	if err != nil {
		return err
	}
	if err := fill(ctx, members.members[0].addr, small); err != nil {
		return err
	}
	cs := &clusterStage{cluster: members, dir: dir, options: c.options, stage: c.stage(round)}
	for _, w := range chosen {
		m, err := cs.play(ctx, w)
		if err := c.record(ctx, measurement{w.name, sub.Name, round, m, ""}, err); err != nil {
			return err
		}
	}
	return members.alive()
}

// play runs one work, the leader being where it is now.
func (cs *clusterStage) play(ctx context.Context, w clusterWorkload) (metrics, error) {
	lead, followers, err := cs.cluster.leader(ctx)
	if err != nil {
		return nil, err
	}
	lead.role = "leader"
	for i, p := range followers {
		p.role = fmt.Sprintf("follower%d", i+1)
	}
	cs.stage.process, cs.stage.others = lead, followers
	return w.run(ctx, cs)
}
