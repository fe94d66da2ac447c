package api

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/internal/replica"
)

// The kinds of methods, as grpc_server_* metrics name them.
const (
	kindUnary        = "unary"
	kindServerStream = "server_stream"
	kindBidiStream   = "bidi_stream"
)

// metrics carry etcd's names.
type metrics struct {
	started, handled, received, sent *prometheus.CounterVec
	handling                         *prometheus.HistogramVec // nil unless asked for
	streamFailures                   *prometheus.CounterVec
	sendEvents, sendPerEvent         prometheus.Histogram
	sendControl, sendProgress        prometheus.Histogram
	requests                         *prometheus.CounterVec
	sentBytes, receivedBytes         prometheus.Counter
	clients                          clients
	ranges                           durations // of a range alone
	rangeRequests, readTxns          durations // of requests
	hash, hashKV, snapshot           prometheus.Observer
	promotions                       prometheus.Counter
	failedPromotions                 *prometheus.CounterVec
	slow, stalled                    prometheus.Counter
	refused                          [classes]prometheus.Counter
}

func newMetrics(registry prometheus.Registerer, extensive bool) *metrics {
	m := &metrics{}
	counter := func(namespace, subsystem, name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
		registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, first float64, buckets int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, buckets),
		})
		registry.MustRegister(h)
		return h
	}
	sendLoop := func(name, help string) prometheus.Histogram {
		return histogram("etcd_debugging_server_watch_send_loop_"+name+"_seconds", help, 0.001, 14)
	}
	m.started = counter("grpc", "server", "started_total", "Calls started on the server.", "grpc_type", "grpc_service", "grpc_method")
	m.handled = counter("grpc", "server", "handled_total", "Calls completed on the server, whatever the result.", "grpc_type", "grpc_service", "grpc_method", "grpc_code")
	m.received = counter("grpc", "server", "msg_received_total", "Messages received by the server.", "grpc_type", "grpc_service", "grpc_method")
	m.sent = counter("grpc", "server", "msg_sent_total", "Messages sent by the server.", "grpc_type", "grpc_service", "grpc_method")
	if extensive {
		m.handling = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "grpc", Subsystem: "server", Name: "handling_seconds", Help: "Time until the server had handled a call.", Buckets: prometheus.DefBuckets,
		}, []string{"grpc_type", "grpc_service", "grpc_method"})
		registry.MustRegister(m.handling)
	}
	m.requests = counter("etcd", "server", "client_requests_total", "Requests by the version of the client's API.", "type", "client_api_version")
	m.sentBytes = counter("etcd", "network", "client_grpc_sent_bytes_total", "Bytes of messages sent to gRPC clients.").WithLabelValues()
	m.receivedBytes = counter("etcd", "network", "client_grpc_received_bytes_total", "Bytes of messages received from gRPC clients.").WithLabelValues()
	m.streamFailures = counter("etcd", "network", "server_stream_failures_total", "Streams of this member that failed.", "Type", "API")
	m.sendEvents = sendLoop("watch_stream_duration", "Time to send one watch response with events.")
	m.sendPerEvent = sendLoop("watch_stream_duration_per_event", "The same, by the number of events in it.")
	m.sendControl = sendLoop("control_stream_duration", "Time to send one watch response without events.")
	m.sendProgress = sendLoop("progress_duration", "Time to look for watchers that are due a progress response.")
	ranges := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "server", Name: "range_duration_seconds", Help: "Time to read a range, once the view to read is there.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"success"})
	registry.MustRegister(ranges)
	m.ranges = newDurations(ranges)
	requests := replica.RequestDurations(registry)
	m.rangeRequests, m.readTxns = newDurations(requests, "Range"), newDurations(requests, "ReadonlyTxn")
	m.hash = histogram("etcd_mvcc_hash_duration_seconds", "Time to hash the database.", 0.01, 15)
	m.hashKV = histogram("etcd_mvcc_hash_rev_duration_seconds", "Time to hash the keys at a revision.", 0.01, 15)
	m.promotions = counter("etcd", "server", "learner_promote_successes", "Learners that were promoted while this member led.").WithLabelValues()
	m.failedPromotions = counter("etcd", "server", "learner_promote_failures", "Learners that were not promoted while this member led.", "Reason")
	m.snapshot = histogram("etcd_disk_backend_snapshot_duration_seconds", "Time that an image of the database was open for sending.", 0.01, 17)
	m.slow = counter("kvd", "", "slow_requests_total", "Unary calls that took longer than warning-unary-request-duration.").WithLabelValues()
	m.stalled = counter("kvd", "", "watch_streams_stalled_total", "Watch streams that were ended because their clients did not read.").WithLabelValues()
	refused := counter("kvd", "", "requests_refused_total", "Calls that were refused because too many were running, by what goes first.", "class")
	for c, name := range classNames {
		m.refused[c] = refused.WithLabelValues(name)
	}
	return m
}

