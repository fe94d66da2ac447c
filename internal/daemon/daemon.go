// Package daemon wires a member together from the packages below and runs it
// until it is told to stop. Every step that opens something says so to the
// service manager, and is undone in the reverse order.
//
// It holds no logic of its own beyond order: what a step does is the business
// of the package that it calls.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/api"
	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/credential"
	"kvd/internal/gateway"
	"kvd/internal/listen"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/peer"
	"kvd/internal/proxy"
	"kvd/internal/replica"
	"kvd/internal/sd"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/upkeep"
	"kvd/internal/vfs"
	"kvd/internal/watch"
)

// Inputs are what the process brings along.
type Inputs struct {
	Config   *config.Config
	Log      *Logger
	Version  string // kvd's own
	Commit   string // that it was built from
	Notifier sd.Notifier
	// Reload delivers the configuration read anew each time the operator asks
	// for it, or what was wrong with it.
	Reload <-chan Reread
	Files  vfs.FS // that the log is kept on; nil: the operating system's
}

// Reread is the configuration read again.
type Reread struct {
	Config *config.Config
	Err    error
}

// running is a member at work. Run's goroutine owns it; what the gateway may
// ask at any time says so.
type running struct {
	in       Inputs
	config   *config.Config // that the process was started with
	log      *slog.Logger
	notify   sd.Notifier
	registry *prometheus.Registry
	metrics  *replica.Metrics

	ports     ports
	clients   *side // nil: no port for clients asks for TLS
	peers     *side
	members   *side // of a proxy towards members' client ports; nil: it shows and trusts what the side of clients does
	exposure  exposure
	web       *gateway.Gateway
	opened    *bootstrap.Member
	replica   *replica.Replica
	transport *peer.Transport
	hub       *watch.Hub
	upkeep    *upkeep.Upkeep
	crew      *crew
	gone      chan struct{} // this member has applied its own removal; of one
	joined    bool          // it was ready once
	proxy     *proxy.Proxy  // nil: this is a member
	founders  []string      // peer URLs of the cluster that this proxy was sent to by discovery

	splits    []*listen.Split
	passwords *credential.Passwords
	tokens    api.Tokens
	services  *api.API // made before live is set

	live  atomic.Pointer[replica.Replica] // replica, for any goroutine; nil until it is made
	phase atomic.Value                    // string: the last status; for any goroutine
	// corrupt says that this member is alarmed as corrupt; for any goroutine.
	corrupt atomic.Bool
	tracing tracing
	filled  atomic.Uint32 // upkeep.Fill, as it was told last; for any goroutine
}

const (
	// extendBy is what each sign of progress asks the service manager for.
	extendBy = 30 * time.Second
	// openGrace is how long a stop waits for a member that is being opened.
	openGrace = 2 * time.Second
)

