// Package replica is this member's copy of the data, kept by raft: it puts
// proposals in order, makes them durable, applies them to the machine and
// publishes the views that everybody reads. Propose, Barrier, View and Status
// are what the rest of the house needs of a member; the other calls are upkeep.
//
// It does not know what a command does (package state), how bytes lie on disk
// (packages wal and store), how messages travel (Parts.Send) or who is allowed
// what. Every exported method but Run may be called from any goroutine.
// DESIGN.md says who runs and who owns what.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/sd"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

var (
	// ErrStopped says that the member is stopping, or has failed. Whether the
	// proposal will be in the log is not known.
	ErrStopped = errors.New("the member is stopping")
	// ErrTooManyRequests says that too much is waiting already. Nothing was
	// proposed.
	ErrTooManyRequests = errors.New("too many requests")
	// ErrTooLarge says that the command is larger than MaxRequestBytes.
	ErrTooLarge = errors.New("request is too large")
	// ErrTimeout says that there was no answer in time. Whether the proposal is
	// in the log is not known.
	ErrTimeout = errors.New("request timed out")
	// ErrTimeoutLeaderFailed is ErrTimeout when a leader was lost on the way.
	ErrTimeoutLeaderFailed = errors.New("request timed out, possibly due to previous leader failure")
	// ErrTimeoutApply says that the applied index did not catch up in time.
	ErrTimeoutApply = errors.New("request timed out, waiting for the applied index took too long")
	// ErrTimeoutTransfer says that leadership was not handed over in time.
	ErrTimeoutTransfer = errors.New("request timed out, leader transfer took too long")
	// ErrLeaderChanged ends reads that were waiting for the leader that was.
	ErrLeaderChanged = errors.New("leader changed")
	// ErrNotLeader says that only the leader can answer.
	ErrNotLeader = errors.New("not the leader")
	// ErrMismatch says that log and store cannot belong together.
	ErrMismatch = errors.New("log and store do not fit")
)

// Options tune a replica. A zero field takes the default named beside it.
type Options struct {
	Heartbeat       time.Duration // between the leader's heartbeats, and raft's tick; 100 ms
	Election        time.Duration // without a leader before an election; 1 s
	PreVote         bool          // ask around before an election
	MaxRequestBytes int           // of a command as it goes into the log; 1.5 MiB

	FlushInterval time.Duration // rows wait this long for a commit to the store; 100 ms
	FlushBytes    int           // this many do not wait; 4 MiB
	PendingBytes  int           // of rows not committed; the applier waits past it; 64 MiB

	SnapshotCount  uint64 // entries between snapshots of the log; 10,000
	CatchupEntries uint64 // kept in memory behind a snapshot, for slow peers; 5000
	MaxSnapshots   int    // .snap files kept; 5; negative: all
	MaxSegments    int    // files of the log kept behind a snapshot; 5; negative: all

	CompactionBatch int           // records removed at once; 1000
	CompactionPause time.Duration // between batches; 10 ms
	Retention       Retention     // compacted to by the leader; all is kept

	LeaseCheckpoints bool // the leader notes now and then how long a lease has left
	RevokesFirst     bool // ends of leases are proposed when too much waits for anything else
	AdvanceTicks     bool // a member that starts among others that are up does not wait a whole election timeout

	SlowApply time.Duration // an entry that takes longer is logged; 100 ms
}