// watchGate shows what runs.
func (m *metrics) watchGate(registry prometheus.Registerer, g *gate) {
	for c, name := range classNames {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kvd_requests_running", Help: "Calls that run, by what goes first; streams of watches and renewals are not counted.",
			ConstLabels: prometheus.Labels{"class": name},
		}, func() float64 { return float64(g.running[c].Load()) }))
	}
}

// watchBudget shows what answers take.
func (m *metrics) watchBudget(registry prometheus.Registerer, b *budget) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kvd_range_memory_bytes", Help: "Memory of the answers to ranges that are read or on their way to clients.",
	}, func() float64 { return float64(b.used.Load()) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "kvd_ranges_refused_total", Help: "Ranges that were refused because range-memory-bytes was used up.",
	}, func() float64 { return float64(b.refused.Load()) }))
}

// promoted counts what has come of a promotion.
func (m *metrics) promoted(err error) {
	if err != nil {
		m.failedPromotions.WithLabelValues(status.Convert(wire(err)).Message()).Inc()
		return
	}
	m.promotions.Inc()
}

// durations are two histograms of one family, by success, its last label. Only
// what has happened is shown, so each is made when first needed.
type durations struct {
	vec    *prometheus.HistogramVec
	labels []string // all but success
	made   *[2]atomic.Pointer[prometheus.Observer]
}

func newDurations(vec *prometheus.HistogramVec, labels ...string) durations {
	return durations{vec, labels, &[2]atomic.Pointer[prometheus.Observer]{}}
}

// observe measures what began then and has ended with err.
func (d durations) observe(began time.Time, err error) {
	at, success := 0, "true"
	if err != nil {
		at, success = 1, "false"
	}
	observer := d.made[at].Load()
	if observer == nil {
		made := d.vec.WithLabelValues(append(d.labels[:len(d.labels):len(d.labels)], success)...)
		observer = &made
		d.made[at].Store(observer)
	}
	(*observer).Observe(time.Since(began).Seconds())
}

// count is one method's counters.
type count struct {
	started, received, sent prometheus.Counter
	codes                   [codes.Unauthenticated + 1]prometheus.Counter
	handling                prometheus.Observer // may be nil
}

func (m *metrics) method(kind, service, name string) count {
	c := count{
		started:  m.started.WithLabelValues(kind, service, name),
		received: m.received.WithLabelValues(kind, service, name),
		sent:     m.sent.WithLabelValues(kind, service, name),
	}
	for code := range c.codes {
		c.codes[code] = m.handled.WithLabelValues(kind, service, name, codes.Code(code).String())
	}
	if m.handling != nil {
		c.handling = m.handling.WithLabelValues(kind, service, name)
	}
	return c
}

// done counts a call's end.
func (c *count) done(err error, began time.Time) {
	code := codes.OK
	if err != nil {
		if code = status.Code(err); code == codes.Unknown {
			code = status.FromContextError(err).Code()
		}
		if int(code) >= len(c.codes) {
			code = codes.Unknown
		}
	}
	c.codes[code].Inc()
	if c.handling != nil {
		c.handling.Observe(time.Since(began).Seconds())
	}
}

// client counts a request by its client's version.
func (m *metrics) client(kind, version string) { m.clients.counter(m.requests, kind, version).Inc() }

// clients caches the counters of the versions that were seen. The versions are
// the clients' to choose: past a limit they are counted as one.
type clients struct {
	known atomic.Pointer[map[clientKey]prometheus.Counter]
	mu    sync.Mutex // held by who replaces known
}

type clientKey struct{ kind, version string }

const (
	maxVersions     = 64
	maxVersionBytes = 32
)

func (c *clients) counter(vec *prometheus.CounterVec, kind, version string) prometheus.Counter {
	key := clientKey{kind, version}
	if known := c.known.Load(); known != nil {
		if counter, ok := (*known)[key]; ok {
			return counter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[clientKey]prometheus.Counter{}
	if known := c.known.Load(); known != nil {
		for k, v := range *known {
			next[k] = v
		}
	}
	if len(next) >= maxVersions || len(version) > maxVersionBytes {
		return vec.WithLabelValues(kind, "other")
	}
	if _, ok := next[key]; !ok {
		next[key] = vec.WithLabelValues(kind, version)
		c.known.Store(&next)
	}
	return next[key]
}
