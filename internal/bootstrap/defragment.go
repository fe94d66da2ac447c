package bootstrap

import (
	"context"
	"fmt"
)

// defragment rewrites the database if that gains enough.
func (m *Member) defragment(ctx context.Context, o *Options) error {
	if o.DefragmentFrom <= 0 {
		return nil
	}
	const mib = 1 << 20
	size, used := m.Store.Size(), m.Store.InUse()
	log := o.Logger.With("current-db-size-bytes", size, "current-db-size-in-use-bytes", used)
	if size-used < o.DefragmentFrom {
		log.Info("skipping defragmentation", "bootstrap-defrag-threshold-bytes", o.DefragmentFrom)
		return nil
	}
	o.Progress(fmt.Sprintf("defragmenting the database: %d MiB of %d MiB are free", (size-used)/mib, size/mib))
	log.Info("defragmenting the database")
	if err := m.Store.Defragment(ctx); err != nil {
		return fmt.Errorf("defragment the database at start (bootstrap-defrag-threshold-megabytes): %w", err)
	}
	o.Logger.Info("finished defragmenting the database", "current-db-size-bytes", m.Store.Size(), "freed-bytes", size-m.Store.Size())
	return nil
}
