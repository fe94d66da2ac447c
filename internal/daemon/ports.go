package daemon

import (
	"context"
	"errors"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/listen"
	"kvd/internal/sd"
)

// ports are everything that the member listens on.
type ports struct {
	peer, client, http, metrics listen.Ports
}

func (p *ports) close() {
	for _, role := range []listen.Ports{p.metrics, p.http, p.client, p.peer} {
		role.Close() //nolint:errcheck // most are closed by who served them
	}
}

// listen opens all ports, or takes over those that the service manager has
// opened. From now on connections wait in the kernel to be served.
func (m *running) listen(ctx context.Context) (err error) {
	limit, err := listen.ConnectionLimit()
	if err != nil {
		return err
	}
	inherited, err := sd.Inherit()
	if err != nil {
		return &ConfigError{err}
	}
	defer inherited.Close()
	c := *m.config
	both := listen.Both
	if len(c.Listen.ClientHTTP) > 0 {
		both = listen.GRPC
	}
	if err := m.loadCredentials(); err != nil {
		return err
	}
	if m.proxy != nil {
		c.Listen.Peer = nil // it has nothing to tell members
	}
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kvd_tls_rejected_connections_total", Help: "Connections that failed their TLS handshake, by the option of their port.",
	}, []string{"option"})
	m.registry.MustRegister(rejected)
	peers := m.security(m.peers, listen.HTTP)
	peers.CheckRemote = !c.PeerTLS.SkipSANCheck
	for _, r := range []struct {
		to    *listen.Ports
		files string
		role  listen.Role
	}{
		{&m.ports.peer, sd.SocketPeer, listen.Role{Option: "listen-peer-urls", URLs: c.Listen.Peer, Options: peers}},
		{&m.ports.client, sd.SocketClient, listen.Role{Option: "listen-client-urls", URLs: c.Listen.Client, Options: m.security(m.clients, both)}},
		{&m.ports.http, "", listen.Role{Option: "listen-client-http-urls", URLs: c.Listen.ClientHTTP, Options: m.security(m.clients, listen.HTTP)}},
		{&m.ports.metrics, sd.SocketMetrics, listen.Role{Option: "listen-metrics-urls", URLs: c.Listen.Metrics, Options: m.security(m.clients, listen.HTTP)}},
	} {
		r.role.Name = r.files
		r.role.Configured = c.Given(r.role.Option)
		r.role.Options.MaxConnections = limit
		r.role.Options.Rejected = rejected.WithLabelValues(r.role.Option).Inc
		*r.to, err = listen.Open(ctx, r.role, inherited[r.files])
		if err == nil {
			continue
		}
		m.ports.close()
		if errors.Is(err, listen.ErrMismatch) || errors.Is(err, listen.ErrNoCertificate) {
			return &ConfigError{err}
		}
		return err
	}
	m.followCredentials()
	return nil
}

// security is how connections of a role are accepted.
func (m *running) security(s *side, protocol listen.Protocol) listen.Options {
	l := m.config.Listen
	return listen.Options{
		Protocol:  protocol,
		ReusePort: l.ReusePort, ReuseAddress: l.ReuseAddress,
		Credentials: s.listens(), Log: m.log,
	}
}

func listeners(of listen.Ports) []net.Listener {
	all := make([]net.Listener, 0, len(of))
	for _, p := range of {
		all = append(all, p)
	}
	return all
}

// addresses are the URLs that the ports are at; a port that the kernel chose is
// named.
func addresses(of listen.Ports) []string {
	all := make([]string, 0, len(of))
	for _, p := range of {
		u := p.URL
		if u.Port() == "0" {
			u.Host = p.Addr().String()
		}
		all = append(all, u.String())
	}
	return all
}
