package watch

import "github.com/prometheus/client_golang/prometheus"

// metrics carry etcd's names.
type metrics struct {
	streams  prometheus.Gauge
	watchers prometheus.Gauge
	pending  prometheus.Gauge
	events   prometheus.Counter
}

func newMetrics(h *Hub, registry prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help})
	}
	m := &metrics{
		streams:  gauge("watch_stream_total", "Watch streams that are open."),
		watchers: gauge("watcher_total", "Watchers that are open."),
		pending:  gauge("pending_events_total", "Events waiting to be sent."),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "events_total", Help: "Events sent by this member.",
		}),
	}
	slow := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "slow_watcher_total", Help: "Watchers that lag and are served from history.",
	}, func() float64 { return float64(h.behind.Load()) })
	registry.MustRegister(m.streams, m.watchers, m.pending, m.events, slow)
	return m
}

// took counts a message that leaves a sink.
func (m *metrics) took(msg *Message) {
	if msg.Count > 0 {
		m.pending.Sub(float64(msg.Count))
		m.events.Add(float64(msg.Count))
	}
}
