package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/credentials"

	"kvd/internal/bootstrap"
	"kvd/internal/gateway"
	"kvd/internal/proxy"
)

// identify finds out what this process is to be: what the data directory holds decides, and
// the option only where it holds nothing.
func (m *running) identify() (bootstrap.Kind, error) {
	kind, err := bootstrap.Identify(m.config.Member.DataDir)
	if err != nil {
		return kind, &ConfigError{err}
	}
	if kind == bootstrap.Empty && m.config.Proxy.Mode != "off" {
		return bootstrap.Proxy, nil
	}
	if kind == bootstrap.AMember && m.config.Proxy.Mode != "off" {
		m.log.Warn("the data directory is a member's, so the option proxy has no effect", "data-dir", m.config.Member.DataDir, "proxy", m.config.Proxy.Mode)
	}
	return kind, nil
}

// becomeProxy starts over as a proxy of the cluster whose discovery said that it
// is full, and whose founders are at these peer URLs.
func (m *running) becomeProxy(ctx context.Context, founders []string) error {
	m.log.Warn("the cluster to discover is full; becoming a proxy of it", "peer-urls", founders)
	again := newRunning(m.in)
	again.founders = founders
	return again.runProxy(ctx)
}

// runProxy serves a cluster without being a member, until ctx ends.
func (m *running) runProxy(ctx context.Context) error {
	peers, err := m.newProxy()
	if err != nil {
		return m.retreat(ctx, err)
	}
	if err := m.begin(ctx); err != nil {
		m.status("not started: " + err.Error())
		return err
	}
	defer m.ports.close()
	defer peers.CloseIdleConnections()
	m.web = m.newProxyGateway()
	m.serveMetrics()
	if err := m.serveThrough(); err != nil {
		return m.retreat(ctx, err)
	}
	m.log.LogAttrs(ctx, slog.LevelInfo, "proxy started",
		slog.Bool("read-only", m.config.Proxy.Mode == "readonly"), slog.Any("listen-client-urls", addresses(m.ports.client)))
	if err := m.followProxy(ctx); err != nil {
		m.status("failed: " + err.Error())
		return err
	}
	return m.stopProxy()
}

// newProxy makes the proxy, and the client that asks members' peer ports.
func (m *running) newProxy() (*http.Client, error) {
	c := m.config
	client := &http.Client{Transport: &http.Transport{DialTLSContext: m.dialPeer, ResponseHeaderTimeout: askLimit}}
	finder, err := m.finder(client)
	if err != nil {
		return nil, err
	}
	m.proxy = proxy.New(proxy.Options{
		ReadOnly:    c.Proxy.Mode == "readonly",
		Refresh:     c.Proxy.Refresh,
		FailureWait: c.Proxy.FailureWait,
		DialTimeout: c.Proxy.DialTimeout,
		Namespace:   []byte(c.Proxy.Namespace),

		LeasingPrefix: c.Proxy.LeasingPrefix, LeasingTTL: c.Proxy.LeasingTTL,

		Ordered:    c.Proxy.Ordering,
		CacheBytes: int(min(c.Proxy.CacheBytes, math.MaxInt32)),
		Registration: proxy.Registration{
			Prefix: c.Proxy.ResolverPrefix, TTL: c.Proxy.ResolverTTL, Address: m.registeredAt(),
		},

		MaxRequestBytes: int(min(c.Limits.RequestBytes+requestOverhead, math.MaxInt32)),
		MaxStreams:      c.Limits.ConcurrentStreams,
		KeepAlive:       c.GRPC.KeepAliveInterval, KeepAliveTimeout: c.GRPC.KeepAliveTimeout, KeepAliveMin: c.GRPC.KeepAliveMinTime,
		Grace: proxyGrace, WatchStall: c.Watch.StallTimeout,
	}, proxy.Parts{
		Finder: finder, Secure: &towardsMembers{m}, Log: m.log, Metrics: proxy.NewMetrics(m.registry),
	})
	return client, nil
}

// registeredAt is where clients reach this proxy, as it is registered.
func (m *running) registeredAt() string {
	for _, u := range m.config.Advertise.Client {
		return cmp.Or(u.Host, u.String())
	}
	return ""
}

const (
	requestOverhead = 512 << 10 // of a message beyond what is limited, as etcd has it
	proxyGrace      = 5 * time.Second
	askLimit        = 10 * time.Second // for a member to answer who is in the cluster
)

// finder is how the members' client URLs are found.
func (m *running) finder(client *http.Client) (proxy.Finder, error) {
	c := m.config
	if len(c.Proxy.Endpoints) > 0 {
		return proxy.Fixed(c.Proxy.Endpoints), nil
	}
	peers := &proxy.Peers{
		Client: client, StateFile: filepath.Join(c.Member.DataDir, "proxy", "cluster"), Log: m.log,
	}
	for _, seed := range Seeds(c.Cluster.Initial) {
		peers.Configured = append(peers.Configured, seed.PeerURLs...)
	}
	peers.Configured = append(peers.Configured, m.founders...)
	if err := peers.Load(); err != nil {
		return nil, &ConfigError{err}
	}
	srv := bootstrap.SRV{Domain: c.Discovery.SRVDomain, Suffix: c.Discovery.SRVName}
	switch {
	case len(c.Discovery.Endpoints) > 0:
		peers.Source = func(ctx context.Context) ([]string, error) {
			return discovery(c.Discovery).Observe(ctx, m.log, m.progress)
		}
	case srv.Domain != "":
		peers.Source = func(ctx context.Context) ([]string, error) { return srv.PeerURLs(ctx, nil) }
		return proxy.Func(func(ctx context.Context) ([]string, error) {
			urls, err := peers.Find(ctx)
			if err == nil {
				return urls, nil
			}
			urls, problem := srv.ClientURLs(ctx, nil) // some domains tell only these
			if problem != nil {
				return nil, errors.Join(err, problem)
			}
			return urls, nil
		}), nil
	}
	return peers, nil
}

