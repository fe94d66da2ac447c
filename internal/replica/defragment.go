package replica

import (
	"context"
	"errors"

	"kvd/internal/store"
)

// mostRounds bounds how often what was committed during a round of a
// defragmentation is copied before commits wait for the rest: more of it comes as
// fast as it is copied.
const mostRounds = 16

// Defragment rewrites the store without its free pages. Reads and writes go on:
// the copy is made here, beside the flusher, which stands still only for what was
// committed in the last moment.
func (r *Replica) Defragment(ctx context.Context) (err error) {
	f := r.flusher
	select {
	case f.defragmenting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-f.ended:
		return ErrStopped
	}
	r.metrics.defragmenting.Set(1)
	defer func() {
		r.metrics.defragmenting.Set(0)
		<-f.defragmenting
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.stopping, cancel)()
	var w *store.Rewrite
	if err := f.turnOf(func() (err error) {
		w, err = r.parts.Store.Rewrite()
		return err
	}); err != nil {
		return err
	}
	defer func() {
		closed := f.turnOf(w.Close)
		if errors.Is(closed, ErrStopped) { // nobody commits any more
			closed = w.Close()
		}
		err = errors.Join(err, closed)
	}()
	for range mostRounds {
		if err := w.Copy(ctx); err != nil {
			return err
		}
		if w.Settled() {
			break
		}
		if err := f.turnOf(w.Next); err != nil {
			return err
		}
	}
	return f.turnOf(func() error { return w.Finish(ctx) })
}

// turnOf lets the flusher do something of a defragmentation, and waits until it has,
// whatever the caller's context says: the two must not touch it at once. It is
// short.
func (f *flusher) turnOf(do func() error) error {
	return f.do(context.Background(), func(context.Context) error { return do() })
}
