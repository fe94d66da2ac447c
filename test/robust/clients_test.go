package robust

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	clients  = 8
	pauseOf  = 25 * time.Millisecond   // of a client between two calls, on average
	callsEnd = 1500 * time.Millisecond // a call that has no answer by then is given up
)

// soonAgain makes a connection try again soon after a member was gone.
var soonAgain = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond},
	MinConnectTimeout: time.Second,
})

// A client sends one call after the other, most of them through one member: if
// that one does not answer, others wait for it seldom.
type client struct {
	*rand.Rand
	load   *load
	number int
	count  int
	mods   [groups][inGroup]int64 // as last heard
	conns  connections
	calls  []*call
}

// connections are one client's, by the member's number and life: a dead one's
// are not used for the next.
type connections map[int]*grpc.ClientConn

func (c connections) to(d door) *grpc.ClientConn {
	if c[d.number] == nil {
		c[d.number] = d.Dial(soonAgain)
	}
	return c[d.number]
}

func (c connections) close() {
	for _, conn := range c {
		conn.Close()
	}
}

// run sends calls until the load ends. After a write it often reads at once
// what it wrote, through another member: that is where an old answer shows.
func (c *client) run() {
	defer c.conns.close()
	for !c.load.over() {
		doors := c.load.doors()
		d := doors[c.number%len(doors)]
		if c.IntN(8) == 0 {
			d = doors[c.IntN(len(doors))]
		}
		one := c.choose()
		c.pass(one, d)
		if one.answered() && !one.reads() && c.IntN(2) == 0 {
			look := &call{Group: one.Group, Succeeded: true, Then: []act{{Do: "get", Key: whole}}}
			c.pass(look, doors[c.IntN(len(doors))])
		}
		c.load.rest(time.Duration(c.Int64N(int64(2 * pauseOf))))
	}
}

// pass sends a call through a door and keeps it if it counts.
func (c *client) pass(one *call, d door) {
	one.Client, one.Member, one.Life = c.number, d.number, d.life
	if c.do(one, c.conns.to(d)) {
		c.calls = append(c.calls, one)
	}
}

// choose makes the next call. Every value is written by one call only.
func (c *client) choose() *call {
	one := &call{Group: c.IntN(groups), Succeeded: true}
	a, b := c.IntN(inGroup), c.IntN(inGroup-1)
	if b >= a {
		b++
	}
	switch n := c.IntN(20); {
	case n < 6:
		one.Then = []act{c.put(a)}
	case n < 8:
		one.Then = []act{{Do: "delete", Key: a}}
	case n < 11:
		one.Then = []act{{Do: "get", Key: a}}
	case n < 13:
		one.Then = []act{{Do: "get", Key: whole}}
	case n < 15:
		one.Then, one.Serializable = []act{{Do: "get", Key: whole}}, true
	case n < 18: // compare and swap, and learn from a failure
		one.If = &guard{Key: a, Mod: c.mods[one.Group][a]}
		one.Then, one.Else = []act{c.put(a), c.put(b)}, []act{{Do: "get", Key: whole}}
	default:
		one.Then = []act{{Do: "get", Key: whole}, c.put(a), {Do: "delete", Key: b}, {Do: "get", Key: whole}}
	}
	return one
}

func (c *client) put(key int) act {
	c.count++
	return act{Do: "put", Key: key, Value: fmt.Sprintf("c%d-%d", c.number, c.count)}
}

// do sends a call. It returns false if that cannot have had any effect nor
// shown anything.
func (c *client) do(one *call, conn *grpc.ClientConn) (counts bool) {
	ctx, cancel := context.WithTimeout(context.Background(), callsEnd)
	defer cancel()
	one.Start = c.load.now()
	err := one.send(ctx, conn)
	one.End = c.load.now()
	if err != nil {
		one.Fault, one.End = err.Error(), forever
		return !one.reads() && !strings.Contains(one.Fault, "Error while dialing")
	}
	c.learn(one)
	if !one.reads() {
		c.load.acknowledged(one.Member)
	}
	return true
}

// learn remembers when keys were changed.
func (c *client) learn(one *call) {
	mods := &c.mods[one.Group]
	for _, a := range one.taken() {
		if a.Do == "put" {
			mods[a.Key] = one.Revision
		}
	}
	for _, got := range one.Got {
		if c.IntN(2) == 0 { // some of the guards are to be wrong
			for i, kv := range got {
				mods[i] = kv.Mod
			}
		}
	}
}

// send asks for the call in the plainest way there is and files the answer.
func (c *call) send(ctx context.Context, conn *grpc.ClientConn) error {
	kv := pb.NewKVClient(conn)
	if c.If != nil || len(c.Then) > 1 {
		r, err := kv.Txn(ctx, c.request())
		if err == nil {
			c.took(r)
		}
		return err
	}
	op := c.ops(c.Then)[0]
	switch a := c.Then[0]; a.Do {
	case "put":
		r, err := kv.Put(ctx, op.GetRequestPut())
		c.Revision = r.GetHeader().GetRevision()
		return err
	case "delete":
		r, err := kv.DeleteRange(ctx, op.GetRequestDeleteRange())
		c.Revision, c.Deleted = r.GetHeader().GetRevision(), []int64{r.GetDeleted()}
		return err
	default:
		r, err := kv.Range(ctx, op.GetRequestRange())
		c.Revision, c.Got = r.GetHeader().GetRevision(), [][inGroup]held{holding(r.GetKvs())}
		return err
	}
}
