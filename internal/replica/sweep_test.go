package replica

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
	"kvd/internal/store"
)

// Time does not go by while the members of these tests work, or wait for the disk,
// only while everybody waits.
const (
	sweepPiece = 10
	sweepPause = 10 * time.Millisecond
	sweepPuts  = 500
)

// compacting lets f watch a member that has begun to remove nearly all of its past.
func compacting(t *testing.T, h *home, f func(t *testing.T, r *running)) {
	h.options.CompactionBatch, h.options.CompactionPause = sweepPiece, sweepPause
	inFakeTime(t, h, func(t *testing.T, r *running) {
		for range sweepPuts {
			r.mustPut("k", "v")
		}
		at := r.View().Keys.Revision()
		_, err := r.Propose(context.Background(), &state.Request{Compaction: &pb.CompactionRequest{Revision: at}}, nil)
		must(t, err)
		f(t, r)
	})
}

func TestACompactionIsDoneInPiecesWithRestsBetween(t *testing.T) {
	compacting(t, newHome(t), func(t *testing.T, r *running) {
		const removals = sweepPuts - 1
		began, compacted := time.Now(), r.View().Keys.Compacted()
		for last := uint64(0); r.View().Swept < compacted; {
			before := time.Now()
			r.mustPut(fmt.Sprint("other", last), "v")
			if took := time.Since(before); took > 0 {
				t.Errorf("a put waited for %v", took)
			}
			if n := r.View().Counts().Removed; n > last {
				t.Errorf("%d records were removed while a put was made", n-last)
			}
			time.Sleep(sweepPause)
			synctest.Wait()
			now := r.View().Counts().Removed
			if now > last+sweepPiece {
				t.Errorf("%d records were removed in one pause, want at most %d", now-last, sweepPiece)
			}
			if last = now; time.Since(began) > 10*time.Second {
				t.Fatalf("after %v, %d records of %d are removed", time.Since(began), now, removals)
			}
		}
		if n := r.View().Counts().Removed; n != removals {
			t.Errorf("%d records were removed, want %d", n, removals)
		}
		// As many pieces for its hash, which reads the same rows; and some until all is stored.
		least := removals / sweepPiece * sweepPause
		if took := time.Since(began); took < 2*least || took > 2*least+500*time.Millisecond {
			t.Errorf("it took %v, want %v and a little", took, 2*least)
		}
	})
}

// What a piece removes lies all over the file. The next one does not come before it is
// on disk, so that no commit is larger than that; writes go on.
func TestAPieceOfACompactionWaitsForTheOneBefore(t *testing.T) {
	h := newHome(t)
	hold, held := make(chan chan struct{}, 1), false
	h.store.OnCommit = func(store.CommitTimes) {
		select {
		case on := <-hold:
			held = true
			<-on
		default:
		}
	}
	compacting(t, h, func(t *testing.T, r *running) {
		for r.View().Counts().Removed == 0 {
			time.Sleep(sweepPause)
			synctest.Wait()
		}
		on := make(chan struct{})
		hold <- on
		time.Sleep(2 * sweepPause)
		synctest.Wait()
		before := r.View().Counts().Removed
		time.Sleep(10 * time.Second)
		r.mustPut("meanwhile", "v")
		synctest.Wait()
		if now := r.View().Counts().Removed; !held || now != before {
			t.Errorf("the store was held up: %t; meanwhile %d records were removed", held, now-before)
		}
		close(on)
		compacted := r.View().Keys.Compacted()
		for began := time.Now(); r.View().Swept < compacted && time.Since(began) < time.Minute; {
			time.Sleep(sweepPause)
		}
		if r.View().Swept < compacted {
			t.Error("it does not go on when the store does")
		}
	})
}
