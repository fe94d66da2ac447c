package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

const self = 0x8e9e05c52164694d

// home is a data directory. It outlives the replicas that run on it.
type home struct {
	dir     string
	options Options
	wal     wal.Options
	store   store.Options
	publish func(*mvcc.View, int64, []*mvcc.Event)
	walPath string // instead of a folder of dir
	verbose bool
	metrics *Metrics
	self    uint64
	send    func([]*raftpb.Message)

	connected    func() int
	sendSnapshot func(*raftpb.Message, *store.Copy)
}

func newHome(t testing.TB) *home {
	h := &home{dir: t.TempDir(), self: self, options: Options{Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond, PreVote: true}}
	h.store.InitialMmapBytes = 64 << 20
	h.wal.SegmentBytes = 1 << 20
	h.makeDirs(t)
	h.createLog(t, self)
	return h
}

func (h *home) makeDirs(t testing.TB) { must(t, os.MkdirAll(h.snapDir(), 0o700)) }

func (h *home) walDir() string {
	if h.walPath != "" {
		return h.walPath
	}
	return filepath.Join(h.dir, "wal")
}
func (h *home) snapDir() string { return filepath.Join(h.dir, "snap") }

// running is a replica on a home.
type running struct {
	*Replica
	t     testing.TB
	log   *wal.Log
	store *store.File
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of Run, after ended
	once  sync.Once
}

// load opens the files.
func (h *home) load(t testing.TB) (*store.File, *state.Machine, *wal.Log) {
	t.Helper()
	file, err := store.Open(filepath.Join(h.snapDir(), "db"), h.store)
	must(t, err)
	reader, err := file.Read()
	must(t, err)
	machine, err := state.Load(reader, file.Read, state.Options{MinLeaseTTL: 1})
	must(t, err)
	must(t, reader.Close())
	log, err := wal.Open(h.walDir(), h.wal)
	must(t, err)
	return file, machine, log
}

func (h *home) open(t testing.TB) *running {
	t.Helper()
	file, machine, log := h.load(t)
	p := Parts{
		Member: h.self, Log: log, Store: file, Machine: machine, SnapDir: h.snapDir(),
		Publish: h.publish, Send: h.send, Metrics: h.metrics, SendSnapshot: h.sendSnapshot, Connected: h.connected,
		Load: func(open func() (store.Reader, error)) (*state.Machine, error) {
			reader, err := open()
			if err != nil {
				return nil, err
			}
			defer reader.Close()
			return state.Load(reader, file.Read, state.Options{MinLeaseTTL: 1})
		},
	}
	if h.verbose {
		p.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r, err := New(h.options, p)
	must(t, err)
	return &running{Replica: r, t: t, log: log, store: file, ended: make(chan struct{})}
}

func (h *home) start(t testing.TB) *running {
	t.Helper()
	r := h.open(t)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.ended)
		r.err = r.Run(ctx)
	}()
	t.Cleanup(r.close)
	return r
}

// close stops the replica and lets go of its files.
func (r *running) close() {
	r.once.Do(func() {
		r.stop()
		<-r.ended
		if err := r.log.Close(); err != nil && r.err == nil {
			r.t.Errorf("close log: %v", err)
		}
		if err := r.store.Close(); err != nil && r.err == nil {
			r.t.Errorf("close store: %v", err)
		}
	})
}

