package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/listen"
)

// exposed are the ports on which somebody on the way can listen in and write as
// he likes: plain ones of clients and of members, beyond this machine. Those of
// metrics take no secrets and no orders.
//
// With authentication on, passwords and tokens would cross the network there for
// everybody to use, and a plain port of members takes writes without asking who
// sends them: users would be safe in appearance only. So
//
//   - a start with authentication on is refused,
//   - AuthEnable is refused by a member with such ports, before anything is
//     proposed, and
//   - a member on which authentication was switched on through another one goes
//     on, as an outage helps nobody, but says in journal, status and metrics
//     that its next start will be refused.
//
// allow-insecure-listen lifts all three.
func (m *running) exposed() []string {
	if m.config.Listen.AllowPlain {
		return nil
	}
	var all []string
	for _, p := range slices.Concat(m.ports.client, m.ports.http, m.ports.peer) {
		if p.Plain() && beyond(p) {
			all = append(all, p.Addr().String())
		}
	}
	return all
}

// beyond says whether others than this machine reach a port.
func beyond(p *listen.Port) bool {
	tcp, ok := p.Addr().(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback()
}

// exposure is whether this member would be refused if it started now.
type exposure struct {
	ports []string // beyond this machine, in plain text, not allowed
	auth  atomic.Bool
}

// refusal is why the member must not begin to run with authentication on; nil if
// it may.
func (e *exposure) refusal() error {
	if len(e.ports) == 0 {
		return nil
	}
	return fmt.Errorf("authentication is on, and passwords, tokens and writes would be open to everybody on the way to %s: "+
		"use https URLs or listen on loopback, or set allow-insecure-listen = true if the network is safe", strings.Join(e.ports, ", "))
}

// warnExposed tells of ports that are open to others.
func (m *running) warnExposed(ctx context.Context) {
	m.exposure.ports = m.exposed()
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kvd_insecure_listeners", Help: "Plain ports beyond this machine that allow-insecure-listen has not allowed.",
	}, func() float64 { return float64(len(m.exposure.ports)) }))
	if len(m.exposure.ports) == 0 {
		return
	}
	m.log.LogAttrs(ctx, slog.LevelWarn, "listening beyond this machine in plain text: everybody on the way can read and change what is sent; "+
		"use https URLs, or set allow-insecure-listen = true if the network is safe",
		message(messageExposed), slog.Any("addresses", m.exposure.ports))
}

// watchExposed notices authentication that was switched on through another
// member. Once is enough to say it, until it was off again.
func (m *running) watchExposed(ctx context.Context) {
	on := m.authenticates()
	was := m.exposure.auth.Swap(on)
	if on && !was && m.exposure.refusal() != nil {
		m.log.LogAttrs(ctx, slog.LevelError, "authentication was switched on, and the next start of this member will be refused",
			message(messageExposed), slog.Any("error", m.exposure.refusal()))
	}
}

// exposedRemark is what the status line says of it.
func (m *running) exposedRemark() string {
	if m.exposure.auth.Load() && m.exposure.refusal() != nil {
		return "; INSECURE: authentication is on and a port beyond this machine is plain"
	}
	return ""
}

// refuseExposed is the error of a start with authentication on and ports that
// others can listen in on.
func (m *running) refuseExposed() error {
	if err := m.exposure.refusal(); err != nil && m.authenticates() {
		return &ConfigError{err}
	}
	return nil
}

// authenticates says whether users have to log in.
func (m *running) authenticates() bool {
	if live := m.live.Load(); live != nil {
		return live.View().Users.Enabled()
	}
	return m.opened.Machine.View().Users.Enabled()
}
