package proxy

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// TestWatchersShareAResponseOnlyWhereItIsTheSame: with one ID and all events it is
// encoded once; who has another ID or wants fewer events gets a response of its
// own, and spoils nobody else's.
func TestWatchersShareAResponseOnlyWhereItIsTheSame(t *testing.T) {
	event := func(revision int64) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: revision, Value: []byte("value")}}
	}
	data, err := proto.Marshal(&pb.WatchResponse{
		Header: &pb.ResponseHeader{Revision: 11, ClusterId: 7}, WatchId: 3, Events: []*mvccpb.Event{event(10), event(11)},
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := parseNotice(data)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{o: Options{WatchBuffer: 1 << 20}}
	var first *byte
	for i, c := range []struct {
		id, next int64
		events   int
		shared   bool
	}{{0, 0, 2, false}, {0, 5, 2, true}, {4, 0, 2, false}, {0, 11, 1, false}, {0, 0, 2, false}, {0, 1, 2, true}, {-1, 0, 2, false}} {
		s := &watchStream{proxy: p, sender: p.senders.Stream(nil, func() {})}
		w := &watcher{stream: s, id: c.id, next: c.next, told: true}
		if !w.offer(n, true) || len(s.queue) != 1 {
			t.Fatalf("watcher %d was offered %d responses", i, len(s.queue))
		}
		var got pb.WatchResponse
		if err := proto.Unmarshal(s.queue[0].Materialize(), &got); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("watcher %d: id %d, %d events, revision %d", i, got.WatchId, len(got.Events), got.Header.Revision)
		if got.WatchId != c.id || len(got.Events) != c.events || got.Header.Revision != 11 || got.Header.ClusterId != 7 || got.Events[c.events-1].Kv.ModRevision != 11 {
			t.Error(text)
		}
		at := &s.queue[0][0].ReadOnlyData()[0]
		if (at == first) != c.shared {
			t.Errorf("%s: shared with the one before: %t", text, at == first)
		}
		first = at
	}
}
