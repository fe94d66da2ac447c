package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// founders are the members that a cluster begins with, this one among them.
type founders struct {
	cluster member.ClusterID
	self    member.ID
	changes []*raftpb.ConfChange // one addition each, by ID
}

// founders works out the initial cluster and whether this member may begin it.
func (o *Options) founders(ctx context.Context) (*founders, error) {
	at := slices.IndexFunc(o.Cluster, func(s Seed) bool { return s.Name == o.Name })
	if at < 0 || len(o.Cluster[at].PeerURLs) == 0 {
		return nil, fmt.Errorf("%w: couldn't find local name %q in the initial cluster configuration", ErrCluster, o.Name)
	}
	if err := o.agree(ctx, o.Cluster[at].PeerURLs); err != nil {
		return nil, err
	}
	if err := o.distinct(); err != nil {
		return nil, err
	}
	members := make([]member.Member, 0, len(o.Cluster))
	ids := make([]member.ID, 0, len(o.Cluster))
	for _, s := range o.Cluster {
		id := member.NewID(s.PeerURLs, o.Token)
		members = append(members, member.Member{ID: id, PeerURLs: slices.Sorted(slices.Values(s.PeerURLs)), Name: s.Name})
		ids = append(ids, id)
	}
	f := &founders{cluster: member.ClusterIDOf(ids), self: members[at].ID}
	slices.SortFunc(members, func(a, b member.Member) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range members {
		f.changes = append(f.changes, member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}.Entry(0))
	}
	return f, nil
}

// distinct makes sure that no two members are at one place.
func (o *Options) distinct() error {
	seen := map[string]string{}
	for _, s := range o.Cluster {
		if len(s.PeerURLs) == 0 {
			return fmt.Errorf("%w: member %q has no peer URL", ErrCluster, s.Name)
		}
		for _, u := range s.PeerURLs {
			if other, ok := seen[u]; ok {
				return fmt.Errorf("%w: initial cluster %s has duplicate url: %s is that of %q and of %q", ErrCluster, pairs(o.Cluster...), u, other, s.Name)
			}
			seen[u] = s.Name
		}
	}
	return nil
}

// pairs writes members as the option does: name=URL, separated by commas.
func pairs(seeds ...Seed) string {
	var all []string
	for _, s := range seeds {
		for _, u := range s.PeerURLs {
			all = append(all, s.Name+"="+u)
		}
	}
	return strings.Join(all, ",")
}

// found makes a new member: the database first, the log last, each by rename,
// so that a first start that died is a first start again.
func (m *Member) found(ctx context.Context, o *Options, born *founders) (err error) {
	m.New = true
	if born == nil { // there was a log before the lock was taken
		if born, err = o.founders(ctx); err != nil {
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
	m.ID, m.Cluster = born.self, born.cluster
	m.Log, err = wal.Create(o.walDir(), wal.Identity{Member: uint64(m.ID), Cluster: uint64(m.Cluster)}, o.Log)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	return m.begin(born)
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
	snaps, err := filepath.Glob(filepath.Join(o.snapDir(), "*.snap"))
	if err != nil {
		return err
	}
	if len(snaps) > 0 {
		return fmt.Errorf("%w: %s is a snapshot of a member's log, but there is no log in %s; put the log back, or restore the member from a snapshot into an empty directory",
			ErrInconsistent, snaps[len(snaps)-1], o.walDir())
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
// its first members is added, in the order of their IDs, at term 1.
func (m *Member) begin(born *founders) error {
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
	state := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(len(entries)))}
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