// towardsMembers is the TLS of connections to members' client ports: with the
// files of the client side, as they are when a connection is made.
type towardsMembers struct{ m *running }

func (t *towardsMembers) now() credentials.TransportCredentials {
	for _, s := range []*side{t.m.members, t.m.clients} {
		if s != nil {
			return credentials.NewTLS(s.Client())
		}
	}
	return credentials.NewTLS(nil)
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *towardsMembers) ClientHandshake(ctx context.Context, name string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.now().ClientHandshake(ctx, name, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *towardsMembers) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for connections to members")
}

// Info implements credentials.TransportCredentials.
func (t *towardsMembers) Info() credentials.ProtocolInfo { return t.now().Info() }

// Clone implements credentials.TransportCredentials.
func (t *towardsMembers) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials.
func (t *towardsMembers) OverrideServerName(string) error {
	return errors.New("the name of a member is in its URL")
}

// dialPeer connects to a member's peer port by TLS.
func (m *running) dialPeer(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := tls.Dialer{Config: m.peers.Client()}
	return dialer.DialContext(ctx, network, address)
}

// newProxyGateway makes the HTTP side of the proxy.
func (m *running) newProxyGateway() *gateway.Gateway {
	c := m.config
	pages := m.proxy.Pages()
	pages["/proxy/metrics"] = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP // where etcd's has its own
	return gateway.New(gateway.Options{
		Pprof: c.HTTP.Pprof, HostWhitelist: c.HTTP.HostWhitelist, CORS: c.HTTP.CORS,
		MaxRequestBytes: int(c.Limits.RequestBytes), ClientCertAuth: c.ClientTLS.ClientCertAuth, Pages: pages,
	}, gateway.Questions{
		Versions: func() gateway.Versions { return gateway.Versions{Server: etcdVersion} },
		Alarms:   m.proxy.Alarms,
		Leader:   func() bool { return m.proxy.Healthy() > 0 },
		Learner:  func() bool { return false },
		Read:     m.proxy.Probe,
		Vars:     map[string]func() any{"proxy.endpoints": func() any { return m.proxy.Endpoints() }},
	}, gateway.Build{Version: m.in.Version, Commit: m.in.Commit}, m.log, m.registry, m.registry)
}

// serveThrough serves the client ports.
func (m *running) serveThrough() error {
	var rpcs gateway.Services
	if m.config.HTTP.Gateway {
		rpcs = m.proxy.Local()
	}
	handler, err := m.web.Client(rpcs)
	if err != nil {
		return err
	}
	grpc, web := m.splitClients()
	m.serveHTTP("client HTTP", handler, web)
	m.crew.start("heap", paceHeap)
	m.crew.start("proxy", func(ctx context.Context) error { return m.proxy.Run(ctx, grpc...) })
	return nil
}

// followProxy waits until a member can be reached, says that the proxy is ready,
// and follows it until ctx ends or something fails.
func (m *running) followProxy(ctx context.Context) error {
	watchdog := newPulse(m.proxy, m.notify, m.log)
	defer watchdog.stop()
	look := time.NewTicker(reportLook)
	defer look.Stop()
	ready, last := false, ""
	var reload <-chan Reread
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.crew.failed:
			return err
		case <-watchdog.due:
			watchdog.beat()
		case again := <-reload:
			last = m.reload(ctx, again)
		case <-look.C:
			text := m.standing()
			switch {
			case !ready && m.proxy.Healthy() > 0:
				ready, reload = true, m.in.Reload
				last = m.ready(ctx)
			case text != last:
				m.status(text)
				last = text
			}
			if !ready {
				m.extend()
			}
		}
	}
}

// proxyStanding says in a line how a proxy is doing.
func (m *running) proxyStanding() string {
	healthy, all := m.proxy.Healthy(), len(m.proxy.Endpoints())
	mode := "proxy"
	if m.config.Proxy.Mode == "readonly" {
		mode = "read-only proxy"
	}
	if all == 0 {
		return mode + ", looking for the members"
	}
	return fmt.Sprintf("%s, %d of %d endpoints connected", mode, healthy, all) + m.clients.remark(time.Now()) + m.peers.remark(time.Now())
}

func (m *running) stopProxy() error {
	m.notify.Stopping("stopping") //nolint:errcheck // systemd sees the end in any case
	m.log.Info("stopping")
	m.closeDoors()
	m.crew.stop(func(name string) { m.progress("stopping: " + name) })
	m.status("stopped")
	m.log.Info("stopped")
	select {
	case err := <-m.crew.failed:
		return err
	default:
		return nil
	}
}
