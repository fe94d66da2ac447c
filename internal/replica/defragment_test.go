package replica

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
)

// standstill is a store whose defragmentation stands still in the middle, from when
// it says so until it is let go on. Later ones are not held up.
type standstill struct {
	reached, on chan struct{}
}

func holdDefragment(h *home) standstill {
	s := standstill{make(chan struct{}), make(chan struct{})}
	first := true
	h.store.OnRewrite = func(int64, int64) {
		if first { // one rewrites at a time
			first = false
			close(s.reached)
			<-s.on
		}
	}
	return s
}

// However long the copy takes, nothing waits for it: not writes of more than may be
// uncommitted, nor who needs what was written to be in the store.
func TestNothingWaitsForADefragmentation(t *testing.T) {
	h := newHome(t)
	h.options.FlushBytes, h.options.PendingBytes = 16<<10, 64<<10
	still := holdDefragment(h)
	r := h.start(t)
	r.mustPut("before", "v")
	done := make(chan error, 1)
	go func() { done <- r.Defragment(context.Background()) }()
	<-still.reached
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 64 { // 16 times PendingBytes
		_, err := r.Propose(ctx, putRequest(fmt.Sprint("k", i), strings.Repeat("x", 16<<10)), nil)
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	last := r.View().Keys.Revision()
	_, err := r.Propose(ctx, &state.Request{Compaction: &pb.CompactionRequest{Revision: last - 10, Physical: true}}, nil)
	must(t, err)
	must(t, r.Flush(ctx))
	must(t, r.Pulse(ctx))
	image, err := r.Copy(ctx)
	must(t, err)
	if image.Value(store.Key, mvcc.Revision{Main: last}.Append(nil)) == nil {
		t.Error("a copy lacks what was put meanwhile")
	}
	must(t, image.Close())
	select {
	case err := <-done:
		t.Errorf("it has ended while it was held up: %v", err)
	default:
	}
	close(still.on)
	must(t, <-done)
	r.mustPut("after", "v")
	want := r.View().Keys.Revision()
	r.close()
	r = h.start(t)
	if got := r.View().Keys.Revision(); got != want {
		t.Errorf("the new file is at revision %d, want %d", got, want)
	}
	for _, key := range []string{"before", "k0", "k63", "after"} {
		if _, ok := r.get(key); !ok {
			t.Errorf("%s is lost", key)
		}
	}
}

func TestDefragmentationsTakeTurns(t *testing.T) {
	h := newHome(t)
	still := holdDefragment(h)
	r := h.start(t)
	done := make(chan error, 1)
	go func() { done <- r.Defragment(context.Background()) }()
	<-still.reached
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Defragment(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one, whose caller is gone: %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- r.Defragment(context.Background()) }()
	close(still.on)
	must(t, <-done)
	must(t, <-second)
}

func TestAStopEndsADefragmentation(t *testing.T) {
	h := newHome(t)
	still := holdDefragment(h)
	r := h.start(t)
	done := make(chan error, 1)
	go func() { done <- r.Defragment(context.Background()) }()
	<-still.reached
	r.stop()
	<-r.ended
	close(still.on)
	if err := <-done; !errors.Is(err, ErrStopped) && !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	r.close()
	if left, err := filepath.Glob(filepath.Join(h.snapDir(), "db.tmp.*")); err != nil || len(left) > 0 {
		t.Errorf("it has left %v, %v", left, err)
	}
}
