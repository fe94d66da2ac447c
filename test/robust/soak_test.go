package robust

import (
	"os"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// epoch is how long faults go on before all is judged.
const epoch = time.Minute

// TestSoak has one cluster of five meet faults at random until the time that
// KVD_ROBUST_SOAK gives is over.
func TestSoak(t *testing.T) {
	text := os.Getenv("KVD_ROBUST_SOAK")
	if text == "" {
		t.Skip("KVD_ROBUST_SOAK says for how long; see make soak")
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("KVD_ROBUST_SOAK: %v", err)
	}
	w := newWire()
	c := newCluster(t, plan{
		size: 5, net: makeNetwork(t, 5, w), args: []string{"--snapshot-count=500", "--snapshot-catchup-entries=200"},
	})
	for end := time.Now().Add(limit); time.Now().Before(end) && !t.Failed(); {
		l := c.load()
		met := map[string]int{}
		for over := time.Now().Add(min(epoch, time.Until(end))); time.Now().Before(over); {
			misfortune := misfortunes[c.IntN(len(misfortunes))]
			met[misfortune.name]++
			t.Logf("%s %s", l.now().Round(time.Millisecond), misfortune.name)
			misfortune.befall(c, l, w)
			if c.IntN(2) == 0 { // else the next meets a cluster that is not yet well
				l.moves(c.running()...)
			}
		}
		l.moves(0, 1, 2, 3, 4)
		if c.IntN(2) == 0 {
			c.compact(l, c.leader())
		}
		l.finish()
		t.Logf("met %v", met)
	}
	t.Log(w)
}

// misfortunes are what a soak is made of. Each leaves the cluster as it was.
var misfortunes = []struct {
	name   string
	befall func(c *cluster, l *load, w *wire)
}{
	{"kill of one", func(c *cluster, l *load, _ *wire) {
		i := c.IntN(5)
		c.kill(i)
		l.lasts(c.some(2 * election))
		c.launch(i)
	}},
	{"kill of the leader", func(c *cluster, l *load, _ *wire) {
		i := c.leader()
		c.kill(i)
		l.lasts(c.some(2 * election))
		c.launch(i)
	}},
	{"kill of two", func(c *cluster, l *load, _ *wire) {
		p := c.Perm(5)[:2]
		c.kill(p...)
		l.lasts(c.some(3 * election))
		c.launch(p[0])
		l.lasts(c.some(election))
		c.launch(p[1])
	}},
	{"kill of all", func(c *cluster, l *load, _ *wire) {
		c.kill(0, 1, 2, 3, 4)
		for _, i := range c.Perm(5) {
			c.launch(i)
			l.lasts(c.some(election / 2))
		}
	}},
	{"stop of the leader", func(c *cluster, l *load, _ *wire) {
		i := c.leader()
		c.pause(i)
		l.lasts(c.some(5 * election))
		c.resume(i)
	}},
	{"stop of one", func(c *cluster, l *load, _ *wire) {
		i := c.IntN(5)
		c.pause(i)
		l.lasts(c.some(2 * election))
		c.resume(i)
	}},
	{"partition", func(c *cluster, l *load, _ *wire) {
		p := c.Perm(5)
		at := 1 + c.IntN(3)
		c.net.split(p[:at], p[at:])
		l.lasts(c.some(4 * election))
		c.net.heal()
	}},
	{"partition that turns", func(c *cluster, l *load, _ *wire) {
		for range 4 {
			p := c.Perm(5)
			c.net.split(p[:2], p[2:])
			l.lasts(c.some(2 * election))
			c.net.heal()
		}
	}},
	{"bridge", func(c *cluster, l *load, _ *wire) {
		p := c.Perm(5)
		c.net.split(p[:2], p[3:])
		l.lasts(c.some(4 * election))
		c.net.heal()
	}},
	{"one-way cuts", func(c *cluster, l *load, _ *wire) {
		for range 1 + c.IntN(6) {
			p := c.Perm(5)
			c.net.cut([2]int{p[0], p[1]})
		}
		l.lasts(c.some(3 * election))
		c.net.heal()
	}},
	{"bad weather", func(c *cluster, l *load, w *wire) {
		w.set(weather{
			lose: c.Float64() * 0.2, twice: c.Float64() * 0.1, late: c.Float64(),
			base: c.some(10 * time.Millisecond), spread: c.some(100 * time.Millisecond),
		})
		l.lasts(c.some(4 * election))
		w.set(weather{})
	}},
	{"move of the leader", func(c *cluster, l *load, _ *wire) {
		c.leads(c.IntN(5), true)
		l.lasts(c.some(election))
	}},
	{"defragmentation", func(c *cluster, l *load, _ *wire) {
		conn := c.dial(c.IntN(5))
		defer conn.Close()
		if err := done(pb.NewMaintenanceClient(conn).Defragment(c.t.Context(), &pb.DefragmentRequest{})); err != nil {
			c.t.Logf("defragment: %v", err) // it may be killed still, or cut off
		}
	}},
	{"a member left behind", func(c *cluster, l *load, _ *wire) {
		i := c.follower()
		c.kill(i)
		c.bulk(c.leader(), 1500)
		c.compact(l, c.leader())
		c.launch(i)
		l.lasts(c.some(election))
	}},
	{"compaction", func(c *cluster, l *load, _ *wire) {
		l.moves(c.leader())
		c.compact(l, c.leader())
	}},
}

// some is a time of at most so much.
func (c *cluster) some(most time.Duration) time.Duration { return time.Duration(c.Int64N(int64(most))) }
