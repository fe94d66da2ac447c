package robust

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// A change is what a revision did to one key.
type change struct {
	Key    string
	Value  string `json:",omitempty"`
	Delete bool   `json:",omitempty"`
}

// An observer watches everything and must be told of every revision exactly
// once, in order, over any number of streams. Its fields are read when it has
// ended.
type observer struct {
	*rand.Rand
	load    *load
	home    int // the member it always asks; any: another each time
	from    int64
	changes map[int64][]change // of each revision
	heard   map[int64]time.Duration
	next    int64        // revisions before it were told, or compacted
	told    atomic.Int64 // next - 1, for others to read
	missed  int64        // how many revisions were compacted before they were told
	faults  []string
	streams int
}

const anyone = -1

func newObserver(l *load, random *rand.Rand, home int, from int64) *observer {
	return &observer{
		Rand: random, load: l, home: home, from: from, next: from,
		changes: map[int64][]change{}, heard: map[int64]time.Duration{},
	}
}

// run watches until the load wants no more and everything up to the last
// revision was told, or the time for that is over.
func (o *observer) run() {
	for len(o.faults) == 0 && !o.load.watched(o.next-1) {
		doors := o.load.doors()
		d := doors[o.IntN(len(doors))]
		for _, one := range doors {
			if one.number == o.home {
				d = one
			}
		}
		conn := d.Dial(soonAgain)
		o.watch(conn)
		conn.Close()
		o.load.rest(20 * time.Millisecond)
	}
}

// watch listens on one stream until it breaks, now and then breaks it itself,
// and asks for progress.
func (o *observer) watch(conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(o.load.streams(), 500*time.Millisecond+time.Duration(o.Int64N(int64(3*time.Second))))
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return
	}
	if stream.Send(watchFrom(o.next)) != nil {
		return
	}
	o.streams++
	for asked := time.Now(); ; {
		r, err := stream.Recv()
		if err != nil || o.load.watched(o.next-1) {
			return
		}
		if !o.take(r) {
			return
		}
		if time.Since(asked) > 100*time.Millisecond {
			asked = time.Now()
			if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{}}) != nil {
				return
			}
		}
	}
}

// take files an answer and returns whether the stream goes on.
func (o *observer) take(r *pb.WatchResponse) bool {
	at := o.load.now()
	if r.CompactRevision > 0 {
		if r.CompactRevision <= o.next {
			o.fail("refused with compaction %d; %d was asked for", r.CompactRevision, o.next)
			return false
		}
		o.missed += r.CompactRevision + 1 - o.next
		o.next = r.CompactRevision + 1 // of the compacted one itself only a part is left
		return false
	}
	if r.Canceled {
		return false
	}
	if len(r.Events) == 0 {
		if !r.Created && r.Header.Revision >= o.next { // a promise that no event up to there will follow
			o.fail("progress to %d before %d was told", r.Header.Revision, o.next)
		}
		return true
	}
	fresh := map[int64][]change{}
	for _, e := range r.Events {
		revision := e.Kv.ModRevision
		if _, begun := fresh[revision]; !begun {
			if revision != o.next {
				o.fail("revision %d was told where %d was due", revision, o.next)
				return false
			}
			o.next = revision + 1
		}
		fresh[revision] = append(fresh[revision], change{
			Key: string(e.Kv.Key), Value: brief(e.Kv.Value), Delete: e.Type == mvccpb.DELETE,
		})
		if e.Type == mvccpb.DELETE && strings.HasPrefix(string(e.Kv.Key), leaseSpace) {
			o.heard[revision] = at
		}
	}
	for revision, changes := range fresh {
		o.changes[revision] = changes
	}
	o.told.Store(o.next - 1)
	return true
}

// brief is a value, or what tells a long one from others.
func brief(value []byte) string {
	if len(value) <= 64 {
		return string(value)
	}
	return fmt.Sprintf("%d bytes, %x", len(value), crc32.ChecksumIEEE(value))
}

func (o *observer) fail(format string, args ...any) {
	o.faults = append(o.faults, fmt.Sprintf(format, args...))
}
