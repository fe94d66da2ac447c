package robust

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// farBehind is how many entries a follower misses.
const farBehind = 10_500

// A follower misses more than the log still has, and the log's past is
// compacted. It comes back by a snapshot, of which two transfers break: it is
// killed in the middle of them. Writes go on all the time.
func TestFollowerFarBehindComesBackBySnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{
		size: 3, net: newNetwork(t, 3),
		args: []string{"--snapshot-count=2000", "--snapshot-catchup-entries=1000"},
	})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2)
		i := c.follower()
		c.kill(i)
		c.bulk(c.leader(), farBehind)
		c.compact(l, c.leader())
		c.net.slow(i, "16mbit")
		for range 2 {
			c.launch(i)
			c.receives(i)
			c.kill(i)
			l.moves(c.others(i)...)
		}
		c.net.fast(i)
		c.launch(i)
		l.moves(0, 1, 2)
	}
	l.finish()
}

// bulk puts so many keys of a kilobyte through a member.
func (c *cluster) bulk(through, entries int) {
	c.t.Helper()
	const callers = 64
	conn := c.dial(through)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for n := i; n < entries; n += callers {
				key := fmt.Appendf(nil, "bulk/%06d", n)
				value := bytes.Repeat(key, 1000/len(key))
				err := within(healsIn, func(ctx context.Context) error {
					return done(pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: key, Value: value}))
				})
				if err != nil {
					c.t.Errorf("put %s: %v", key, err)
					return
				}
			}
		})
	}
	all.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// compact drops the past, as far as the watcher that asks any member was told
// of it. Others may miss some.
func (c *cluster) compact(l *load, through int) {
	c.t.Helper()
	conn := c.dial(through)
	r, err := pb.NewKVClient(conn).Range(c.t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("watchers are told", func(context.Context) error {
		if told := l.observers[0].told.Load(); told < r.Header.Revision {
			return fmt.Errorf("up to %d of %d", told, r.Header.Revision)
		}
		return nil
	})
	l.mayMiss += r.Header.Revision
	if err := done(pb.NewKVClient(conn).Compact(c.t.Context(), &pb.CompactionRequest{Revision: r.Header.Revision})); err != nil {
		c.t.Fatal(err)
	}
}

// receives waits until a member is in the middle of taking a snapshot: a part
// of it lies beside its database.
func (c *cluster) receives(i int) {
	c.t.Helper()
	o := c.members[i].options
	c.eventually("a snapshot comes in", func(context.Context) error {
		var size int64
		filepath.WalkDir(filepath.Join(o.DataDir, "member", "snap"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "db" {
				if info, err := d.Info(); err == nil && time.Since(info.ModTime()) < time.Second {
					size = max(size, info.Size())
				}
			}
			return nil
		})
		if size < 1<<20 {
			return fmt.Errorf("%d bytes have come", size)
		}
		return nil
	})
}
