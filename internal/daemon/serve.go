package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"kvd/internal/api"
	"kvd/internal/config"
	"kvd/internal/gateway"
	"kvd/internal/listen"
	"kvd/internal/replica"
)

// serve starts everything, waits until the member has joined, and then until
// ctx ends or something fails.
func (m *running) serve(ctx context.Context) error {
	m.crew.start("heap", paceHeap)
	m.crew.start("replica", m.replica.Run)
	m.crew.start("watch hub", m.hub.Run)
	m.servePeers()
	if err := m.serveClients(); err != nil {
		return err
	}
	m.crew.start("upkeep", m.upkeep.Run)
	c := m.config
	m.log.Info("now serving peer/client/metrics", "local-member-id", m.opened.ID.String(),
		"initial-advertise-peer-urls", texts(c.Advertise.Peer), "listen-peer-urls", addresses(m.ports.peer),
		"advertise-client-urls", texts(c.Advertise.Client), "listen-client-urls", addresses(m.ports.client),
		"listen-metrics-urls", addresses(m.ports.metrics))

	joined := make(chan error, 1)
	joining, giveUp := context.WithCancel(ctx)
	go func() { joined <- m.join(joining) }()
	waiting := true
	defer func() {
		giveUp()
		if waiting {
			<-joined //nolint:errcheck // nobody waits for it any more
		}
	}()
	watchdog := newPulse(m.replica, m.notify, m.log)
	defer watchdog.stop()
	report := newReport(m)
	look := time.NewTicker(reportLook)
	defer look.Stop()
	var leave <-chan time.Time // once this member was removed,
	var last time.Time         // and when it leaves whatever the others do
	var reload <-chan Reread   // only a member that is ready can become ready again
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.crew.failed:
			return err
		case <-m.gone:
			leave, last = time.After(removalGrace), time.Now().Add(lingering)
		case <-leave:
			if time.Now().Before(last) && m.linger(ctx) {
				leave = time.After(removalGrace)
				continue
			}
			return m.removed()
		case err := <-joined:
			waiting = false
			if err != nil && ctx.Err() == nil {
				return m.reasonOf(err)
			}
			if err == nil {
				if err := m.refuseExposed(); err != nil { // the log had it, or the others
					return err
				}
				m.joined = true
				report.becomeReady(m.ready(ctx))
				reload = m.in.Reload
			}
		case now := <-look.C:
			m.watchExposed(ctx)
			report.look(now)
		case <-watchdog.due:
			watchdog.beat()
		case again := <-reload:
			report.last = m.reload(ctx, again)
		}
	}
}

// reasonOf waits for what has stopped the replica, which is why it refuses.
func (m *running) reasonOf(err error) error {
	if !errors.Is(err, replica.ErrStopped) {
		return err
	}
	select {
	case failed := <-m.crew.failed:
		return failed
	case <-time.After(reasonGrace):
		return err
	}
}

// reasonGrace is how long a replica that fails may take to say why: it gives its
// disk some time.
const reasonGrace = 5 * time.Second

// ready tells everybody that the member serves, and returns the status line that
// it told with it.
func (m *running) ready(ctx context.Context) (told string) {
	traffic := "grpc+http"
	if len(m.ports.http) > 0 {
		traffic = "grpc"
	}
	for _, p := range m.ports.client {
		m.log.LogAttrs(ctx, slog.LevelInfo, "ready to serve client requests", message(messageReady), slog.String("address", p.Addr().String()))
	}
	m.sayTraffic(m.ports.client, traffic)
	m.sayTraffic(m.ports.http, "http")
	told = m.standing()
	if err := m.notify.Ready(told); err != nil {
		m.log.Warn("could not tell the service manager that the member is ready", "error", err)
	}
	return told
}

// sayTraffic warns of ports that anybody on the way can listen in on.
func (m *running) sayTraffic(to listen.Ports, traffic string) {
	for _, p := range to {
		address := p.Addr().String()
		if p.Plain() && p.Addr().Network() == "unix" {
			m.log.Info("serving client traffic on a local socket", "traffic", traffic, "address", address)
		} else if p.Plain() {
			m.log.Warn("serving client traffic insecurely; this is strongly discouraged!", "traffic", traffic, "address", address)
		}
		if p.Secure() {
			m.log.Info("serving client traffic securely", "traffic", traffic, "address", address)
		}
	}
}

