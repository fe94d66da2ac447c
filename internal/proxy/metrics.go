package proxy

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what a proxy counts.
type Metrics struct {
	watchers prometheus.Gauge   // of clients
	feeds    prometheus.Gauge   // watches at members
	events   prometheus.Counter // responses with events, to watchers

	cached, hits, misses prometheus.Gauge // gauges, as etcd's

	owned  prometheus.Gauge   // keys that are leased
	leased prometheus.Counter // ranges answered from them
}

// counted keeps the metric of keys that are owned.
func (m *Metrics) counted(keys *owned) {
	held, _ := keys.counts()
	m.owned.Set(float64(held))
}

// NewMetrics registers a proxy's metrics, with the names of etcd's grpc-proxy
// where it has them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_grpc_proxy_watchers_coalescing_total", Help: "Watches of clients that are served by shared watches at members.",
		}),
		feeds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_proxy_member_watches", Help: "Watches at members.",
		}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_grpc_proxy_events_coalescing_total", Help: "Responses with events that were passed to watchers.",
		}),
	}
	m.owned = prometheus.NewGauge(prometheus.GaugeOpts{Name: "kvd_proxy_leased_keys", Help: "Keys that this proxy owns by proxy-leasing-prefix."})
	m.leased = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kvd_proxy_leased_ranges_total", Help: "Ranges answered from keys that this proxy owns, without a member.",
	})
	for name, of := range map[string]struct {
		to   *prometheus.Gauge
		help string
	}{
		"keys":   {&m.cached, "Ranges whose answers are kept."},
		"hits":   {&m.hits, "Serializable ranges answered from what is kept."},
		"misses": {&m.misses, "Serializable ranges passed to a member, though they could have been kept."},
	} {
		*of.to = prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_grpc_proxy_cache_" + name + "_total", Help: of.help})
		registry.MustRegister(*of.to)
	}
	registry.MustRegister(m.watchers, m.feeds, m.events, m.owned, m.leased)
	return m
}
