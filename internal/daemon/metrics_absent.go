package daemon

import "github.com/prometheus/client_golang/prometheus"

// registerAbsent registers what a single member without v2 store and without
// gRPC proxy cannot have anything to say of. Etcd shows these families in every
// process, and dashboards and alerts rely on it; here they stay 0.
func registerAbsent(registry prometheus.Registerer) {
	for _, c := range []struct{ name, help string }{
		{"etcd_server_heartbeat_send_failures_total", "Heartbeats to other members that were late."},
		{"etcd_server_learner_promote_successes", "Learners that were promoted while this member led."},
		{"etcd_debugging_store_expires_total", "Keys of the v2 store that have run out; there is no v2 store."},
		{"etcd_debugging_store_watch_requests_total", "Watches on the v2 store; there is no v2 store."},
		{"etcd_grpc_proxy_events_coalescing_total", "Events that a gRPC proxy has joined; this is no proxy."},
	} {
		registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: c.name, Help: c.help}))
	}
	for _, g := range []struct{ name, help string }{
		{"etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot from another member is taken over, else 0."},
		{"etcd_debugging_store_watchers", "Watchers of the v2 store; there is no v2 store."},
		{"etcd_grpc_proxy_watchers_coalescing_total", "Watchers that a gRPC proxy has joined; this is no proxy."},
		{"etcd_grpc_proxy_cache_keys_total", "Ranges that a gRPC proxy has in its cache; this is no proxy."},
		{"etcd_grpc_proxy_cache_hits_total", "Hits of the cache of a gRPC proxy; this is no proxy."},
		{"etcd_grpc_proxy_cache_misses_total", "Misses of the cache of a gRPC proxy; this is no proxy."},
	} {
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: g.name, Help: g.help}))
	}
	for _, h := range []struct {
		name, help string
		first      float64
		buckets    int
	}{
		{"etcd_snap_db_fsync_duration_seconds", "Time to sync a database that another member has sent.", 0.001, 14},
		{"etcd_snap_db_save_total_duration_seconds", "Time to save a database that another member has sent.", 0.1, 10},
	} {
		registry.MustRegister(prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: h.name, Help: h.help, Buckets: prometheus.ExponentialBuckets(h.first, 2, h.buckets),
		}))
	}
}
