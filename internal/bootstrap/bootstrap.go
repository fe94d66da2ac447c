// Package bootstrap is how a member comes to be: it looks at what the data
// directory holds, makes a new member or opens the one that is there, and hands
// over log, store and machine at one position, or says why they cannot be.
//
// It runs before anything else does, in one call, and keeps nothing.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

var (
	// ErrNotAMember says that the directory belongs to something else.
	ErrNotAMember = errors.New("not a member's data directory")
	// ErrHeld says that another process uses the data directory.
	ErrHeld = errors.New("the data directory is in use")
	// ErrInconsistent says that log and database do not fit together.
	ErrInconsistent = errors.New("log and database do not fit together")
)

// Seed is one member of the cluster that a new member begins with.
type Seed struct {
	Name     string
	PeerURLs []string
}

// Options say where the member lives and, for a new one, who it is.
type Options struct {
	DataDir string
	WALDir  string // empty: <DataDir>/member/wal

	Name    string
	Cluster []Seed // the initial cluster, this member included
	Token   string

	Store   store.Options
	Log     wal.Options
	Machine state.Options

	Logger *slog.Logger
	// Progress is told what is being waited for, in words for an operator.
	Progress func(status string)
}

// Member is an opened member. Whoever opened it closes it.
type Member struct {
	ID      member.ID
	Cluster member.ClusterID
	New     bool // this was its first start
	Log     *wal.Log
	Store   *store.File
	Machine *state.Machine
	SnapDir string // where snapshots of the log go
	lock    *Lock
}

// Close closes the files and lets go of the directory.
func (m *Member) Close() error {
	err := errors.Join(m.Log.Close(), m.Store.Close())
	return errors.Join(err, m.lock.Release())
}

// The layout below the data directory, as etcd has it; own is kvd's alone.
func (o *Options) memberDir() string { return filepath.Join(o.DataDir, "member") }

// snapDir is where the database and the snapshots of the log are.
func (o *Options) snapDir() string   { return filepath.Join(o.memberDir(), "snap") }
func (o *Options) storePath() string { return filepath.Join(o.snapDir(), "db") }
func (o *Options) own() string       { return filepath.Join(o.memberDir(), "kvd") }

func (o *Options) walDir() string {
	if o.WALDir != "" {
		return o.WALDir
	}
	return filepath.Join(o.memberDir(), "wal")
}

// Open locks the data directory and opens its member; an empty directory
// becomes a new member of the initial cluster.
func Open(ctx context.Context, o Options) (_ *Member, err error) {
	kind, err := Identify(o.DataDir)
	if err != nil {
		return nil, err
	}
	if kind == Proxy {
		return nil, fmt.Errorf("%s: it holds the state of a proxy: %w; give the member a directory of its own", o.DataDir, ErrNotAMember)
	}
	for _, dir := range []string{o.DataDir, o.memberDir(), o.snapDir(), o.own()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	lock, err := Hold(o.own())
	if err != nil {
		return nil, err
	}
	m := &Member{SnapDir: o.snapDir(), lock: lock, New: !wal.Exists(o.walDir())}
	defer func() {
		if err != nil {
			m.abandon()
		}
	}()
	if err := o.clear(); err != nil {
		return nil, err
	}
	if m.New {
		return m, m.found(ctx, &o)
	}
	return m, m.reopen(ctx, &o)
}

// abandon closes what a failed Open has opened.
func (m *Member) abandon() {
	if m.Log != nil {
		m.Log.Close()
	}
	if m.Store != nil {
		m.Store.Close()
	}
	m.lock.Release()
}

// clear removes what an interrupted reception of a snapshot has left.
func (o *Options) clear() error {
	left, err := filepath.Glob(filepath.Join(o.snapDir(), "tmp*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove a left-over file: %w", err)
		}
	}
	return nil
}

// found makes a new member: the database first, the log last and by rename, so
// that a first start that died is a first start again.
func (m *Member) found(ctx context.Context, o *Options) error {
	book, self, err := o.seeds()
	if err != nil {
		return err
	}
	if err := m.openStore(o); err != nil {
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
	m.ID, m.Cluster = self, book.cluster
	m.Log, err = wal.Create(o.walDir(), wal.Identity{Member: uint64(m.ID), Cluster: uint64(m.Cluster)}, o.Log)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	if err := m.begin(book); err != nil {
		return err
	}
	return m.loadMachine(ctx, o)
}

// begin writes the entries that every log of the cluster begins with: each of
// its first members is added, in the order of their IDs, at term 1.
func (m *Member) begin(book *founders) error {
	entries := make([]*raftpb.Entry, 0, len(book.changes))
	for i, change := range book.changes {
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

// reopen opens the member that is there.
func (m *Member) reopen(ctx context.Context, o *Options) (err error) {
	if _, err := os.Stat(o.storePath()); errors.Is(err, os.ErrNotExist) {
		o.Logger.Warn("the database is missing; it is rebuilt from the log as far as that reaches", "path", o.storePath())
	}
	if err := m.openStore(o); err != nil {
		return err
	}
	o.Progress("reading the log")
	m.Log, err = wal.Open(o.walDir(), o.Log)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	id := m.Log.Identity()
	m.ID, m.Cluster = member.ID(id.Member), member.ClusterID(id.Cluster)
	if err := m.fit(o); err != nil {
		return err
	}
	return m.loadMachine(ctx, o)
}

// fit checks that the log goes on where the database ends. A log without any
// entry is one whose first start died before it had written them.
func (m *Member) fit(o *Options) error {
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
	book, self, err := o.seeds()
	if err != nil {
		return err
	}
	if self != m.ID || book.cluster != m.Cluster {
		return fmt.Errorf("%w: the first start of member %s of cluster %s died before it was complete, and the configuration now makes it member %s of cluster %s; remove %s to begin anew",
			ErrInconsistent, m.ID, m.Cluster, self, book.cluster, o.memberDir())
	}
	m.New = true
	return m.begin(book)
}

// stamp is the last entry that the database holds.
func (m *Member) stamp() (store.Stamp, error) {
	reader, err := m.Store.Read()
	if err != nil {
		return store.Stamp{}, fmt.Errorf("read the database: %w", err)
	}
	defer reader.Close()
	return reader.Stamp(), nil
}

func (m *Member) openStore(o *Options) (err error) {
	o.Progress("opening the database")
	m.Store, err = store.Open(o.storePath(), o.Store)
	if errors.Is(err, store.ErrLocked) {
		if holder := holderOf(o.storePath()); holder != "" {
			return fmt.Errorf("%w: %s has %s open", ErrHeld, holder, o.storePath())
		}
	}
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	return nil
}
