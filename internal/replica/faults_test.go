package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/vfs"
	"kvd/internal/wal"
)

// onMem puts the home's log into a file system that can fail.
func onMem(t testing.TB, h *home) *vfs.Mem {
	t.Helper()
	files := vfs.NewMem()
	h.wal.Files = files
	must(t, files.Mkdir("/m", 0o700))
	h.walPath = "/m/wal"
	h.wal.SegmentBytes = 64 << 10
	h.createLog(t, self)
	return files
}

func TestFailedSyncEndsTheReplicaUnacknowledged(t *testing.T) {
	h := newHome(t)
	files := onMem(t, h)
	broken := errors.New("broken disk")
	var failing atomic.Bool
	var synced atomic.Int64
	files.Fault = func(_ int, op *vfs.Op) error {
		if op.Kind == vfs.Sync && failing.Load() {
			return broken
		}
		if op.Kind == vfs.Sync {
			synced.Add(1)
		}
		return nil
	}
	r := h.start(t)
	r.mustPut("before", "v")
	failing.Store(true)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := r.put(fmt.Sprint(i), "v"); !errors.Is(err, ErrStopped) {
				t.Errorf("put on a broken disk: %v", err)
			}
		})
	}
	all.Wait()
	<-r.ended
	if !errors.Is(r.err, broken) {
		t.Errorf("Run: %v", r.err)
	}
	if _, ok := r.get("0"); ok {
		t.Error("an entry that is not on disk is in the view")
	}
	if synced.Load() == 0 {
		t.Error("nothing was ever synced")
	}
}

func TestFailedCommitEndsTheReplica(t *testing.T) {
	h := newHome(t)
	r := h.start(t)
	r.mustPut("k", "v")
	must(t, r.Flush(t.Context()))
	must(t, r.store.Close())
	_, _ = r.put("k", "w")
	<-r.ended
	if r.err == nil {
		t.Fatal("Run ended without an error")
	}
	if _, err := r.put("k", "x"); !errors.Is(err, ErrStopped) {
		t.Errorf("put: %v", err)
	}
}

// The power fails at any operation: whatever was acknowledged before is there
// afterwards. The store is empty, so that all depends on the log.
func TestPowerFailureLosesNothingAcknowledged(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	files := onMem(t, h)
	must(t, files.SyncDir("/"))
	must(t, files.SyncDir("/m"))
	made := files.Ops() // before, there is no member yet
	r := h.start(t)
	type ack struct {
		key string
		at  int // operations when it came
	}
	var mu sync.Mutex
	var acks []ack
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			for i := range 40 {
				key := fmt.Sprintf("%d-%d", c, i)
				r.mustPut(key, string(make([]byte, 1000)))
				mu.Lock()
				acks = append(acks, ack{key, files.Ops()})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	total := files.Ops()
	r.close()
	for range 20 {
		at := made + rng.IntN(total-made+1)
		how := []vfs.Survival{vfs.Lost, vfs.Kept, vfs.Torn}[rng.IntN(3)]
		again := *h
		again.dir = t.TempDir()
		again.makeDirs(t)
		again.wal.Files = files.Crash(at, how, rng)
		s := again.start(t)
		must(t, s.Barrier(t.Context()))
		n := 0
		for _, a := range acks {
			if a.at > at {
				continue
			}
			n++
			if _, ok := s.get(a.key); !ok {
				t.Fatalf("%s, acknowledged at operation %d, is lost after a crash (%v) at %d", a.key, a.at, how, at)
			}
		}
		s.close()
	}
}

func TestRowsThatWaitAreBounded(t *testing.T) {
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	h.options.FlushBytes = 8 << 10
	h.options.PendingBytes = 16 << 10
	r := h.start(t)
	var all sync.WaitGroup
	for c := range 16 {
		all.Go(func() {
			for i := range 20 {
				r.mustPut(fmt.Sprintf("%d-%d", c, i), string(make([]byte, 1000)))
				r.flusher.mu.Lock()
				waiting := r.flusher.bytes + r.flusher.waiting
				r.flusher.mu.Unlock()
				if most := 16<<10 + 16*2000; waiting > most {
					t.Errorf("%d bytes wait, want %d at most", waiting, most)
				}
			}
		})
	}
	all.Wait()
	if r.Status().Stored == 0 {
		t.Error("nothing was flushed though the bytes were full")
	}
}

func TestSnapshotLetsTheLogStartLater(t *testing.T) {
	h := newHome(t)
	h.options.SnapshotCount = 50
	h.options.FlushInterval = time.Millisecond
	h.wal.SegmentBytes = 16 << 10
	r := h.start(t)
	for i := range 300 {
		r.mustPut(fmt.Sprintf("k%d", i), string(make([]byte, 500)))
	}
	must(t, r.Flush(t.Context()))
	must(t, r.flusher.do(t.Context(), func(context.Context) error { return r.flusher.purge() }))
	if first, _ := r.log.FirstIndex(); first < 100 {
		t.Errorf("the log in memory begins at %d", first)
	}
	r.close()
	snaps, _ := filepath.Glob(filepath.Join(h.snapDir(), "*.snap"))
	if len(snaps) == 0 || len(snaps) > 5 {
		t.Errorf("%d snapshot files, want 1 to 5: %v", len(snaps), snaps)
	}
	segments, _ := filepath.Glob(filepath.Join(h.walDir(), "*.wal"))
	if len(segments) > 6 {
		t.Errorf("%d segments: old ones are not removed", len(segments))
	}
	again := h.start(t)
	if at := again.log.Start().Index; at < 200 {
		t.Errorf("the log starts at %d", at)
	}
	must(t, again.Barrier(t.Context()))
	if _, ok := again.get("k0"); !ok {
		t.Error("k0 is lost")
	}
}

func TestLogOfAnotherStoreIsRefused(t *testing.T) {
	h := newHome(t)
	r := h.start(t)
	r.mustPut("k", "v")
	r.close()
	h.walPath = filepath.Join(h.dir, "other")
	h.createLog(t, self)
	files, machine, log := h.load(t)
	defer files.Close()
	defer log.Close()
	_, err := New(h.options, Parts{Member: self, Log: log, Store: files, Machine: machine})
	if !errors.Is(err, ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

// createLog makes the log of a cluster that begins with these members; the
// first is this one.
func (h *home) createLog(t testing.TB, ids ...uint64) {
	t.Helper()
	log, err := wal.Create(h.walDir(), wal.Identity{Member: ids[0], Cluster: 7}, h.wal)
	must(t, err)
	one, none, last := uint64(1), uint64(0), uint64(len(ids))
	var entries []*raftpb.Entry
	for i, id := range slices.Sorted(slices.Values(ids)) {
		change := member.Change{
			Type: raftpb.ConfChangeAddNode, ID: member.ID(id),
			Member: member.Member{ID: member.ID(id), PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", 2380+i)}},
		}
		data, err := proto.Marshal(change.Entry(0))
		must(t, err)
		index := uint64(i + 1)
		entries = append(entries, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: &one, Index: &index, Data: data})
	}
	must(t, log.Append(&raftpb.HardState{Term: &one, Vote: &none, Commit: &last}, entries, true))
	must(t, log.Close())
}
