package oracle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// SettleWithin bounds the waits of a Cluster for what takes elections and
// heartbeats: a leader, a change of the membership that is allowed by now.
const SettleWithin = 30 * time.Second

// ClusterOptions say how a cluster is started. A zero field takes the default
// named beside it.
type ClusterOptions struct {
	Size   int                     // 3, or the number of binaries
	Token  string                  // kvd-test
	Args   []string                // more flags for each member
	Member func(i int, o *Options) // changes the options of member i, before anything runs
}

// A Cluster is several servers that know each other. The methods are for one
// goroutine, the members' own for any.
type Cluster struct {
	Members []*Member // m1, m2, … in the order they came; those removed too
	Token   string
	Args    []string // for members that come later, too

	t     testing.TB
	mu    sync.Mutex
	conns map[*Member]*clientv3.Client // one each, for our own questions
}

// StartCluster runs a new cluster, of one binary for all members or of one
// for each, and returns when all of them are ready and have found a leader.
// They are killed with the test; their logs are printed if it fails.
func StartCluster(t testing.TB, binaries []Binary, o ClusterOptions) *Cluster {
	t.Helper()
	c := LaunchCluster(t, binaries, o)
	for _, m := range c.Members {
		if err := m.Ready(ReadyWithin); err != nil {
			t.Fatalf("start of the cluster: %s: %v", m.Name, err)
		}
	}
	for _, m := range c.Members {
		c.Published(m)
	}
	return c
}

// LaunchCluster is StartCluster that waits for nothing.
func LaunchCluster(t testing.TB, binaries []Binary, o ClusterOptions) *Cluster {
	t.Helper()
	size := max(o.Size, len(binaries))
	if o.Size == 0 && len(binaries) == 1 {
		size = 3
	}
	c := &Cluster{Token: o.Token, Args: o.Args, t: t, conns: map[*Member]*clientv3.Client{}}
	options := make([]Options, size)
	var initial []string
	for i := range options {
		m := &options[i]
		*m = Options{Name: fmt.Sprintf("m%d", i+1), Token: o.Token, Args: slices.Clone(o.Args)}
		for _, url := range []*string{&m.ClientURL, &m.PeerURL} {
			*url = "http://" + FreeAddress(t)
		}
		if o.Member != nil {
			o.Member(i, m)
		}
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	for i, m := range options {
		m.Cluster = strings.Join(initial, ",")
		c.Members = append(c.Members, Launch(t, binaries[min(i, len(binaries)-1)], m))
	}
	return c
}

// Client returns a client of one member that ends with t. The client library
// retries nothing at another member, as it knows no other.
func (c *Cluster) Client(t testing.TB, i int) *clientv3.Client {
	t.Helper()
	client, err := connect(c.Members[i])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func connect(m *Member) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{m.ClientURL},
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
}

// conn is the client of our own questions to a member.
func (c *Cluster) conn(m *Member) *clientv3.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client, ok := c.conns[m]; ok {
		return client
	}
	client, err := connect(m)
	if err != nil {
		panic(fmt.Sprintf("connect to %s: %v", m.Name, err)) // nothing is dialled yet: our options are wrong
	}
	c.t.Cleanup(func() { _ = client.Close() })
	c.conns[m] = client
	return client
}

// Leader waits for a leader that runs and returns it.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	c.settle("a leader", func(ctx context.Context) error {
		var err error
		leader, err = c.leader(ctx)
		return err
	})
	return leader
}

var errNoLeader = errors.New("no member leads")

// leader asks all members at once; of two that say they lead, it is the one
// of the later term.
func (c *Cluster) leader(ctx context.Context) (*Member, error) {
	answers := c.Statuses(ctx)
	var leader *Member
	var term uint64
	for i, s := range answers {
		if s.GetLeader() != 0 && s.GetLeader() == s.GetHeader().GetMemberId() && s.GetRaftTerm() > term {
			leader, term = c.Members[i], s.GetRaftTerm()
		}
	}
	if leader == nil {
		return nil, errNoLeader
	}
	return leader, nil
}