// Complete fills in the defaults and reports every fault.
func (o *Options) Complete() error {
	fill(&o.Heartbeat, 100*time.Millisecond)
	fill(&o.Election, time.Second)
	fill(&o.MaxRequestBytes, 3<<19)
	fill(&o.FlushInterval, 100*time.Millisecond)
	fill(&o.FlushBytes, 4<<20)
	fill(&o.PendingBytes, 64<<20)
	fill(&o.SnapshotCount, 10_000)
	fill(&o.CatchupEntries, 5000)
	fill(&o.MaxSnapshots, 5)
	fill(&o.MaxSegments, 5)
	fill(&o.CompactionBatch, 1000)
	fill(&o.CompactionPause, 10*time.Millisecond)
	fill(&o.SlowApply, 100*time.Millisecond)
	var faults []error
	for _, f := range []struct {
		wrong bool
		text  string
	}{
		{o.Heartbeat < time.Millisecond, "the heartbeat interval is below 1 ms"},
		{o.Election < 5*o.Heartbeat, "the election timeout is below 5 heartbeat intervals"},
		{o.MaxRequestBytes < 0, "the largest request is negative"},
		{o.FlushInterval < 0, "the flush interval is negative"},
		{o.FlushBytes < 0 || o.PendingBytes < o.FlushBytes, "more rows are flushed at once than may wait"},
		{o.CompactionBatch < 0, "the compaction batch is negative"},
		{o.CompactionPause < 0, "the compaction pause is negative"},
		{o.Retention.Window < 0 || o.Retention.Revisions < 0, "the retention is negative"},
		{o.Retention.Window > 0 && o.Retention.Revisions > 0, "the retention is of a time and of revisions"},
	} {
		if f.wrong {
			faults = append(faults, errors.New(f.text))
		}
	}
	return errors.Join(faults...)
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// requestTimeout is how long a proposal or read waits for its answer.
func (o *Options) requestTimeout() time.Duration { return 5*time.Second + 2*o.Election }

// Parts are what a replica is put together from. It owns Log, Store and Machine
// while Run runs; who made Log and Store closes them afterwards.
type Parts struct {
	Member  uint64         // this member's ID
	Log     *wal.Log       // opened; its entries reach to the store's stamp or past it
	Store   *store.File    // opened
	Machine *state.Machine // loaded from Store
	SnapDir string         // where .snap files go

	// Send takes messages for other members. It is called from two goroutines,
	// and must neither block nor fail: what cannot be sent is dropped. Nil while
	// there is nobody to send to.
	Send func([]*raftpb.Message)
	// SendSnapshot takes a copy of the store for another member, and the message
	// that goes before it. It owns the image from then on, must not block, and
	// ends in SnapshotSent. Nil while there is nobody to send to.
	SendSnapshot func(m *raftpb.Message, image *store.Copy)
	// Members is told of every change of the membership once View shows it and
	// before raft knows of it. It must not block. May be nil.
	Members func(member.View)
	// Connected is how many other members are connected now. May be nil.
	Connected func() int
	// Linked reports whether another member has been connected all the time
	// since then. Timeouts say so if not. May be nil.
	Linked func(id member.ID, since time.Time) bool
	// Load reads a machine from a store that another member has sent; Store will
	// be that store when rows are read later.
	Load func(open func() (store.Reader, error)) (*state.Machine, error)
	// Replaced is told that the view has become that of another store: what was
	// published before is not what leads to it. It must not block. May be nil.
	Replaced func()
	// Tokens is told of tokens that entries have made or voided, before a view
	// shows those entries. It must not block. May be nil.
	Tokens func([]state.TokenChange)
	// Publish is told of the changes up to revision rev, in order, after the
	// view that shows them is the current one. It must not block. May be nil.
	Publish func(view *mvcc.View, rev int64, events []*mvcc.Event)

	Logger  *slog.Logger // nil: no logging
	Metrics *Metrics     // nil: not measured
}

// Replica is this member's copy.
type Replica struct {
	options Options
	parts   Parts
	log     *slog.Logger
	metrics *Metrics

	ids      *IDs
	intake   *intake
	loop     *loop
	appender *appender
	applier  *applier
	flusher  *flusher

	view     atomic.Pointer[state.View]
	standing atomic.Pointer[standing]
	commit   atomic.Uint64
	applied  atomic.Uint64 // what view shows
	stored   atomic.Uint64 // what the store holds
	// alone says that Barrier needs no round. The loop clears it before raft
	// hears of another member.
	alone atomic.Bool
	ran   atomic.Bool
	// installing says that the applier takes over a snapshot, which may take long.
	installing atomic.Bool
	// receiving keeps snapshots of two leaders from being saved at once.
	receiving sync.Mutex
}

// standing is what changes with elections.
type standing struct {
	leader, term uint64
	state        raft.StateType
	since        time.Time // the leader is known since
}

// Status is where the member stands. The numbers are read one after the other:
// those that grow may be a little apart.
type Status struct {
	Member  uint64
	Leader  uint64 // 0: none known
	Term    uint64
	State   raft.StateType
	Commit  uint64
	Applied uint64 // what View shows
	Stored  uint64 // what the store holds; the log has the rest
}

// Leading reports whether this member leads.
func (s Status) Leading() bool { return s.State == raft.StateLeader }

// New puts a replica together. Run starts it.
func New(o Options, p Parts) (*Replica, error) {
	if err := o.Complete(); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	if p.Send == nil {
		p.Send = func([]*raftpb.Message) {}
	}
	if p.Publish == nil {
		p.Publish = func(*mvcc.View, int64, []*mvcc.Event) {}
	}
	if p.SendSnapshot == nil {
		p.SendSnapshot = func(_ *raftpb.Message, image *store.Copy) { image.Close() }
	}
	if p.Members == nil {
		p.Members = func(member.View) {}
	}
	if p.Connected == nil {
		p.Connected = func() int { return 0 }
	}
	if p.Replaced == nil {
		p.Replaced = func() {}
	}
	if p.Tokens == nil {
		p.Tokens = func([]state.TokenChange) {}
	}
	if p.Metrics == nil {
		p.Metrics = NewMetrics(nil)
	}
	index, term := p.Machine.Applied()
	at := store.Stamp{Index: index, Term: term}
	if err := checkLog(p.Log, at); err != nil {
		return nil, err
	}
	p.Log.SetConfState(p.Machine.Members().ConfState())
	var core *Core
	err := explained(func() (err error) {
		core, err = NewCore(CoreOptions{
			Self:          p.Member,
			ElectionTicks: int(o.Election / o.Heartbeat),
			PreVote:       o.PreVote,
			Applied:       index,
		}, lifted{p.Log, index}, p.Logger)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := &Replica{
		options: o, parts: p, log: p.Logger, metrics: p.Metrics,
		ids: NewIDs(p.Member, time.Now()), intake: newIntake(),
	}
	r.view.Store(p.Machine.View())
	r.commit.Store(core.commit)
	r.applied.Store(index)
	r.stored.Store(index)
	r.metrics.applied.Set(float64(index))
	r.metrics.committed.Set(float64(core.commit))
	r.standing.Store(&standing{term: core.term})
	r.loop = newLoop(r, core)
	r.appender = newAppender(r)
	r.applier = newApplier(r)
	r.flusher = newFlusher(r)
	return r, nil
}

// View is the state after the last applied batch.
func (r *Replica) View() *state.View { return r.view.Load() }

// Status is where the member stands.
func (r *Replica) Status() Status {
	s := r.standing.Load()
	return Status{
		Member: r.parts.Member, Leader: s.leader, Term: s.term, State: s.state,
		Commit: r.commit.Load(), Applied: r.applied.Load(), Stored: r.stored.Load(),
	}
}

// hangGrace is how long Run waits for its goroutines after a disk has failed.
const hangGrace = 2 * time.Second

// Run keeps the replica going until ctx ends or a disk fails. It may be called
// once. When ctx ends, what is committed is applied and flushed; waiting
// callers are told ErrStopped. After an error nothing more is acknowledged; one
// of the goroutines may then be left hanging in the disk that failed, and the
// process is expected to end.
func (r *Replica) Run(ctx context.Context) error {
	if r.ran.Swap(true) {
		panic("replica: Run called twice")
	}
	// The loop is stopped first: the others finish what it has handed out.
	stages := []stage{r.loop, r.applier, r.flusher, r.appender}
	failed := make(chan error, len(stages))
	ended := make([]chan struct{}, len(stages))
	for i, s := range stages {
		ended[i] = make(chan struct{})
		go func() {
			defer close(ended[i])
			if err := explained(s.run); err != nil {
				failed <- err
			}
		}()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for i, s := range stages {
		if err != nil {
			break
		}
		s.stop()
		select {
		case <-ended[i]:
		case err = <-failed:
		}
	}
	r.intake.close() // nobody is answered after this
	if err == nil {
		select {
		case err = <-failed:
		default:
			return nil
		}
	}
	r.abandon(stages, ended)
	return err
}

// stage is one of the goroutines.
type stage interface {
	run() error // until stop, with all its work done; or abort, at once; or a failure
	stop()
	abort()
}

// abandon ends all stages without regard to their work.
func (r *Replica) abandon(stages []stage, ended []chan struct{}) {
	for _, s := range stages {
		s.abort()
	}
	var all sync.WaitGroup
	done := make(chan struct{})
	for _, end := range ended {
		all.Go(func() { <-end })
	}
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(hangGrace):
		r.log.Error("the disk does not answer; not waiting for it", sd.Message(sd.MessageDisk))
	}
}
