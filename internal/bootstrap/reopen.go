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
	if len(o.Discovery.Endpoints) > 0 {
		o.Logger.Warn("discovery token is ignored since cluster already initialized; valid logs are found", "wal-dir", o.walDir())
	}
	_, err := os.Stat(o.storePath())
	missing := errors.Is(err, os.ErrNotExist)
	if !missing { // before the log, as opening that may change it
		if err := m.openStore(o); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.openLog(o); err != nil {
		return err
	}
	if err := m.recoverImage(o); err != nil {
		return err
	}
	if m.Store == nil {
		if err := m.remakeStore(o); err != nil {
			return err
		}
	}
	if err := m.fit(ctx, o); err != nil {
		return err
	}
	if err := m.clearImages(o); err != nil {
		return err
	}
	if o.ForceNew {
		if err := m.forceNew(o); err != nil {
			return err
		}
	}
	return m.defragment(ctx, o)
}

// remakeStore begins a database anew, to be filled from a log that is complete.
func (m *Member) remakeStore(o *Options) error {
	if start := m.Log.Start().Index; start > 0 {
		return fmt.Errorf("%w: the database %s is missing, and the log in %s begins behind entry %d, so it cannot be made again; put the database back, or restore the member from a snapshot into an empty directory",
			ErrInconsistent, o.storePath(), o.walDir(), start)
	}
	o.Logger.Warn("the database is missing; it is made again from the log, which is complete", "path", o.storePath())
	return m.makeStore(o)
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
			ErrHeld, HolderOf(o.storePath()), o.storePath())
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
	return CheckVersion(reader, o.storePath())
}

// CheckVersion refuses a database, the file at path, whose layout this version
// might misread.
func CheckVersion(reader store.Reader, path string) error {
	row := reader.Value(store.Meta, []byte(state.StorageVersion))
	if row == nil {
		return nil // 3.5, or nothing yet
	}
	version, err := member.ParseVersion(string(row))
	if err == nil && version.Line().Compare(oldestStorage) >= 0 && version.Line().Compare(state.ClusterVersion) <= 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: version %q is not supported, this one reads %s to %s; start the version that wrote it, or take its snapshot and restore that with a version in between",
		ErrVersion, path, row, oldestStorage, state.ClusterVersion)
}

// fit checks that the log goes on where the database ends.
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
	switch {
	case at.Index < start.Index:
		return fmt.Errorf("%w: the log in %s begins behind entry %d, the database %s ends at %d, and the leader's snapshot %s is not there; the entries between are lost: put the newer database back, or the snapshot, or remove this member from its cluster and add it again with an empty directory",
			ErrInconsistent, o.walDir(), start.Index, o.storePath(), at.Index, o.imagePath(start.Index))
	case at.Index > last:
		return fmt.Errorf("%w: the database %s holds entries up to %d, the log in %s ends at %d: acknowledged entries are missing from the log; put the whole log back, or restore the member from a snapshot",
			ErrInconsistent, o.storePath(), at.Index, o.walDir(), last)
	case last == 0:
		return m.resume(ctx, o)
	}
	return nil
}

// resume goes on with a log that has no entries. Either its member has joined a
// cluster that has not contacted it yet, or it began one and its first start
// died before it had written how.
func (m *Member) resume(ctx context.Context, o *Options) error {
	hard, _, err := m.Log.InitialState()
	if err != nil {
		return err
	}
	if o.Existing || hard.GetTerm() > 0 { // the founders' entries come before any term
		if o.ForceNew {
			return nil
		}
		return m.wait(ctx, o)
	}
	born, err := o.comeToBe(ctx)
	if err != nil {
		return err
	}
	if born.self != m.ID || born.cluster != m.Cluster {
		return fmt.Errorf("%w: the first start of member %s of cluster %s died before it was complete, and the options now make it member %s of cluster %s; if it was to join that cluster, set initial-cluster-state=existing, else remove %s to begin anew",
			ErrInconsistent, m.ID, m.Cluster, born.self, born.cluster, o.memberDir())
	}
	m.New = true
	return m.begin(born, 0)
}

// wait leaves it to the cluster to contact this member. It asks who is there,
// for those members to be answered; whoever is not found tells its URLs itself.
func (m *Member) wait(ctx context.Context, o *Options) error {
	o.Logger.Info("the log has no entries yet; waiting for the cluster to contact this member", "local-member-id", m.ID.String(), "cluster-id", m.Cluster.String())
	cluster, members, err := o.cluster(ctx, o.otherURLs(o.Cluster), probeTimeout)
	if err == nil && cluster == m.Cluster {
		m.Remotes = members
	}
	return ctx.Err()
}

// checkMembers refuses a cluster that this version, or these options, cannot
// keep up with.
func (m *Member) checkMembers(o *Options) error {
	book := m.Machine.Members()
	if v := book.ClusterVersion(); v.Line().Compare(state.ClusterVersion) > 0 {
		return fmt.Errorf("%w: the cluster has agreed on version %s, and this is %s; start the version that ran here before, or go back with it first (downgrade enable)",
			ErrVersion, v, state.ClusterVersion)
	}
	return o.tooManyLearners(book.Members())
}

// readBook reads the membership that the database holds.
func (m *Member) readBook() (_ *member.Book, err error) {
	defer store.Catch(&err)
	reader, err := m.Store.Read()
	if err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	return member.Load(reader)
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
