package daemon

import (
	"context"
	"net"

	"kvd/internal/api"
	"kvd/internal/gateway"
	"kvd/internal/listen"
)

// serveClients starts the services on every client port.
func (m *running) serveClients(web *gateway.Gateway) {
	services := api.New(m.apiOptions(), api.Parts{
		Member: m.replica, Hub: m.hub, Store: m.opened.Store,
		Cluster: m.opened.Cluster, ID: m.opened.ID, Log: m.log, Registry: m.registry,
	})
	var grpc, http, metrics []net.Listener
	for _, p := range m.ports.client {
		if len(m.ports.http) > 0 {
			grpc = append(grpc, p)
			continue
		}
		split := listen.NewSplit(p)
		m.crew.start("client port "+p.Addr().String(), split.Run)
		grpc, http = append(grpc, split.GRPC), append(http, split.HTTP)
	}
	for _, p := range m.ports.http {
		http = append(http, p)
	}
	m.crew.start("client HTTP", func(ctx context.Context) error { return gateway.Serve(ctx, web.Client(), http...) })
	for _, p := range m.ports.metrics {
		metrics = append(metrics, p)
	}
	m.crew.start("metrics", func(ctx context.Context) error { return gateway.Serve(ctx, web.Metrics(), metrics...) })
	m.crew.start("clients", func(ctx context.Context) error { return services.Run(ctx, grpc...) })
}

func (m *running) apiOptions() api.Options {
	c := m.config
	return api.Options{
		MaxTxnOps:        int(c.Limits.TxnOps),
		MaxRequestBytes:  int(c.Limits.RequestBytes),
		MaxStreams:       c.Limits.ConcurrentStreams,
		QuotaBytes:       c.Store.QuotaBytes,
		ProgressInterval: c.Watch.ProgressInterval,
		SlowRequest:      c.Limits.WarnUnary,
		Election:         c.Raft.ElectionTimeout,
		KeepAliveMin:     c.GRPC.KeepAliveMinTime,
		KeepAlive:        c.GRPC.KeepAliveInterval,
		KeepAliveTimeout: c.GRPC.KeepAliveTimeout,
		Extensive:        c.HTTP.Metrics == "extensive",
	}
}

// servePeers answers on the peer ports.
func (m *running) servePeers(web *gateway.Gateway) {
	var all []net.Listener
	for _, p := range m.ports.peer {
		all = append(all, p)
	}
	m.crew.start("peers", func(ctx context.Context) error { return gateway.Serve(ctx, m.peerMux(web), all...) })
}
