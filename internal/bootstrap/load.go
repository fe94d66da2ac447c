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

// loadMachine reads the machine out of the store. The key index, by far the
// largest part, is read by one goroutine per core.
func (m *Member) loadMachine(ctx context.Context, o *Options) error {
	o.Progress("reading the key index")
	began := time.Now()
	parts, err := m.readParts()
	if err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	reader, err := m.Store.Read()
	if err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	whole := mvcc.Join(parts...)
	var hashing sync.WaitGroup
	hashing.Go(whole.FindByHash)
	m.Machine, err = state.Load(reader, m.Store.Read, o.Machine, whole)
	hashing.Wait()
	if err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	if err := m.Store.DropCache(); err != nil {
		o.Logger.Debug("the database stays resident", "error", err)
	}
	o.Logger.Info("read the database", "revision", m.Machine.Revision(), "keys", m.Machine.View().Keys.Keys(),
		"applied", reader.Stamp().Index, "took", time.Since(began))
	return nil
}

func (m *Member) readParts() ([]*mvcc.Part, error) {
	reader, err := m.Store.Read()
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
		reading.Go(func() { parts[i], errs[i] = m.readPart(bounds[i], bounds[i+1]) })
	}
	reading.Wait()
	return parts, errors.Join(errs...)
}

func bounds(r store.Reader) (_ []int64, err error) {
	defer store.Catch(&err)
	return mvcc.Bounds(r, runtime.GOMAXPROCS(0))
}

func (m *Member) readPart(from, to int64) (_ *mvcc.Part, err error) {
	defer store.Catch(&err)
	reader, err := m.Store.Read()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return mvcc.ReadPart(reader, from, to)
}
