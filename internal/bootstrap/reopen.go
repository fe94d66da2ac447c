package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"

	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/vfs"
	"kvd/internal/wal"
)

// oldestStorage is the oldest layout of the database that can be read. 3.5 has
// no row for it.
var oldestStorage = member.Version{Major: 3, Minor: 5}

// reopen opens the member that is there.
func (m *Member) reopen(ctx context.Context, o *Options) error {
	if _, err := os.Stat(o.storePath()); errors.Is(err, os.ErrNotExist) {
		// The log first: it says whether the database can be made of it.
		if err := m.openLog(o); err != nil {
			return err
		}
		if start := m.Log.Start().Index; start > 0 {
			return fmt.Errorf("%w: the database %s is missing, and the log in %s begins behind entry %d, so it cannot be made again; put the database back, or restore the member from a snapshot into an empty directory",
				ErrInconsistent, o.storePath(), o.walDir(), start)
		}
		o.Logger.Warn("the database is missing; it is made again from the log, which is complete", "path", o.storePath())
		if err := m.makeStore(o); err != nil {
			return err
		}
	} else if err := m.openStore(o); err != nil {
		return err
	} else if err := m.defragment(ctx, o); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Log == nil {
		if err := m.openLog(o); err != nil {
			return err
		}
	}
	return m.fit(ctx, o)
}

func (m *Member) openLog(o *Options) (err error) {
	o.Progress("reading the log")
	m.Log, err = wal.Open(o.walDir(), o.Log)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: another process writes to the log in %s; stop it first, or give this member a wal-dir of its own", ErrHeld, o.walDir())
	}
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	id := m.Log.Identity()
	m.ID, m.Cluster = member.ID(id.Member), member.ClusterID(id.Cluster)
	return nil
}

// openStore opens the database that is there. It reads all of it, which takes
// most of the time of a start.
func (m *Member) openStore(o *Options) (err error) {
	o.Progress("opening the database")
	m.Store, err = store.Open(o.storePath(), o.Store)
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w: %s has %s open; stop it first, or give this member a data directory of its own",
			ErrHeld, holderOf(o.storePath()), o.storePath())
	}
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	return m.checkVersion(o)
}

// checkVersion refuses a layout that this version might misread.
func (m *Member) checkVersion(o *Options) (err error) {
	defer store.Catch(&err)
	reader, err := m.Store.Read()
	if err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	row := reader.Value(store.Meta, []byte(state.StorageVersion))
	if row == nil {
		return nil // 3.5, or nothing yet
	}
	version, err := member.ParseVersion(string(row))
	if err == nil && version.Line().Compare(oldestStorage) >= 0 && version.Line().Compare(state.ClusterVersion) <= 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: version %q is not supported, this one reads %s to %s; start the version that wrote it, or take its snapshot and restore that with a version in between",
		ErrVersion, o.storePath(), row, oldestStorage, state.ClusterVersion)
}

// fit checks that the log goes on where the database ends. A log without any
// entry is one whose first start died before it had written them.
func (m *Member) fit(ctx context.Context, o *Options) error {
	at, err := m.stamp()
	if err != nil {
		return err
	}
	last, err := m.Log.LastIndex()
	if err != nil {
		return err
	}
	start := m.Log.Start()
	hard, _, err := m.Log.InitialState()
	if err != nil {
		return err
	}
	switch {
	case at.Index < start.Index:
		return fmt.Errorf("%w: the log in %s begins behind entry %d, the database %s ends at %d; the entries between are lost: put the newer database back, or remove this member from its cluster and add it again with an empty directory",
			ErrInconsistent, o.walDir(), start.Index, o.storePath(), at.Index)
	case at.Index > last:
		return fmt.Errorf("%w: the database %s holds entries up to %d, the log in %s ends at %d: acknowledged entries are missing from the log; put the whole log back, or restore the member from a snapshot",
			ErrInconsistent, o.storePath(), at.Index, o.walDir(), last)
	case last > 0 || hard.GetTerm() > 0:
		return nil
	}
	born, err := o.founders(ctx)
	if err != nil {
		return err
	}
	if born.self != m.ID || born.cluster != m.Cluster {
		return fmt.Errorf("%w: the first start of member %s of cluster %s died before it was complete, and the options now make it member %s of cluster %s; remove %s to begin anew",
			ErrInconsistent, m.ID, m.Cluster, born.self, born.cluster, o.memberDir())
	}
	m.New = true
	return m.begin(born)
}

// stamp is the last entry that the database holds.
func (m *Member) stamp() (_ store.Stamp, err error) {
	defer store.Catch(&err)
	reader, err := m.Store.Read()
	if err != nil {
		return store.Stamp{}, fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	return reader.Stamp(), nil
}