func newRunning(in Inputs) *running {
	m := &running{
		in: in, config: in.Config, log: in.Log.Logger, notify: in.Notifier,
		registry: prometheus.NewRegistry(), crew: newCrew(), gone: make(chan struct{}, 1),
	}
	m.phase.Store("starting")
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Run starts a member, or a proxy of a cluster, and runs it until ctx ends or it
// fails. After a failure of the disk nothing is waited for: the process is
// expected to end. The error is a *ConfigError when starting again is of no use
// before the configuration has been changed.
func Run(ctx context.Context, in Inputs) error {
	m := newRunning(in)
	for _, w := range in.Config.Warnings {
		m.log.Warn(w)
	}
	role, err := m.identify()
	if err != nil {
		m.status("not started: " + err.Error())
		return err
	}
	if role == bootstrap.Proxy {
		return m.runProxy(ctx)
	}
	if err := m.begin(ctx); err != nil {
		m.status("not started: " + err.Error())
		return err
	}
	defer m.ports.close()
	m.warnExposed(ctx)
	m.web = m.newGateway()
	m.serveMetrics()
	if err := m.open(ctx); err != nil {
		err = m.retreat(ctx, err)
		var full *bootstrap.FullError
		if errors.As(err, &full) && in.Config.Discovery.Fallback == "proxy" {
			m.ports.close()
			return m.becomeProxy(ctx, full.PeerURLs)
		}
		return err
	}
	if err := m.refuseExposed(); err != nil {
		return m.retreat(ctx, errors.Join(err, m.opened.Close()))
	}
	if err := m.assemble(); err != nil {
		return m.retreat(ctx, errors.Join(err, m.opened.Close()))
	}
	if err := m.checkStart(ctx, m.others()); err != nil {
		return m.retreat(ctx, errors.Join(err, m.opened.Close()))
	}
	err = m.serve(ctx)
	var refused *ConfigError
	if errors.As(err, &refused) {
		return errors.Join(err, m.stop(context.WithoutCancel(ctx)))
	}
	var removed *RemovedError
	if errors.As(err, &removed) {
		m.log.Error("server error", "error", err)
		if m.joined { // it was removed in this life: an end in order, of which nothing is left to do
			err = nil
		}
		return errors.Join(err, m.stop(context.WithoutCancel(ctx)))
	}
	if err != nil {
		err = bootstrap.Explain(err)
		m.log.LogAttrs(ctx, slog.LevelError, "the member failed", message(messageFailed), slog.Any("error", err))
		m.status("failed: " + err.Error())
		return err // the disk or the machine cannot be trusted any more: no farewell
	}
	return m.stop(context.WithoutCancel(ctx))
}

// begin is the start up to the ports, from which on there is something to undo.
func (m *running) begin(ctx context.Context) error {
	if err := m.newCredentials(); err != nil {
		return err
	}
	m.progress("opening the ports")
	return m.listen(ctx)
}

// retreat ends a start that did not come to a member. One that was told to stop
// has not failed.
func (m *running) retreat(ctx context.Context, err error) error {
	stopped := ctx.Err() != nil && errors.Is(err, ctx.Err())
	why := "stopping before the member was open"
	if !stopped {
		why = "not started: " + err.Error()
	}
	m.phase.Store(why)
	m.notify.Stopping(why) //nolint:errcheck // systemd sees the end in any case
	m.crew.stop(func(string) {})
	if stopped {
		m.log.Info("stopped before the member was open")
		return nil
	}
	return err
}

// stop ends a member in order: clients first, the files last.
func (m *running) stop(ctx context.Context) error {
	m.notify.Stopping("stopping") //nolint:errcheck // systemd sees the end in any case
	m.log.LogAttrs(ctx, slog.LevelInfo, "stopping", message(messageStopping))
	m.handOver(ctx)
	m.closeDoors()
	m.crew.stop(func(name string) { m.progress("stopping: " + name) })
	m.progress("stopping: closing log and database")
	var err error
	select {
	case err = <-m.crew.failed:
	default:
	}
	if err = errors.Join(err, m.opened.Close()); err != nil {
		return fmt.Errorf("stop: %w", bootstrap.Explain(err))
	}
	m.status("stopped")
	m.log.Info("stopped")
	return nil
}

// closeDoors takes no more clients, and waits until those that have come are with
// the services. Where systemd has opened the port, the next ones wait there for
// the next process.
func (m *running) closeDoors() {
	m.progress("stopping: taking no more clients")
	var draining sync.WaitGroup
	for _, split := range m.splits {
		draining.Go(split.Drain)
	}
	draining.Wait()
}

// status tells the service manager in words where the member is.
func (m *running) status(text string) {
	m.phase.Store(text)
	m.notify.Status(text) //nolint:errcheck // a status that nobody gets harms nobody
}

// progress is status, and asks for more time.
func (m *running) progress(text string) {
	m.status(text)
	m.extend()
}

func (m *running) extend() {
	m.notify.Extend(extendBy) //nolint:errcheck // as with status
}

// assemble makes replica and hub of what was opened.
func (m *running) assemble() (err error) {
	c := m.config
	m.replica, err = replica.New(replica.Options{
		Heartbeat:        c.Raft.HeartbeatInterval,
		Election:         c.Raft.ElectionTimeout,
		PreVote:          c.Raft.PreVote,
		MaxRequestBytes:  int(c.Limits.RequestBytes),
		FlushInterval:    c.Store.FlushInterval,
		SnapshotCount:    c.Raft.SnapshotCount,
		CatchupEntries:   c.Raft.SnapshotCatchupEntries,
		MaxSnapshots:     keep(c.Raft.MaxSnapshots),
		MaxSegments:      keep(c.Raft.MaxWALs),
		CompactionBatch:  c.Compaction.BatchLimit,
		CompactionPause:  c.Compaction.SleepInterval,
		Retention:        replica.Retention{Window: c.Compaction.Window, Revisions: c.Compaction.Revisions},
		LeaseCheckpoints: c.Gates.On(config.LeaseCheckpoint),
		RevokesFirst:     c.Gates.On(config.PriorityRequest),
		AdvanceTicks:     c.Raft.InitialTickAdvance,
		SlowApply:        c.Store.WarnApply,
	}, replica.Parts{
		Member:  uint64(m.opened.ID),
		Log:     m.opened.Log,
		Store:   m.opened.Store,
		Machine: m.opened.Machine,
		SnapDir: m.opened.SnapDir,
		Load: func(open func() (store.Reader, error)) (*state.Machine, error) {
			return m.opened.Load(context.Background(), open)
		},
		// Transport and hub need the replica first; they are not asked before Run.
		Send:         func(ms []*raftpb.Message) { m.transport.Send(ms) },
		SendSnapshot: func(message *raftpb.Message, image *store.Copy) { m.transport.SendSnapshot(message, image) },
		Members:      m.follow,
		Connected:    func() int { return m.transport.Connected() },
		Linked: func(id member.ID, since time.Time) bool {
			active := m.transport.ActiveSince(id)
			return !active.IsZero() && !active.After(since)
		},
		Replaced: func() {
			m.tokens.Changed([]state.TokenChange{{}}) // what voided some of them is not known
			m.hub.Reset()
		},
		Tokens:  m.tokens.Changed,
		Publish: func(view *mvcc.View, rev int64, events []*mvcc.Event) { m.hub.Publish(view, rev, events) },
		Logger:  m.log,
		Metrics: m.metrics,
	})
	if err != nil {
		return err
	}
	m.hub = watch.New(watch.Options{}, func() *mvcc.View { return m.replica.View().Keys }, m.log, m.registry)
	if err := m.traceCalls(context.Background()); err != nil {
		return err
	}
	m.services = m.newServices()
	if err := m.newTransport(); err != nil {
		return err
	}
	if m.upkeep, err = m.newUpkeep(m.others()); err != nil {
		return err
	}
	m.register()
	m.live.Store(m.replica)
	m.in.Log.Describe(m.describe)
	return nil
}

// describe names the member, and where it stands, in every record of the
// journal. For any goroutine.
func (m *running) describe(field func(name, value string)) {
	field("MEMBER_ID", m.opened.ID.String())
	field("CLUSTER_ID", m.opened.Cluster.String())
	field("TERM", strconv.FormatUint(m.replica.Status().Term, 10))
	field("REVISION", strconv.FormatInt(m.replica.View().Keys.Revision(), 10))
}

// keep translates etcd's 0 for "all".
func keep(n uint) int {
	if n == 0 {
		return -1
	}
	return int(n)
}

// ConfigError says that the configuration cannot be used as it is.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }
