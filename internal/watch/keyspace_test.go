package watch

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// keyspace is a real keyspace over a store in memory, with a hub on it.
type keyspace struct {
	t       testing.TB
	keys    *mvcc.Keyspace
	mem     *store.Mem
	index   uint64
	shown   atomic.Pointer[mvcc.View]
	hub     *Hub
	history []*mvcc.Event
}

func newKeyspace(t testing.TB, o Options) *keyspace {
	t.Helper()
	k := &keyspace{t: t, mem: store.NewMem()}
	r, err := k.mem.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// No cache: what has been stored is read from rows.
	k.keys, err = mvcc.Load(mvcc.Options{CacheBytes: -1}, k.mem.Read, r, func(string, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	k.shown.Store(k.keys.View())
	k.hub = New(o, k.shown.Load, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	return k
}

// run starts the hub for as long as the test runs.
func (k *keyspace) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.hub.Run(ctx) }()
	k.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Error(err)
		}
	})
}

// write runs one transaction, shows and publishes it.
func (k *keyspace) write(change func(*mvcc.Write)) int64 {
	w := k.keys.Begin()
	change(w)
	rev, events := w.End()
	view := k.keys.View()
	k.shown.Store(view)
	k.history = append(k.history, events...)
	if len(events) > 0 {
		k.hub.Publish(view, rev, events)
	}
	return rev
}

func (k *keyspace) put(key, value string) int64 {
	return k.write(func(w *mvcc.Write) { w.Put([]byte(key), []byte(value), 0) })
}

func (k *keyspace) remove(key string) int64 {
	return k.write(func(w *mvcc.Write) { w.Delete(mvcc.Span{Key: []byte(key)}, func(string, mvcc.Item) {}) })
}

// flush writes all rows, so that history beyond the tail is read from them.
func (k *keyspace) flush() {
	batch := k.keys.Batch()
	k.keys.Use(&store.Batch{})
	k.index++
	if err := k.mem.Commit(store.Stamp{Index: k.index, Term: 1}, batch); err != nil {
		k.t.Fatal(err)
	}
	k.keys.Stored(k.keys.Revision())
	k.shown.Store(k.keys.View())
}

func (k *keyspace) compact(rev int64) {
	if err := k.keys.Compact(rev); err != nil {
		k.t.Fatal(err)
	}
	k.flush() // a compaction waits for its rows to be stored
	for more := true; more; {
		var err error
		if more, err = k.keys.Sweep(100); err != nil {
			k.t.Fatal(err)
		}
	}
	k.flush()
}

func (k *keyspace) watch(s *Sink, spec Spec) *Watcher {
	k.t.Helper()
	w, err := k.hub.Watch(spec, s, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return w
}

const patience = 10 * time.Second

// next waits for the sink's next message.
func (k *keyspace) next(s *Sink) *Message {
	k.t.Helper()
	deadline := time.After(patience)
	for {
		if m := s.Take(); m != nil {
			return m
		}
		select {
		case <-s.Ready():
		case <-deadline:
			k.t.Fatal("no message came")
		}
	}
}

func (k *keyspace) expect(s *Sink, kind Kind, of *Watcher) *Message {
	k.t.Helper()
	m := k.next(s)
	if m.Kind != kind || m.Watcher != of {
		k.t.Fatalf("got message of kind %d for %p, want kind %d for %p", m.Kind, m.Watcher, kind, of)
	}
	return m
}

// settle waits until the hub has offered all that is published.
func (k *keyspace) settle() {
	k.t.Helper()
	k.until(func() bool {
		k.hub.mu.Lock()
		defer k.hub.mu.Unlock()
		return k.hub.offered >= k.shown.Load().Revision()
	})
}

func (k *keyspace) until(holds func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			k.t.Fatal("it never came to be")
		}
	}
}

// decode reads the events of a message as a client would.
func (k *keyspace) decode(m *Message) []*mvccpb.Event {
	k.t.Helper()
	var b []byte
	for _, p := range m.Pieces {
		b = append(b, p...)
	}
	r := &pb.WatchResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		k.t.Fatal(err)
	}
	if len(b) != m.Bytes || len(r.Events) != m.Count {
		k.t.Fatalf("message of %d bytes and %d events says %d and %d", len(b), len(r.Events), m.Bytes, m.Count)
	}
	return r.Events
}

func prefix(key string) mvcc.Span {
	end := []byte(key)
	end[len(end)-1]++
	return mvcc.Span{Key: []byte(key), End: end}
}
