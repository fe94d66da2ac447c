package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"kvd/internal/api"
	"kvd/internal/listen"
)

const (
	headerTimeout = 5 * time.Minute // to send a request's headers, as etcd has it
	headerBytes   = 1 << 20
)

// serveClients starts the services on every client port.
func (m *running) serveClients() {
	services := api.New(m.apiOptions(), api.Parts{
		Member: m.replica, Hub: m.hub, Store: m.opened.Store,
		Cluster: m.opened.Cluster, ID: m.opened.ID, Log: m.log, Registry: m.registry,
	})
	var grpc []net.Listener
	var web []net.Listener
	for _, p := range m.ports.client {
		if len(m.ports.http) > 0 {
			grpc = append(grpc, p)
			continue
		}
		split := listen.NewSplit(p)
		m.crew.start("client port "+p.Addr().String(), split.Run)
		grpc, web = append(grpc, split.GRPC), append(web, split.HTTP)
	}
	for _, p := range m.ports.http {
		web = append(web, p)
	}
	m.crew.start("client HTTP", func(ctx context.Context) error { return serveHTTP(ctx, m.clientMux(), web...) })
	var metrics []net.Listener
	for _, p := range m.ports.metrics {
		metrics = append(metrics, p)
	}
	m.crew.start("metrics", func(ctx context.Context) error { return serveHTTP(ctx, m.metricsMux(), metrics...) })
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
func (m *running) servePeers(ctx context.Context) error {
	var all []net.Listener
	for _, p := range m.ports.peer {
		all = append(all, p)
	}
	return serveHTTP(ctx, m.peerMux(), all...)
}

// serveHTTP serves HTTP/1 on the listeners until ctx ends, and lets requests
// finish for a moment.
func serveHTTP(ctx context.Context, handler http.Handler, listeners ...net.Listener) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: headerBytes}
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close() //nolint:errcheck // it ends what did not end by itself
	}
	serving.Wait()
	return err
}
