package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// purgeInterval is how often old files are looked for.
const purgeInterval = 30 * time.Second

// flusher writes rows to the store, some time after the commands that left them
// were acknowledged. It alone commits and opens copies, and it makes the snapshots
// of the log, which may not lie past a commit.
type flusher struct {
	r     *Replica
	queue *queue[task]
	ended chan struct{}
	// revision is the newest revision whose rows are all in the store.
	revision      atomic.Int64
	defragmenting chan struct{}   // holds who defragments: one at a time
	stopping      context.Context // ends when tasks are to give up
	giveUp        context.CancelFunc

	mu      sync.Mutex
	less    *sync.Cond // bytes have become less, or nobody waits any more
	rows    []*store.Batch
	bytes   int
	urgent  bool        // the queue has been woken for the rows
	view    *state.View // shows what the rows lead to
	free    bool        // aborted: let everybody through
	waiting int         // bytes being committed; they count until they are
	before  uint64      // Store.Measured before that commit

	committed *state.View // what the store shows
	snapshot  uint64      // index of the last snapshot in the log
	timer     *time.Timer
	armed     bool
}

// task is done once everything put before it is committed.
type task struct {
	run  func(context.Context) error
	done func(error)
}

func newFlusher(r *Replica) *flusher {
	f := &flusher{
		r: r, queue: newQueue[task](), ended: make(chan struct{}), defragmenting: make(chan struct{}, 1),
		view: r.view.Load(), committed: r.view.Load(), snapshot: r.parts.Log.Start().Index,
	}
	f.less = sync.NewCond(&f.mu)
	f.stopping, f.giveUp = context.WithCancel(context.Background())
	return f
}

func (f *flusher) stop() { f.queue.stop() }

func (f *flusher) abort() {
	f.giveUp()
	f.letGo()
	f.queue.abort()
}

// letGo ends the waiting for room.
func (f *flusher) letGo() {
	f.mu.Lock()
	f.free = true
	f.mu.Unlock()
	f.less.Broadcast()
}

// room waits until there is room for the rows of another batch. False: the
// replica was aborted.
func (f *flusher) room() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.bytes+f.waiting >= f.r.options.PendingBytes && !f.free {
		f.less.Wait()
	}
	return !f.free
}

// Pending is the bytes of rows that are not in the store's InUse yet. Who adds them
// up asks InUse first: then no row counts twice.
func (r *Replica) Pending() int {
	f := r.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != f.r.parts.Store.Measured() {
		return f.bytes // what was being committed is in the store
	}
	return f.bytes + f.waiting
}

// put takes the rows, if any, that lead to the view.
func (f *flusher) put(rows *store.Batch, view *state.View) {
	f.mu.Lock()
	first := len(f.rows) == 0 && rows != nil
	if rows != nil {
		f.rows = append(f.rows, rows)
		f.bytes += rows.Bytes()
	}
	f.view = view
	wake := first || f.bytes >= f.r.options.FlushBytes && !f.urgent || view.Applied > f.r.stored.Load()+f.r.options.SnapshotCount
	if f.bytes >= f.r.options.FlushBytes {
		f.urgent = true
	}
	f.mu.Unlock()
	if wake {
		f.queue.signal()
	}
}

