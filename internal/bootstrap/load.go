package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
)

// loadMachine reads the machine out of the store.
func (m *Member) loadMachine(ctx context.Context, o *Options) (err error) {
	o.Progress("reading the key index")
	m.machine, m.log = o.Machine, o.Logger
	if m.Machine, err = m.Load(ctx, m.Store.Read); err != nil {
		return err
	}
	if err := m.Store.DropCache(); err != nil {
		o.Logger.Debug("the database stays resident", "error", err)
	}
	return nil
}

// Load reads a machine from a store that open reads: this member's own, or one
// that is about to take its place. The key index, by far the largest part, is
// read by one goroutine per core.
func (m *Member) Load(ctx context.Context, open func() (store.Reader, error)) (*state.Machine, error) {
	began := time.Now()
	hash := mvcc.NewHash()
	parts, err := readParts(hash, open)
	if err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	reader, err := open()
	if err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	whole := mvcc.Join(hash, parts...)
	var hashing sync.WaitGroup
	for i := range parts {
		hashing.Go(func() { whole.FindByHash(i, len(parts)) })
	}
	machine, err := state.Load(reader, m.Store.Read, m.machine, whole)
	hashing.Wait()
	if err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	m.log.Info("read the database", "revision", machine.Revision(), "keys", machine.View().Keys.Keys(),
		"applied", reader.Stamp().Index, "took", time.Since(began))
	return machine, nil
}

func readParts(hash mvcc.Hash, open func() (store.Reader, error)) ([]*mvcc.Part, error) {
	reader, err := open()
	if err != nil {
		return nil, err
	}
	bounds, err := bounds(reader)
	reader.Close()
	if err != nil {
		return nil, err
	}
	parts := make([]*mvcc.Part, len(bounds)-1)
	errs := make([]error, len(parts))
	var reading sync.WaitGroup
	for i := range parts {
		reading.Go(func() { parts[i], errs[i] = readPart(hash, open, bounds[i], bounds[i+1]) })
	}
	reading.Wait()
	return parts, errors.Join(errs...)
}

func bounds(r store.Reader) (_ []int64, err error) {
	defer store.Catch(&err)
	return mvcc.Bounds(r, runtime.GOMAXPROCS(0))
}

func readPart(hash mvcc.Hash, open func() (store.Reader, error), from, to int64) (_ *mvcc.Part, err error) {
	defer store.Catch(&err)
	reader, err := open()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return mvcc.ReadPart(hash, reader, from, to)
}
