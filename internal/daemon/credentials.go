package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/config"
	"kvd/internal/listen"
)

const (
	lookAtFiles  = time.Second         // between two looks whether files of TLS have changed
	expiryNotice = 30 * 24 * time.Hour // how long before its end a certificate is warned of
	expiryRepeat = 24 * time.Hour      // and how often
)

// side is the credentials of the connections with clients or with other members,
// and what has become of their files. Nil is a side without TLS.
type side struct {
	*listen.Credentials
	name string // client or peer
	own  bool   // certificate and key are this member's own work
	log  *slog.Logger

	replaced, refused atomic.Uint64
}

// newSide reads the files of a side.
func (m *running) newSide(name string, files listen.Files, own bool, terms listen.Terms) (*side, error) {
	c, err := listen.NewCredentials(files, terms)
	if err != nil {
		return nil, fmt.Errorf("%s TLS: %w", name, err)
	}
	return &side{Credentials: c, name: name, own: own, log: m.log}, nil
}

// followCredentials keeps the files in service those on disk until the member
// stops.
func (m *running) followCredentials() {
	m.registry.MustRegister(newTLSMetrics(m.sides()))
	m.crew.start("certificate expiry", m.watchExpiry)
	for _, s := range m.sides() {
		m.crew.start(s.name+" credentials", func(ctx context.Context) error {
			return s.Follow(ctx, lookAtFiles, func(err error) { s.told(ctx, err) })
		})
	}
}

// sides are those with TLS.
func (m *running) sides() []*side {
	return slices.DeleteFunc([]*side{m.clients, m.peers, m.members}, func(s *side) bool { return s == nil })
}

// watchExpiry warns of what expires, now and every day.
func (m *running) watchExpiry(ctx context.Context) error {
	again := time.NewTicker(expiryRepeat)
	defer again.Stop()
	for {
		for _, s := range m.sides() {
			s.warn(ctx, time.Now())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// listens is what the ports of the side need; nil without TLS.
func (s *side) listens() *listen.Credentials {
	if s == nil {
		return nil
	}
	return s.Credentials
}

// reload reads the files of a configuration. Those that the member made itself
// stay where they are.
func (s *side) reload(ctx context.Context, c config.Certificates) {
	if s == nil || files(c) == (listen.Files{}) && !s.own {
		return
	}
	f := files(c)
	if was := s.Files(); s.own {
		f.Cert, f.Key = was.Cert, was.Key
	}
	s.told(ctx, s.Replace(f))
}

// told hears how reading the files again went.
func (s *side) told(ctx context.Context, err error) {
	if err != nil {
		s.refused.Add(1)
		s.log.LogAttrs(ctx, slog.LevelError, "the new files of "+s.name+" TLS are not used, the old ones stay in service",
			message(messageCredentialsRefused), slog.Any("error", err))
		return
	}
	s.replaced.Add(1)
	attrs := []slog.Attr{message(messageCredentials)}
	for _, e := range s.Expiries() {
		attrs = append(attrs, slog.String(e.What, e.File), slog.Time(e.What+" not-after", e.At))
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "the files of "+s.name+" TLS are in service as they are now", attrs...)
	s.warn(ctx, time.Now())
}

// warn tells of what expires soon, or has expired.
func (s *side) warn(ctx context.Context, now time.Time) {
	for _, e := range s.expiring(now) {
		level, text := slog.LevelWarn, "expires soon"
		if e.At.Before(now) {
			level, text = slog.LevelError, "has expired"
		}
		s.log.LogAttrs(ctx, level, fmt.Sprintf("the %s of %s TLS %s: renew it, kvd takes the new one by itself", e.What, s.name, text),
			message(messageExpires), slog.String("file", e.File), slog.Time("not-after", e.At), slog.Int("days-left", days(e.At.Sub(now))))
	}
}

// expiring is what expires soon, or has expired: within 30 days, or in the last
// third of its life if that is less, as short-lived certificates would be warned
// of for ever. A list of revoked certificates is told of when it is late.
func (s *side) expiring(now time.Time) []listen.Expiry {
	var soon []listen.Expiry
	for _, e := range s.Expiries() {
		notice := min(expiryNotice, e.Life/3)
		if e.What == "CRL" {
			notice = 0
		}
		if e.At.Sub(now) < notice {
			soon = append(soon, e)
		}
	}
	return soon
}

func days(d time.Duration) int { return int(d / (24 * time.Hour)) }

// remark is what the status line says of a side; empty if all is well.
func (s *side) remark(now time.Time) string {
	if s == nil {
		return ""
	}
	if s.Fault() != nil {
		return fmt.Sprintf("; new files of %s TLS are not used, see the log", s.name)
	}
	soon := s.expiring(now)
	if len(soon) == 0 {
		return ""
	}
	first := soon[0]
	for _, e := range soon {
		if e.At.Before(first.At) {
			first = e
		}
	}
	if first.At.Before(now) {
		return fmt.Sprintf("; the %s of %s TLS has EXPIRED", first.What, s.name)
	}
	return fmt.Sprintf("; the %s of %s TLS expires in %d days", first.What, s.name, days(first.At.Sub(now)))
}

// tlsMetrics shows the sides with TLS.
type tlsMetrics struct {
	sides                   []*side
	expiry, reloads, refuse *prometheus.Desc
}

func newTLSMetrics(sides []*side) tlsMetrics {
	return tlsMetrics{
		sides,
		prometheus.NewDesc("kvd_tls_expiry_timestamp_seconds",
			"When a file of TLS that is in service expires.", []string{"side", "what"}, nil),
		prometheus.NewDesc("kvd_tls_reloads_total",
			"Times that the files of TLS were read again, by what came of it: replaced or refused.", []string{"side", "result"}, nil),
		prometheus.NewDesc("kvd_tls_files_refused",
			"1: the files of TLS have a fault as they are, and those before are in service.", []string{"side"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (t tlsMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- t.expiry
	to <- t.reloads
	to <- t.refuse
}

// Collect implements prometheus.Collector.
func (t tlsMetrics) Collect(to chan<- prometheus.Metric) {
	for _, s := range t.sides {
		for _, e := range s.Expiries() {
			to <- prometheus.MustNewConstMetric(t.expiry, prometheus.GaugeValue, float64(e.At.Unix()), s.name, e.What)
		}
		to <- prometheus.MustNewConstMetric(t.reloads, prometheus.CounterValue, float64(s.replaced.Load()), s.name, "replaced")
		to <- prometheus.MustNewConstMetric(t.reloads, prometheus.CounterValue, float64(s.refused.Load()), s.name, "refused")
		to <- prometheus.MustNewConstMetric(t.refuse, prometheus.GaugeValue, truth(s.Fault() != nil), s.name)
	}
}