// do has the flusher run a task behind a commit and waits for it.
func (f *flusher) do(ctx context.Context, run func(context.Context) error) error {
	done := make(chan error, 1)
	f.queue.put(task{run: run, done: func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-f.ended:
	}
	select {
	case err := <-done:
		return err
	default:
		return ErrStopped
	}
}

// afterFlush calls done once everything put so far is committed.
func (f *flusher) afterFlush(done func(error)) {
	f.queue.put(task{run: func(context.Context) error { return nil }, done: done})
}

func (f *flusher) run() error {
	defer close(f.ended)
	defer f.leave()
	f.timer = time.NewTimer(f.r.options.FlushInterval)
	defer f.timer.Stop()
	f.armed = true
	purge := time.NewTicker(purgeInterval)
	defer purge.Stop()
	var tasks []task
	for {
		due := false
		select {
		case <-f.queue.wake:
		case <-f.timer.C:
			f.armed, due = false, true
		case <-purge.C:
			if err := f.purge(); err != nil {
				return err
			}
		}
		var then next
		if tasks, then = f.queue.take(tasks); then == quit {
			return nil
		}
		if err := f.turn(tasks, due || then == finish); err != nil {
			return err
		}
		if then == finish {
			return nil
		}
	}
}

// leave sends away who waits for what will not be done.
func (f *flusher) leave() {
	f.giveUp()
	for _, t := range f.queue.drain() {
		t.done(ErrStopped)
	}
}

// turn commits if it has to, and runs the tasks.
func (f *flusher) turn(tasks []task, now bool) error {
	f.mu.Lock()
	far := f.view.Applied > f.r.stored.Load()+f.r.options.SnapshotCount
	now = now || far || f.urgent || len(tasks) > 0
	waits := len(f.rows) > 0
	f.mu.Unlock()
	if !now {
		if waits && !f.armed {
			f.timer.Reset(f.r.options.FlushInterval)
			f.armed = true
		}
		return nil
	}
	err := f.commit()
	for _, t := range tasks {
		if err != nil {
			t.done(ErrStopped)
			continue
		}
		t.done(t.run(f.stopping))
	}
	return err
}

// commit writes all rows that wait, with the stamp that goes with them.
func (f *flusher) commit() error {
	f.mu.Lock()
	rows, view := f.rows, f.view
	f.waiting, f.bytes = f.bytes, 0
	f.before = f.r.parts.Store.Measured()
	f.rows, f.urgent = nil, false
	f.mu.Unlock()
	stored := f.r.stored.Load()
	if len(rows) == 0 && view.Applied == stored {
		return nil
	}
	if err := f.r.parts.Store.Commit(store.Stamp{Index: view.Applied, Term: view.Term}, rows...); err != nil {
		return fmt.Errorf("commit through entry %d: %w", view.Applied, err)
	}
	f.committed = view
	f.r.stored.Store(view.Applied)
	f.revision.Store(view.Keys.Revision())
	f.mu.Lock()
	f.waiting = 0
	f.mu.Unlock()
	f.less.Broadcast()
	if view.Applied > f.snapshot+f.r.options.SnapshotCount {
		return f.mark(view)
	}
	return nil
}

// mark makes a snapshot of the log at the commit that view shows: nothing
// before it will be needed to start again. The file comes before the record.
func (f *flusher) mark(view *state.View) error {
	began := time.Now()
	conf, tree := view.Members.ConfState(), view.Members.Tree()
	encoded := time.Now()
	err := wal.WriteSnap(f.r.parts.SnapDir, &raftpb.Snapshot{
		Data:     tree,
		Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: &view.Applied, Term: &view.Term},
	})
	if err != nil {
		return fmt.Errorf("snapshot at entry %d: %w", view.Applied, err)
	}
	f.r.metrics.snapshot(began, encoded, time.Now())
	err = f.r.appender.ask(func(l *wal.Log) error {
		return l.MarkSnapshot(wal.Snapshot{Index: view.Applied, Term: view.Term, ConfState: conf})
	})
	switch {
	case errors.Is(err, ErrStopped):
		return nil
	case err != nil:
		return fmt.Errorf("snapshot at entry %d: %w", view.Applied, err)
	}
	f.snapshot = view.Applied
	f.r.log.Info("saved snapshot to disk", "snapshot-index", view.Applied)
	return nil
}

// purge removes files that nobody needs any more.
func (f *flusher) purge() error {
	if keep := f.r.options.MaxSnapshots; keep > 0 {
		if err := wal.PurgeSnaps(f.r.parts.SnapDir, keep); err != nil {
			f.r.log.Warn("old snapshot files not removed", "error", err)
		}
	}
	if keep := f.r.options.MaxSegments; keep > 0 {
		err := f.r.appender.ask(func(l *wal.Log) error {
			if err := l.Purge(keep); err != nil {
				f.r.log.Warn("old log files not removed", "error", err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrStopped) {
			return err
		}
	}
	return nil
}

// Copy opens an image of the store that holds everything applied before the
// call. The caller closes it.
func (r *Replica) Copy(ctx context.Context) (*store.Copy, error) {
	// Whichever of the two comes second, the flusher with an image or a caller
	// who waits no more, finds the other's and closes the image.
	var place atomic.Pointer[store.Copy]
	gone := &store.Copy{}
	err := r.flusher.do(ctx, func(context.Context) error {
		image, err := r.parts.Store.Copy()
		if err == nil && !place.CompareAndSwap(nil, image) {
			err = image.Close()
		}
		return err
	})
	if err == nil {
		return place.Load(), nil
	}
	if image := place.Swap(gone); image != nil {
		err = errors.Join(err, image.Close())
	}
	return nil, err
}