// Statuses returns what each member answers to Status; nil for one that
// does not answer within two seconds.
func (c *Cluster) Statuses(ctx context.Context) []*pb.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answers := make([]*pb.StatusResponse, len(c.Members))
	var asked sync.WaitGroup
	for i, m := range c.Members {
		select {
		case <-m.Ended():
			continue
		default:
		}
		asked.Go(func() {
			if s, err := c.conn(m).Status(ctx, m.ClientURL); err == nil {
				answers[i] = (*pb.StatusResponse)(s)
			}
		})
	}
	asked.Wait()
	return answers
}

// AddMember adds a member through the leader, as soon as the cluster allows
// it, starts it and returns when it is ready. Options.Learner makes it a
// learner.
func (c *Cluster) AddMember(bin Binary, o Options) *Member {
	c.t.Helper()
	o = c.named(o)
	c.settle("the addition of "+o.Name, func(ctx context.Context) error {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		add := c.conn(leader).MemberAdd
		if o.Learner {
			add = c.conn(leader).MemberAddAsLearner
		}
		_, err = add(ctx, []string{o.PeerURL})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return nil // an earlier try of ours came through
		}
		return err
	})
	return c.join(bin, o)
}

// Join starts a member that somebody has added with the peer URL of o, and
// returns when it is ready.
func (c *Cluster) Join(bin Binary, o Options) *Member {
	c.t.Helper()
	return c.join(bin, c.named(o))
}

func (c *Cluster) join(bin Binary, o Options) *Member {
	c.t.Helper()
	c.settle("the member list", func(ctx context.Context) error {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		list, err := c.conn(leader).MemberList(ctx)
		if err != nil {
			return err
		}
		o.Cluster, err = initialCluster(list.Members, o)
		return err
	})
	m := Start(c.t, bin, o)
	c.Members = append(c.Members, m)
	c.Published(m)
	return m
}

// Published waits until the cluster knows the member by its name. A member of
// kvd serves clients before that.
func (c *Cluster) Published(m *Member) {
	c.t.Helper()
	c.settle("the name of "+m.Name, func(ctx context.Context) error {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		list, err := c.conn(leader).MemberList(ctx)
		if err != nil {
			return err
		}
		for _, known := range list.Members {
			if known.GetName() == m.Name {
				return nil
			}
		}
		return fmt.Errorf("%d members are known, and none by that name", len(list.Members))
	})
}

// named completes what must be known before the member starts.
func (c *Cluster) named(o Options) Options {
	c.t.Helper()
	if o.Name == "" {
		o.Name = fmt.Sprintf("m%d", len(c.Members)+1)
	}
	if o.PeerURL == "" {
		o.PeerURL = "http://" + FreeAddress(c.t)
	}
	if o.Token == "" {
		o.Token = c.Token
	}
	o.Existing = true
	o.Args = append(slices.Clone(c.Args), o.Args...)
	return o
}

// initialCluster is the flag of a member that joins those of the list.
func initialCluster(members []*pb.Member, o Options) (string, error) {
	var parts []string
	found := false
	for _, m := range members {
		name := m.GetName()
		switch {
		case slices.Contains(m.GetPeerURLs(), o.PeerURL):
			name, found = o.Name, true
		case name == "": // not started yet either; only its URLs are compared
			name = fmt.Sprintf("unstarted-%x", m.GetID())
		}
		for _, url := range m.GetPeerURLs() {
			parts = append(parts, name+"="+url)
		}
	}
	if !found {
		return "", fmt.Errorf("nobody has added a member with peer URL %s", o.PeerURL)
	}
	return strings.Join(parts, ","), nil
}

// settle tries until it goes well or the time is over.
func (c *Cluster) settle(what string, try func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), SettleWithin)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("waited %s for %s: %v", SettleWithin, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
