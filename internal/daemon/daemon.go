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
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/mvcc"
	"kvd/internal/replica"
	"kvd/internal/sd"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
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
}

// Reread is the configuration read again.
type Reread struct {
	Config *config.Config
	Err    error
}

// running is a member at work.
type running struct {
	in       Inputs
	config   *config.Config
	log      *slog.Logger
	notify   sd.Notifier
	registry *prometheus.Registry
	metrics  *replica.Metrics

	ports   ports
	opened  *bootstrap.Member
	replica *replica.Replica
	hub     *watch.Hub
	crew    *crew
}

// extendBy is what each sign of progress asks the service manager for.
const extendBy = 30 * time.Second

// Run starts a member and runs it until ctx ends or it fails. After a failure
// of the disk nothing is waited for: the process is expected to end.
func Run(ctx context.Context, in Inputs) error {
	m := &running{
		in: in, config: in.Config, log: in.Log.Logger, notify: in.Notifier,
		registry: prometheus.NewRegistry(), crew: newCrew(),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, w := range in.Config.Warnings {
		m.log.Warn(w)
	}
	if missing := in.Config.NotYet(); len(missing) > 0 {
		return &ConfigError{missing}
	}
	if err := m.listen(ctx); err != nil {
		return err
	}
	defer m.ports.close()
	if err := m.open(ctx); err != nil {
		return err
	}
	if err := m.assemble(); err != nil {
		return errors.Join(err, m.opened.Close())
	}
	err := m.serve(ctx)
	if err != nil && ctx.Err() == nil {
		m.log.LogAttrs(ctx, slog.LevelError, "the member failed", message(messageFailed), slog.Any("error", err))
		return err // the disk or the machine cannot be trusted any more: no farewell
	}
	m.notify.Stopping("stopping") //nolint:errcheck // systemd sees the end in any case
	m.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopping", message(messageStopping))
	m.crew.stop(func(name string) { m.status("stopping: " + name) })
	if err := m.opened.Close(); err != nil {
		return fmt.Errorf("close the data directory: %w", err)
	}
	m.log.Info("stopped")
	return nil
}

func (m *running) status(text string) {
	m.notify.Status(text) //nolint:errcheck // a status that nobody gets harms nobody
}

// open opens or makes the member in the data directory.
func (m *running) open(ctx context.Context) (err error) {
	c := m.config
	m.metrics = replica.NewMetrics(m.registry)
	m.opened, err = bootstrap.Open(ctx, bootstrap.Options{
		DataDir: c.Member.DataDir,
		WALDir:  c.Member.WALDir,
		Name:    c.Member.Name,
		Cluster: seeds(c.Cluster.Initial),
		Token:   c.Cluster.Token,
		Store: store.Options{
			NoSync:        c.Unsafe.NoFsync,
			FreelistArray: c.Store.FreelistType == "array",
			OnCommit:      m.metrics.Committed,
			OnDefragment:  m.metrics.Defragmented,
		},
		Log: wal.Options{NoSync: c.Unsafe.NoFsync, Log: m.log, OnFsync: m.metrics.LogSynced, OnWrite: m.metrics.LogWritten},
		Machine: state.Options{
			Keys:        mvcc.Options{CacheBytes: c.Store.ValueCacheBytes},
			MinLeaseTTL: minLeaseTTL(c.Raft),
			MaxLearners: c.Cluster.MaxLearners,
		},
		Logger: m.log,
		Progress: func(status string) {
			m.status(status)
			m.notify.Extend(extendBy) //nolint:errcheck // as above
		},
	})
	if err != nil {
		return err
	}
	m.log = m.log.With("member_id", m.opened.ID.String(), "cluster_id", m.opened.Cluster.String())
	start := "restarting local member"
	if m.opened.New {
		start = "starting local member"
	}
	m.log.Info(start, "name", c.Member.Name, "data_dir", c.Member.DataDir)
	return nil
}

// minLeaseTTL is the least lease that outlives an election, in seconds: one and
// a half election timeouts, in whole ticks.
func minLeaseTTL(r config.Raft) int64 {
	ticks := time.Duration(3 * r.ElectionTicks() / 2)
	return int64((ticks*r.HeartbeatInterval + time.Second - 1) / time.Second)
}

func seeds(initial config.InitialCluster) []bootstrap.Seed {
	var all []bootstrap.Seed
	for _, name := range slices.Sorted(maps.Keys(initial.Members)) {
		all = append(all, bootstrap.Seed{Name: name, PeerURLs: texts(initial.Members[name])})
	}
	return all
}

func texts(urls []url.URL) []string {
	all := make([]string, 0, len(urls))
	for _, u := range urls {
		all = append(all, u.String())
	}
	return all
}

// assemble makes replica and hub of what was opened.
func (m *running) assemble() (err error) {
	c := m.config
	m.replica, err = replica.New(replica.Options{
		Heartbeat:       c.Raft.HeartbeatInterval,
		Election:        c.Raft.ElectionTimeout,
		PreVote:         c.Raft.PreVote,
		MaxRequestBytes: int(c.Limits.RequestBytes),
		FlushInterval:   c.Store.FlushInterval,
		SnapshotCount:   c.Raft.SnapshotCount,
		CatchupEntries:  c.Raft.SnapshotCatchupEntries,
		MaxSnapshots:    keep(c.Raft.MaxSnapshots),
		MaxSegments:     keep(c.Raft.MaxWALs),
		CompactionBatch: c.Compaction.BatchLimit,
		CompactionPause: c.Compaction.SleepInterval,
		SlowApply:       c.Store.WarnApply,
	}, replica.Parts{
		Member:  uint64(m.opened.ID),
		Log:     m.opened.Log,
		Store:   m.opened.Store,
		Machine: m.opened.Machine,
		SnapDir: m.opened.SnapDir,
		// The hub needs the replica's view first; nothing is published before Run.
		Publish: func(view *mvcc.View, rev int64, events []*mvcc.Event) { m.hub.Publish(view, rev, events) },
		Logger:  m.log,
		Metrics: m.metrics,
	})
	if err != nil {
		return err
	}
	m.hub = watch.New(watch.Options{}, func() *mvcc.View { return m.replica.View().Keys }, m.log, m.registry)
	return nil
}

// keep translates etcd's 0 for "all".
func keep(n uint) int {
	if n == 0 {
		return -1
	}
	return int(n)
}

// serve starts everything, waits until the member has joined, and then until
// ctx ends or something fails.
func (m *running) serve(ctx context.Context) error {
	m.crew.start("heap", paceHeap)
	m.crew.start("replica", m.replica.Run)
	m.crew.start("watch hub", m.hub.Run)
	web := m.newGateway()
	m.servePeers(web)
	m.serveClients(web)
	m.status("waiting for a leader")
	joined := make(chan error, 1)
	var joining sync.WaitGroup
	defer joining.Wait()
	joining.Go(func() {
		joined <- join(ctx, m.replica, m.opened.ID, m.config.Member.Name, m.config.Advertise.Client, m.log)
	})
	watchdog := newPulse(m.replica, m.notify, m.log)
	defer watchdog.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.crew.failed:
			return err
		case err := <-joined:
			if err != nil && ctx.Err() == nil {
				return err
			}
			m.ready(ctx)
		case <-watchdog.due:
			watchdog.beat(ctx)
		case again := <-m.in.Reload:
			m.reload(ctx, again)
		}
	}
}

// ready tells everybody that the member serves.
func (m *running) ready(ctx context.Context) {
	for _, p := range m.ports.client {
		m.log.LogAttrs(ctx, slog.LevelInfo, "ready to serve client requests", message(messageReady),
			slog.String("address", p.Addr().String()), slog.Bool("secure", p.Secure()))
		if !p.Secure() && p.Addr().Network() == "tcp" {
			m.log.Warn("serving client traffic insecurely; this is strongly discouraged!", "traffic", "grpc+http", "address", p.Addr().String())
		}
	}
	if err := m.notify.Ready("serving"); err != nil {
		m.log.Warn("could not tell the service manager that the member is ready", "error", err)
	}
}

// ConfigError lists options that this version cannot honour. It refuses to
// start rather than ignore them.
type ConfigError struct{ Options []string }

func (e *ConfigError) Error() string {
	return "options that this version of kvd cannot honour yet: " + strings.Join(e.Options, "; ")
}
