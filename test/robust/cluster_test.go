package robust

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kvd/test/oracle"
)

const (
	// heartbeat and election are short, so that a test sees many terms, and
	// long enough for two busy cores.
	heartbeat = 100 * time.Millisecond
	election  = time.Second

	// healsIn bounds how long a cluster that has its quorum may be without a
	// leader, or a member behind the others.
	healsIn = 40 * time.Second
)

// A cluster is some servers that are members of one another, each a process.
// What changes them is for the test's goroutine; clients only read which there
// are.
type cluster struct {
	*rand.Rand
	t    *testing.T
	bin  oracle.Binary
	seed int
	plan

	mu      sync.Mutex
	members []*seat // never shrinks: a number means the same member for ever
}

// A plan is what a cluster is to be.
type plan struct {
	size  int
	net   *network                       // nil: all on loopback
	args  []string                       // more flags
	place func(i int, o *oracle.Options) // changes a member's options; nil: it does not
}

// A seat is a member's place: its name, addresses and directory, and the
// process that is there now.
type seat struct {
	*oracle.Member
	options oracle.Options
	life    int  // how often it was started
	up      bool // its process runs and is not stopped
	gone    bool // no longer a member
}

// newCluster starts the members and returns when each has served a read.
func newCluster(t *testing.T, p plan) *cluster {
	t.Helper()
	seed := number(t, "KVD_ROBUST_SEED", int(rand.Uint32()))
	t.Logf("KVD_ROBUST_SEED=%d go test -run '^%s$' ./robust", seed, strings.ReplaceAll(t.Name(), "/", "$/^"))
	c := &cluster{
		Rand: rand.New(rand.NewPCG(uint64(seed), 0)), t: t, bin: judged(t), seed: seed, plan: p,
	}
	for range p.size {
		c.members = append(c.members, &seat{options: c.settle(len(c.members))})
	}
	for _, s := range c.members {
		s.options.Cluster = c.names()
	}
	for i := range c.members {
		c.launch(i)
	}
	for i := range c.members {
		c.serves(i)
	}
	return c
}

// settle chooses a new member's name, addresses and directory.
func (c *cluster) settle(i int) oracle.Options {
	o := oracle.Options{
		Name: fmt.Sprintf("m%d", i+1), DataDir: filepath.Join(c.t.TempDir(), "data"),
		Args: append([]string{
			fmt.Sprintf("--heartbeat-interval=%d", heartbeat.Milliseconds()),
			fmt.Sprintf("--election-timeout=%d", election.Milliseconds()),
		}, c.args...),
	}
	if c.place != nil {
		c.place(i, &o)
	}
	if c.net != nil {
		if c.net.wire != nil {
			c.net.wire.seed(uint64(c.seed))
		}
		c.net.place(i, &o)
		return o
	}
	o.ClientURL, o.PeerURL = "http://"+oracle.FreeAddress(c.t), "http://"+oracle.FreeAddress(c.t)
	return o
}

// names is the initial cluster of those that are members.
func (c *cluster) names() string {
	var all []string
	for _, s := range c.members {
		if !s.gone {
			all = append(all, s.options.Name+"="+s.options.PeerURL)
		}
	}
	return strings.Join(all, ",")
}

// launch starts a member's process and does not wait for it.
func (c *cluster) launch(i int) {
	c.t.Helper()
	s := c.members[i]
	m := oracle.Launch(c.t, c.bin, s.options)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Member, s.up = m, true
	s.life++
}

// kill ends members as kill -9 does, all before it waits for one.
func (c *cluster) kill(which ...int) {
	var all sync.WaitGroup
	for _, i := range which {
		all.Go(c.members[i].Kill)
	}
	all.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range which {
		c.members[i].up = false
	}
}

