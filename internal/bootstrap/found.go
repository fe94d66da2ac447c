package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/store"
	"kvd/internal/wal"
)

// found makes a new member: the database first, the log last, each by rename,
// so that a first start that died is a first start again.
func (m *Member) found(ctx context.Context, o *Options, born *birth) (err error) {
	m.New = true
	if born == nil { // there was a log before the lock was taken
		if born, err = o.comeToBe(ctx); err != nil {
			return err
		}
	}
	if err := o.unborn(); err != nil {
		return err
	}
	if err := m.makeStore(o); err != nil {
		return err
	}
	at, err := m.stamp()
	if err != nil {
		return err
	}
	if at.Index > 0 {
		return fmt.Errorf("%w: %s holds entries up to %d, but there is no log in %s; put the log back, or restore the member from a snapshot into an empty directory",
			ErrInconsistent, o.storePath(), at.Index, o.walDir())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.ID, m.Cluster, m.Remotes = born.self, born.cluster, born.remotes
	m.Log, err = wal.Create(o.walDir(), wal.Identity{Member: uint64(m.ID), Cluster: uint64(m.Cluster)}, o.Log)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	return m.begin(born, 0)
}

// unborn looks for signs that a member has lived here, whose log is missing.
func (o *Options) unborn() error {
	if o.walDir() != o.usualWAL() {
		elsewhere, err := hasLog(o.usualWAL())
		if err != nil {
			return err
		}
		if elsewhere {
			return fmt.Errorf("%w: there is no log in %s (wal-dir), but one in %s; leave wal-dir out, or move the log there",
				ErrInconsistent, o.walDir(), o.usualWAL())
		}
	}
	for _, pattern := range []string{"*.snap", "*" + imageSuffix} {
		snaps, err := filepath.Glob(filepath.Join(o.snapDir(), pattern))
		if err != nil {
			return err
		}
		if len(snaps) > 0 {
			return fmt.Errorf("%w: %s is a snapshot of a member's log, but there is no log in %s; put the log back, or restore the member from a snapshot into an empty directory",
				ErrInconsistent, snaps[len(snaps)-1], o.walDir())
		}
	}
	return nil
}

// makeStore makes the database, unless an earlier start has. It gets its name
// when it is whole.
func (m *Member) makeStore(o *Options) error {
	if _, err := os.Stat(o.storePath()); errors.Is(err, os.ErrNotExist) {
		temp := filepath.Join(o.snapDir(), tempPrefix+".db")
		made, err := store.Open(temp, o.Store)
		if err != nil {
			return fmt.Errorf("make the database: %w", err)
		}
		if err := errors.Join(made.Close(), os.Rename(temp, o.storePath()), syncDir(o.snapDir())); err != nil {
			return fmt.Errorf("make the database: %w", err)
		}
	}
	return m.openStore(o)
}

// begin writes the entries that every log of the cluster begins with: each of
// its first members is added, in the order of their IDs, at term 1. Who joins a
// cluster gets them from there. Vote is whom the member has voted for at that
// term; 0: nobody.
func (m *Member) begin(born *birth, vote uint64) error {
	if len(born.changes) == 0 {
		return nil
	}
	entries := make([]*raftpb.Entry, 0, len(born.changes))
	for i, change := range born.changes {
		data, err := encodeChange(change)
		if err != nil {
			return err
		}
		entries = append(entries, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)), Data: data,
		})
	}
	state := &raftpb.HardState{Term: new(uint64(1)), Vote: &vote, Commit: new(uint64(len(entries)))}
	if err := m.Log.Append(state, entries, true); err != nil {
		return fmt.Errorf("begin the log: %w", err)
	}
	return nil
}

// encodeChange serializes a ConfChange as etcd writes the first entries of a
// log: type and node, explicitly, and the context.
func encodeChange(c *raftpb.ConfChange) ([]byte, error) {
	if c.GetId() != 0 {
		return nil, errors.New("a change that founds a cluster has no request ID")
	}
	b := protowire.AppendTag(nil, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(c.GetType()))
	b = protowire.AppendTag(b, 3, protowire.VarintType)
	b = protowire.AppendVarint(b, c.GetNodeId())
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendBytes(b, c.GetContext()), nil
}