// newServices makes the services; they are served later.
func (m *running) newServices() *api.API {
	return api.New(m.apiOptions(), api.Parts{
		Member: m.replica, Peers: distant{m}, Hub: m.hub, Store: m.opened.Store,
		Passwords: m.passwords, Tokens: m.tokens,
		Cluster: m.opened.Cluster, ID: m.opened.ID, Log: m.log, Registry: m.registry,
		Stats: m.tracing.handler, Tracer: m.tracing.tracer,
	})
}

// serveClients starts the services on every client port.
func (m *running) serveClients() error {
	var rpcs gateway.Services
	if m.config.HTTP.Gateway {
		rpcs = m.services.Local()
	}
	handler, err := m.web.Client(rpcs)
	if err != nil {
		return err
	}
	grpc, http := m.splitClients()
	m.serveHTTP("client HTTP", handler, http)
	m.crew.start("clients", func(ctx context.Context) error { return m.services.Run(ctx, grpc...) })
	return nil
}

// splitClients are the listeners for gRPC and for HTTP/1 behind the client ports.
func (m *running) splitClients() (grpc, http []net.Listener) {
	for _, p := range m.ports.client {
		if len(m.ports.http) > 0 {
			grpc = append(grpc, p)
			continue
		}
		split := listen.NewSplit(p)
		m.crew.start("client port "+p.Addr().String(), split.Run)
		m.splits = append(m.splits, split)
		grpc, http = append(grpc, split.GRPC), append(http, split.HTTP)
	}
	return grpc, append(http, listeners(m.ports.http)...)
}

func (m *running) apiOptions() api.Options {
	c := m.config
	return api.Options{
		MaxTxnOps:        int(c.Limits.TxnOps),
		MaxRequestBytes:  int(c.Limits.RequestBytes),
		MaxStreams:       c.Limits.ConcurrentStreams,
		Audit:            audits[c.Log.Audit],
		RangeBytes:       c.Limits.RangeBytes,
		MaxInflight:      int(c.Limits.Inflight),
		QuotaBytes:       c.Store.QuotaBytes,
		ProgressInterval: c.Watch.ProgressInterval,
		WatchStall:       orNever(c.Watch.StallTimeout),
		SlowRequest:      c.Limits.WarnUnary,
		Election:         c.Raft.ElectionTimeout,
		Strict:           c.Cluster.StrictReconfig,
		KeepAliveMin:     c.GRPC.KeepAliveMinTime,
		KeepAlive:        c.GRPC.KeepAliveInterval,
		KeepAliveTimeout: c.GRPC.KeepAliveTimeout,
		Extensive:        c.HTTP.Metrics == "extensive",
		Exposed:          m.exposure.ports,
		ClientCertAuth:   c.ClientTLS.ClientCertAuth,
		RefuseOnDefrag:   c.Gates.On(config.StopGRPCServiceOnDefrag),
	}
}

// audits is what the services call the values of audit-log.
var audits = map[string]api.Audit{"none": api.AuditNone, "writes": api.AuditWrites, "all": api.AuditAll}

// orNever is what the services take 0 for.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// serveMetrics answers on the metrics ports, which say how far a start has come.
func (m *running) serveMetrics() {
	m.serveHTTP("metrics", m.web.Metrics(), listeners(m.ports.metrics))
}

// serveHTTP answers on listeners. Fit, if given, makes the server fit for what is
// asked there.
func (m *running) serveHTTP(name string, handler http.Handler, on []net.Listener, fit ...func(*http.Server)) {
	if len(on) == 0 {
		return
	}
	prepare := func(server *http.Server) {
		listen.KeepTLS(server)
		for _, f := range fit {
			f(server)
		}
		server.ErrorLog = slog.NewLogLogger(m.log.Handler(), slog.LevelDebug)
	}
	m.crew.start(name, func(ctx context.Context) error { return gateway.Serve(ctx, handler, prepare, on...) })
}