// pause stops a member's process; it knows nothing of the time that passes.
func (c *cluster) pause(i int) {
	c.t.Helper()
	if err := c.members[i].Pause(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[i].up = false
}

func (c *cluster) resume(i int) {
	c.t.Helper()
	if err := c.members[i].Resume(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[i].up = true
}

// A door is a member as clients see it.
type door struct {
	*oracle.Member
	number int
	life   int
}

// doors returns all that are members, dead or alive.
func (c *cluster) doors() []door {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []door
	for i, s := range c.members {
		if !s.gone && s.Member != nil {
			all = append(all, door{s.Member, i, s.life})
		}
	}
	return all
}

// running returns the members whose processes run.
func (c *cluster) running() (which []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range c.members {
		if s.up && !s.gone {
			which = append(which, i)
		}
	}
	return which
}

// eventually asks until the answer is yes, and fails the test if that takes
// too long.
func (c *cluster) eventually(what string, ask func(ctx context.Context) error) {
	c.t.Helper()
	if err := within(healsIn, ask); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// within asks until there is no error any more or the time is over.
func within(limit time.Duration, ask func(ctx context.Context) error) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err := ask(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// serves waits until a member answers a linearizable read.
func (c *cluster) serves(i int) {
	c.t.Helper()
	conn := c.dial(i)
	defer conn.Close()
	c.eventually(fmt.Sprintf("member %d serves", i), func(ctx context.Context) error {
		select {
		case <-c.members[i].Ended():
			c.t.Fatalf("member %d has ended", i)
		default:
		}
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		return err
	})
}

// dial connects to a member; the connection comes back soon when the member does.
func (c *cluster) dial(i int) *grpc.ClientConn {
	c.mu.Lock()
	m := c.members[i].Member
	c.mu.Unlock()
	return m.Dial(soonAgain)
}

// status asks a member about itself.
func (c *cluster) status(ctx context.Context, i int) (*pb.StatusResponse, error) {
	conn := c.dial(i)
	defer conn.Close()
	return pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
}

// leader waits until the members given agree on a leader among them, and
// returns its number; without any, those that run.
func (c *cluster) leader(among ...int) (leader int) {
	c.t.Helper()
	if len(among) == 0 {
		among = c.running()
	}
	c.eventually(fmt.Sprintf("a leader among %v", among), func(ctx context.Context) error {
		leader = -1
		var ids, terms []uint64
		for _, i := range among {
			s, err := c.status(ctx, i)
			if err != nil {
				return err
			}
			ids, terms = append(ids, s.Leader), append(terms, s.RaftTerm)
			if s.Header.MemberId == s.Leader {
				leader = i
			}
		}
		if len(slices.Compact(ids)) != 1 || len(slices.Compact(terms)) != 1 || leader < 0 {
			return fmt.Errorf("members %v: leaders %x in terms %v", among, ids, terms)
		}
		return nil
	})
	return leader
}

// follower is one of the running that does not lead.
func (c *cluster) follower() int {
	c.t.Helper()
	leader := c.leader()
	rest := slices.DeleteFunc(c.running(), func(i int) bool { return i == leader })
	return rest[c.IntN(len(rest))]
}

// others returns the members that are not among those given.
func (c *cluster) others(but ...int) (rest []int) {
	for i, s := range c.members {
		if !s.gone && !slices.Contains(but, i) {
			rest = append(rest, i)
		}
	}
	return rest
}

// agree waits until all members have come to the same revision and then
// compares their hashes of everything.
func (c *cluster) agree() (revision int64) {
	c.t.Helper()
	which := c.running()
	hashes := make([]*pb.HashKVResponse, len(which))
	c.eventually("members come to one revision", func(ctx context.Context) error {
		for at, i := range which {
			conn := c.dial(i)
			h, err := pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{})
			conn.Close()
			if err != nil {
				return fmt.Errorf("member %d: %w", i, err)
			}
			hashes[at] = h
		}
		for at, h := range hashes {
			if h.HashRevision != hashes[0].HashRevision || h.CompactRevision != hashes[0].CompactRevision {
				return fmt.Errorf("member %d is at %d compacted %d, member %d at %d compacted %d",
					which[at], h.HashRevision, h.CompactRevision, which[0], hashes[0].HashRevision, hashes[0].CompactRevision)
			}
		}
		return nil
	})
	for at, h := range hashes {
		if h.Hash != hashes[0].Hash {
			c.t.Errorf("at revision %d member %d has hash %d, member %d has %d",
				h.HashRevision, which[at], h.Hash, which[0], hashes[0].Hash)
		}
	}
	return hashes[0].HashRevision
}
