package replica

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
)

func TestPhysicalCompactionCanBeGivenUp(t *testing.T) {
	h := newHome(t)
	h.options.CompactionPause = time.Hour // the removals do not begin while the test runs
	r := h.start(t)
	r.mustPut("a", "1")
	r.mustPut("a", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := r.Propose(ctx, &state.Request{Compaction: &pb.CompactionRequest{Revision: 3, Physical: true}}, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("answered with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the call does not end before the removals do")
	}
	r.mustPut("a", "3") // and the member goes on
}
