package peer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/member"
)

// metrics carry etcd's names.
type metrics struct {
	active       *prometheus.GaugeVec
	disconnected *prometheus.CounterVec

	sentBytes, sentFailures         *prometheus.CounterVec
	receivedBytes, receivedFailures *prometheus.CounterVec

	sending, receiving snapshots
	roundTrip          *prometheus.HistogramVec
}

// snapshots are the metrics of snapshots in one direction.
type snapshots struct {
	done, failed *prometheus.CounterVec
	inflight     *prometheus.GaugeVec
	seconds      *prometheus.HistogramVec
}

// nobody labels what comes from who is not a member.
const nobody = "0"

// unknownSender labels snapshots of which the sender is not known.
const unknownSender = "UNKNOWN_SNAPSHOT_SENDER"

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "etcd", Subsystem: "network", Name: name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "network", Name: name, Help: help}, labels)
		all = append(all, g)
		return g
	}
	histogram := func(name, help string, first float64, buckets int, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "network", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(first, 2, buckets),
		}, labels)
		all = append(all, h)
		return h
	}
	snapshot := func(verb, what, label string) snapshots {
		return snapshots{
			done:     counter("snapshot_"+verb+"_success", "Snapshots "+what+".", label),
			failed:   counter("snapshot_"+verb+"_failures", "Snapshots that could not be "+what+".", label),
			inflight: gauge("snapshot_"+verb+"_inflights_total", "Snapshots that are being "+what+" now.", label),
			seconds:  histogram("snapshot_"+verb+"_total_duration_seconds", "How long snapshots took to be "+what+".", 0.1, 10, label),
		}
	}
	m := &metrics{
		active:           gauge("active_peers", "1 if the other member is connected, else 0.", "Local", "Remote"),
		disconnected:     counter("disconnected_peers_total", "How often the connection to the other member was lost.", "Local", "Remote"),
		sentBytes:        counter("peer_sent_bytes_total", "Bytes of messages sent to the other member.", "To"),
		sentFailures:     counter("peer_sent_failures_total", "Messages that could not be sent to the other member.", "To"),
		receivedBytes:    counter("peer_received_bytes_total", "Bytes of messages received from the other member.", "From"),
		receivedFailures: counter("peer_received_failures_total", "Messages of the other member that could not be taken.", "From"),
		sending:          snapshot("send", "sent", "To"),
		receiving:        snapshot("receive", "received", "From"),
		roundTrip:        histogram("peer_round_trip_time_seconds", "Time until the other member answers, smoothed.", 0.0001, 16, "To"),
	}
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, registry.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("metrics of peers: %w", err)
	}
	return m, nil
}

// counters are those of one other member, looked up once.
type counters struct {
	sentBytes, sentFailures         prometheus.Counter
	receivedBytes, receivedFailures prometheus.Counter
	roundTrip                       prometheus.Observer
}

func (m *metrics) of(id member.ID) counters {
	name := id.String()
	return counters{
		sentBytes: m.sentBytes.WithLabelValues(name), sentFailures: m.sentFailures.WithLabelValues(name),
		receivedBytes: m.receivedBytes.WithLabelValues(name), receivedFailures: m.receivedFailures.WithLabelValues(name),
		roundTrip: m.roundTrip.WithLabelValues(name),
	}
}
