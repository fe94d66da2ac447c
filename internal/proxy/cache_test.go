package proxy

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// asks reads a key and returns the answer's revision.
func asks(t *testing.T, conn *grpc.ClientConn, r *pb.RangeRequest) int64 {
	t.Helper()
	answer, err := pb.NewKVClient(conn).Range(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header.Revision
}

func rangesAt(f *fake) int { return counted(f, func() int { return f.ranges }) }

func TestAnAnswerIsKeptUntilTheWatchTellsOfAChange(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	p, conn := startProxy(t, Options{CacheBytes: 1 << 20}, member)
	h.put("k", "1")
	member.setRevision(2)
	serializable := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
	eventually(t, "it is answered without the member", func() bool {
		before := rangesAt(member)
		return asks(t, conn, serializable) == 2 && rangesAt(member) == before
	})
	h.put("k", "2")
	member.setRevision(3)
	eventually(t, "the change is seen", func() bool { return asks(t, conn, serializable) == 3 })
	for range 5 { // what is newer is never taken back
		if got := asks(t, conn, serializable); got != 3 {
			t.Errorf("revision %d comes after 3", got)
		}
	}

	// What must be asked of a member is.
	for what, r := range map[string]*pb.RangeRequest{
		"a linearizable range": {Key: []byte("k")}, "one of a revision": {Key: []byte("k"), Serializable: true, Revision: 2},
	} {
		for range 3 {
			before := rangesAt(member)
			if asks(t, conn, r); rangesAt(member) == before {
				t.Errorf("%s was not asked of the member", what)
			}
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "alice.7")
	for range 3 {
		before := rangesAt(member)
		if _, err := pb.NewKVClient(conn).Range(ctx, serializable); err != nil || rangesAt(member) == before {
			t.Errorf("who has a token was answered from what is kept: %v", err)
		}
	}

	// Without its watch nothing is kept.
	member.server.Stop()
	eventually(t, "nothing is kept", func() bool {
		p.cache.mu.Lock()
		defer p.cache.mu.Unlock()
		return len(p.cache.all) == 0 && p.cache.bytes == 0
	})
}

func TestTheCacheKeepsWithinItsBudget(t *testing.T) {
	h := newHistory()
	member := startFake(t, h)
	h.put("k", "1")
	member.setRevision(2)
	p, conn := startProxy(t, Options{CacheBytes: 4 << 10}, member)
	for i := range 60 {
		r := &pb.RangeRequest{Key: []byte{'a', byte(i)}, Serializable: true}
		asks(t, conn, r)
		asks(t, conn, r)
	}
	p.cache.mu.Lock()
	kept, bytes := len(p.cache.all), p.cache.bytes
	p.cache.mu.Unlock()
	if kept == 0 || bytes > 4<<10 {
		t.Errorf("%d answers of %d bytes are kept", kept, bytes)
	}
	eventually(t, "there are no more watches than answers", func() bool {
		p.watches.mu.Lock()
		defer p.watches.mu.Unlock()
		return len(p.watches.feeds) <= kept
	})
}
