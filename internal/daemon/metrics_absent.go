package daemon

import "github.com/prometheus/client_golang/prometheus"

// registerAbsent registers what a single member without v2 store and without
// gRPC proxy cannot have anything to say of. Etcd shows these families in every
// process, and dashboards and alerts rely on it; here they stay 0.
func registerAbsent(registry prometheus.Registerer) {
	for _, c := range []struct{ name, help string }{
		{"etcd_server_heartbeat_send_failures_total", "Heartbeats to other members that were late."},
		{"etcd_debugging_store_expires_total", "Keys of the v2 store that have run out; there is no v2 store."},
		{"etcd_debugging_store_watch_requests_total", "Watches on the v2 store; there is no v2 store."},
		{"etcd_grpc_proxy_events_coalescing_total", "Events that a gRPC proxy has joined; this is no proxy."},
	} {
		registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: c.name, Help: c.help}))
	}
	for _, g := range []struct{ name, help string }{
		{"etcd_debugging_store_watchers", "Watchers of the v2 store; there is no v2 store."},
		{"etcd_grpc_proxy_watchers_coalescing_total", "Watchers that a gRPC proxy has joined; this is no proxy."},
		{"etcd_grpc_proxy_cache_keys_total", "Ranges that a gRPC proxy has in its cache; this is no proxy."},
		{"etcd_grpc_proxy_cache_hits_total", "Hits of the cache of a gRPC proxy; this is no proxy."},
		{"etcd_grpc_proxy_cache_misses_total", "Misses of the cache of a gRPC proxy; this is no proxy."},
	} {
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: g.name, Help: g.help}))
	}
}
