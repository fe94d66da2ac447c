// Package bootstrap is how a member comes to be: it looks at what the data
// directory holds, makes a new member or opens the one that is there, and hands
// over log, store and machine at one position, or says why they cannot be.
//
// It runs before anything else does, in one call, and keeps nothing. What it
// refuses it leaves as it was. DESIGN.md says what a start that died leaves.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

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
	// ErrCluster says that the options describe no cluster that this member
	// could begin or be part of: starting again without changing them is of no
	// use. Nothing has been written.
	ErrCluster = errors.New("the initial cluster cannot be used")
	// ErrVersion says that another version wrote the database in a way that
	// this one does not know.
	ErrVersion = errors.New("the database has a format that this version does not know")
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

	Name       string
	Cluster    []Seed   // the initial cluster, this member included
	Advertised []string // this member's peer URLs, as it tells them to others
	Token      string
	Existing   bool      // the initial cluster runs already: join it
	SRV        SRV       // takes the place of Cluster
	Discovery  Discovery // takes the place of Cluster and Token

	// ForceNew makes a cluster of this member alone out of the log that is there.
	ForceNew bool

	// Peers asks the other members; nil: they cannot be reached.
	Peers Peers
	// RequestTimeout is how long another member may take to tell its version; 7 s.
	RequestTimeout time.Duration

	Store   store.Options
	Log     wal.Options
	Machine state.Options

	// DefragmentFrom is how many free bytes in the database are worth rewriting
	// it before the member starts. 0: none are.
	DefragmentFrom int64

	// Resolver finds hosts and services; nil: the system's.
	Resolver Resolver

	Logger *slog.Logger // nil: no logging
	// Progress is told what is being waited for, in words for an operator. May
	// be nil.
	Progress func(status string)
}

func (o *Options) complete() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Peers == nil {
		o.Peers = nobody{}
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = requestTimeout
	}
	o.Log.Log = o.Logger
}

// Member is an opened member. Whoever opened it closes it.
type Member struct {
	ID      member.ID
	Cluster member.ClusterID
	New     bool // this was its first start
	// Remotes are the members of the cluster that this one has joined and knows
	// nothing of yet, itself included: it is they who contact it, and it must be
	// able to answer. Empty once the log has entries.
	Remotes []member.Member
	Log     *wal.Log
	Store   *store.File
	Machine *state.Machine
	SnapDir string // where snapshots of the log go
	lock    *Lock
	machine state.Options
	log     *slog.Logger
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

// usualWAL is where the log is unless it was given a place of its own.
func (o *Options) usualWAL() string { return filepath.Join(o.memberDir(), "wal") }

func (o *Options) walDir() string {
	if o.WALDir != "" {
		return filepath.Clean(o.WALDir)
	}
	return o.usualWAL()
}

// Paths are where the files of a member are.
type Paths struct{ Member, Database, Log, Own string }

// Image is where the database is that a leader has sent, with all up to index.
func (p Paths) Image(index uint64) string {
	return filepath.Join(filepath.Dir(p.Database), fmt.Sprintf("%016x%s", index, imageSuffix))
}

// Paths says where the files of the member are.
func (o *Options) Paths() Paths {
	return Paths{Member: o.memberDir(), Database: o.storePath(), Log: o.walDir(), Own: o.own()}
}

// Open locks the data directory and opens its member; an empty directory
// becomes a new one. To discover the others may take as long as they do to come.
// It gives up between two steps when ctx ends.
func Open(ctx context.Context, o Options) (_ *Member, err error) {
	o.complete()
	defer func() { err = Explain(err) }()
	kind, err := Identify(o.DataDir)
	if err != nil {
		return nil, err
	}
	if kind == Proxy {
		return nil, fmt.Errorf("%s: it holds the state of a proxy: %w; give the member a directory of its own", o.DataDir, ErrNotAMember)
	}
	old, err := hasLog(o.walDir())
	if err != nil {
		return nil, err
	}
	var born *birth
	if !old {
		if born, err = o.comeToBe(ctx); err != nil {
			return nil, err
		}
	}
	if err := o.makeDirs(); err != nil {
		return nil, err
	}
	lock, err := Hold(o.own())
	if err != nil {
		return nil, err
	}
	m := &Member{SnapDir: o.snapDir(), lock: lock}
	defer func() {
		if err != nil {
			m.abandon()
		}
	}()
	if err := o.clear(); err != nil {
		return nil, err
	}
	// Before the lock was taken another process may have made it.
	if old, err = hasLog(o.walDir()); err != nil {
		return nil, err
	}
	if old {
		err = m.reopen(ctx, &o)
	} else {
		o.Progress("making the log and the database")
		err = m.found(ctx, &o, born)
	}
	if err != nil {
		return nil, err
	}
	if err := m.loadMachine(ctx, &o); err != nil {
		return nil, err
	}
	return m, m.checkMembers(&o)
}

// abandon closes what a failed Open has opened; its failure is the one that
// is reported.
func (m *Member) abandon() {
	if m.Log != nil {
		m.Log.Close() //nolint:errcheck // see above
	}
	if m.Store != nil {
		m.Store.Close() //nolint:errcheck // see above
	}
	m.lock.Release() //nolint:errcheck // see above
}