func putRequest(key, value string) *state.Request {
	return &state.Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

func (r *running) put(key, value string) (int64, error) {
	reply, err := r.Propose(context.Background(), putRequest(key, value), nil)
	if err != nil {
		return 0, err
	}
	return reply.(*state.PutReply).Revision, nil
}

func (r *running) mustPut(key, value string) int64 {
	r.t.Helper()
	rev, err := r.put(key, value)
	if err != nil {
		r.t.Fatalf("put %s: %v", key, err)
	}
	return rev
}

func (r *running) get(key string) (value string, ok bool) {
	r.t.Helper()
	reply, err := r.View().Range(&pb.RangeRequest{Key: []byte(key)})
	for errors.Is(err, mvcc.ErrCollected) { // a snapshot is being installed
		reply, err = r.View().Range(&pb.RangeRequest{Key: []byte(key)})
	}
	must(r.t, err)
	if len(reply.KVs) == 0 {
		return "", false
	}
	kv, err := mvcc.Parse(reply.KVs[0])
	must(r.t, err)
	return string(kv.Value), true
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestPutIsReadBack(t *testing.T) {
	r := newHome(t).start(t)
	if rev := r.mustPut("k", "v"); rev != 2 {
		t.Errorf("revision %d, want 2", rev)
	}
	must(t, r.Barrier(t.Context()))
	if v, _ := r.get("k"); v != "v" {
		t.Errorf("got %q", v)
	}
	if s := r.Status(); !s.Leading() || s.Leader != self || s.Applied < 3 {
		t.Errorf("status %+v", s)
	}
}

func TestReplicaStartsWhereItStopped(t *testing.T) {
	h := newHome(t)
	for round := range 3 {
		r := h.start(t)
		for i := range 50 {
			r.mustPut(fmt.Sprintf("k%d", i), fmt.Sprint(round))
		}
		r.close()
		must(t, r.err)
		if s := r.Status(); s.Stored != s.Applied {
			t.Errorf("stopped with the store at %d, applied %d", s.Stored, s.Applied)
		}
	}
	r := h.start(t)
	must(t, r.Barrier(t.Context()))
	if v, _ := r.get("k49"); v != "2" {
		t.Errorf("got %q, want 2", v)
	}
	if rev := r.mustPut("x", ""); rev != 152 {
		t.Errorf("revision %d, want 152", rev)
	}
}

// Without a flush the store is empty: all comes from the log.
func TestAcknowledgedIsNotLostWithoutAFlush(t *testing.T) {
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	r := h.start(t)
	for i := range 100 {
		r.mustPut(fmt.Sprintf("k%d", i), "v")
	}
	if s := r.Status(); s.Stored != 0 {
		t.Fatalf("the store is at %d; the test is about one that is behind", s.Stored)
	}
	copied := h.clone(t)
	again := copied.start(t)
	must(t, again.Barrier(t.Context()))
	for i := range 100 {
		if _, ok := again.get(fmt.Sprintf("k%d", i)); !ok {
			t.Fatalf("k%d is lost", i)
		}
	}
	if rev := again.View().Keys.Revision(); rev != 101 {
		t.Errorf("revision %d, want 101: replay is not exact", rev)
	}
}

// clone copies the files as they are now, as a crash would leave them.
func (h *home) clone(t testing.TB) *home {
	t.Helper()
	c := *h
	c.dir = t.TempDir()
	must(t, os.CopyFS(c.dir, os.DirFS(h.dir)))
	return &c
}

func TestTooLargeIsRefused(t *testing.T) {
	h := newHome(t)
	h.options.MaxRequestBytes = 1000
	r := h.start(t)
	if _, err := r.put("k", string(make([]byte, 1000))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	r.mustPut("k", string(make([]byte, 900)))
}

func TestStoppedReplicaRefuses(t *testing.T) {
	r := newHome(t).start(t)
	r.mustPut("k", "v")
	r.close()
	if _, err := r.put("k", "v"); !errors.Is(err, ErrStopped) {
		t.Errorf("put: %v", err)
	}
	if _, err := r.Renew(t.Context(), 1); !errors.Is(err, ErrStopped) {
		t.Errorf("renew: %v", err)
	}
	if err := r.Flush(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("flush: %v", err)
	}
	if err := r.Pulse(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("pulse: %v", err)
	}
}

func TestEveryProposerGetsItsOwnAnswer(t *testing.T) {
	h := newHome(t)
	var events []*mvcc.Event
	var at int64
	h.publish = func(view *mvcc.View, rev int64, es []*mvcc.Event) {
		if view.Revision() != rev || rev <= at {
			t.Errorf("published %d after %d with a view of %d", rev, at, view.Revision())
		}
		at = rev
		events = append(events, es...)
	}
	r := h.start(t)
	const callers, each = 500, 8
	revs := make([]map[int64]string, callers)
	var all sync.WaitGroup
	for c := range callers {
		revs[c] = map[int64]string{}
		all.Go(func() {
			for i := range each {
				key := fmt.Sprintf("c%d-%d", c, i)
				rev, err := r.put(key, "v")
				if err != nil {
					t.Error(err)
					return
				}
				revs[c][rev] = key
				if _, ok := r.get(key); !ok {
					t.Errorf("%s is acknowledged and not in the view", key)
				}
			}
		})
	}
	all.Wait()
	r.close()
	if len(events) != callers*each {
		t.Fatalf("%d events, want %d", len(events), callers*each)
	}
	owner := map[int64]string{}
	for _, e := range events {
		owner[e.Revision().Main] = e.Key()
	}
	for _, m := range revs {
		for rev, key := range m {
			if owner[rev] != key {
				t.Fatalf("%s was answered revision %d, which is %s", key, rev, owner[rev])
			}
		}
	}
}

func TestCallerWhoLeavesIsNotAnswered(t *testing.T) {
	r := newHome(t).start(t)
	r.mustPut("k", "v")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Propose(ctx, putRequest("k", "w"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if v, _ := r.get("k"); v != "v" {
		t.Errorf("proposed all the same: %q", v)
	}
}

func TestFlushBringsTheStoreUp(t *testing.T) {
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	r := h.start(t)
	r.mustPut("k", "v")
	index := r.View().Applied
	must(t, r.Flush(t.Context()))
	reader, err := r.store.Read()
	must(t, err)
	defer reader.Close()
	if got := reader.Stamp().Index; got < index {
		t.Errorf("stamp %d, want %d", got, index)
	}
	row := reader.Value(store.Key, mvcc.Revision{Main: 2}.Append(nil))
	if !bytes.Contains(row, []byte("v")) {
		t.Errorf("row %q", row)
	}
}

func TestCopyHoldsWhatWasAcknowledged(t *testing.T) {
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	r := h.start(t)
	rev := r.mustPut("k", "v")
	image, err := r.Copy(t.Context())
	must(t, err)
	defer image.Close()
	if image.Value(store.Key, mvcc.Revision{Main: rev}.Append(nil)) == nil {
		t.Error("the put is not in the copy")
	}
	must(t, r.Defragment(t.Context()))
	r.mustPut("l", "v")
}

func TestPulseComesBack(t *testing.T) {
	r := newHome(t).start(t)
	must(t, r.Pulse(t.Context()))
}

func TestRowsThatAreCommittedDoNotCountTwice(t *testing.T) {
	r := newHome(t).start(t)
	r.mustPut("k", "v")
	f, file := r.flusher, r.parts.Store
	must(t, f.do(t.Context(), func(context.Context) error { // by who alone commits
		f.mu.Lock()
		f.waiting, f.before = 1000, file.Measured()
		f.mu.Unlock()
		if got := r.Pending(); got != 1000 {
			t.Errorf("while they are committed %d bytes are pending", got)
		}
		v := r.View()
		err := file.Commit(store.Stamp{Index: v.Applied, Term: v.Term}, &store.Batch{})
		if got := r.Pending(); got != 0 {
			t.Errorf("when the file has them %d bytes are pending", got)
		}
		return err
	}))
}
