package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"kvd/internal/sender"
)

// Options say how a proxy works.
type Options struct {
	ReadOnly    bool          // refuse what writes
	Refresh     time.Duration // between two looks who the members are; > 0
	FailureWait time.Duration // how long an endpoint that failed is set aside
	DialTimeout time.Duration // how long a call waits for an endpoint to be reached

	// Namespace stands before all keys at the members; none.
	Namespace    namespace
	CacheBytes   int  // of answers to serializable ranges that a watch proves current; 0: none
	Ordered      bool // no read is answered from an older revision than one before
	Registration Registration
	// LeasingPrefix is of the keys by which proxies and clients own others, and may
	// answer reads of them; inside the namespace. "": none.
	LeasingPrefix string
	LeasingTTL    time.Duration // how long a proxy that is gone owns its keys; whole seconds; 0: 20 s

	MaxRequestBytes int    // of one message of a client; 0: gRPC's 4 MiB
	MaxStreams      uint32 // at once on one connection of a client; 0: no limit
	// How clients are pinged, and how often they may ping.
	KeepAlive, KeepAliveTimeout, KeepAliveMin time.Duration
	Grace                                     time.Duration // for calls to finish when it stops
	WatchBuffer                               int           // bytes of events that may wait for one client's stream; 0: 16 MiB
	WatchStall                                time.Duration // a stream of watches that is not read for so long is ended; 0: never
}

// Parts are what a proxy works with.
type Parts struct {
	Finder Finder
	Secure credentials.TransportCredentials // towards members with https; nil: there is no TLS
	// Handshake is of clients whose TLS has ended before; nil: none.
	Handshake credentials.TransportCredentials
	Log       *slog.Logger
	Metrics   *Metrics
}

const (
	streamWorkers = 128
	watchBuffer   = 16 << 20
)

// Proxy is the services of a cluster, served by passing them on. Make it with
// New, then Run it.
type Proxy struct {
	o         Options
	parts     Parts
	log       *slog.Logger
	endpoints *endpoints
	watches   *watches
	senders   sender.Pool // of all watch streams
	leases    *renewals
	order     ordering
	cache     *cache
	leasing   *leasing // nil: there is none
	server    *grpc.Server
	stopping  chan struct{} // closed when it stops
	work      sync.WaitGroup
}

// New makes a proxy. Nothing is asked or served before Run.
func New(o Options, parts Parts) *Proxy {
	if o.WatchBuffer == 0 {
		o.WatchBuffer = watchBuffer
	}
	p := &Proxy{o: o, parts: parts, log: parts.Log, stopping: make(chan struct{})}
	p.endpoints = newEndpoints(p.log, o.FailureWait, parts.Secure)
	p.order.on, p.cache = o.Ordered, newCache(p)
	p.watches = newWatches(p)
	p.leases = newRenewals(p)
	p.leasing = newLeasing(p)
	options := []grpc.ServerOption{
		grpc.UnknownServiceHandler(p.handle),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.WriteBufferSize(bufferSize), grpc.ReadBufferSize(bufferSize),
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(windowSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: o.KeepAliveMin}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: o.KeepAlive, Timeout: o.KeepAliveTimeout}),
		grpc.WaitForHandlers(true),
	}
	if o.MaxRequestBytes > 0 {
		options = append(options, grpc.MaxRecvMsgSize(o.MaxRequestBytes))
	}
	if o.MaxStreams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(o.MaxStreams))
	}
	if parts.Handshake != nil {
		options = append(options, grpc.Creds(parts.Handshake))
	}
	p.server = grpc.NewServer(options...)
	p.declare()
	return p
}

// Run serves the listeners, which it closes, until ctx ends. An error is one of
// accepting.
func (p *Proxy) Run(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	serving.Go(func() { p.refresh(ctx) })
	if p.o.Registration.Prefix != "" && !p.o.ReadOnly {
		serving.Go(func() { p.register(ctx) })
	}
	if p.leasing != nil {
		serving.Go(func() { p.leasing.run(ctx) })
	}
	for _, l := range listeners {
		serving.Go(func() {
			if err := p.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
				cancel(fmt.Errorf("serve clients on %s: %w", l.Addr(), err))
			}
		})
	}
	<-ctx.Done()
	p.stop()
	serving.Wait()
	p.watches.close()
	p.leases.close()
	p.work.Wait()
	p.endpoints.close()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// stop ends the streams that would go on for ever, lets calls finish and, after
// the time of grace, ends them.
func (p *Proxy) stop() {
	close(p.stopping)
	p.watches.end()
	late := time.AfterFunc(p.o.Grace, p.server.Stop)
	defer late.Stop()
	p.server.GracefulStop()
}

// refresh looks who the members are, again and again.
func (p *Proxy) refresh(ctx context.Context) {
	known := false
	said := "" // in the log: what does not change is not said again
	for {
		urls, err := p.parts.Finder.Find(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil: // what is known may still be good
			if err.Error() != said {
				p.log.Warn("the members are not found; going on with what is known", "error", err)
			}
			said = err.Error()
		default:
			said = ""
			p.endpoints.replace(urls)
			known = len(urls) > 0
		}
		wait := p.o.Refresh
		if !known {
			wait = min(wait, findSoon)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Endpoints are the members' client URLs and how they are, for anybody.
func (p *Proxy) Endpoints() []Endpoint { return p.endpoints.states() }

// Healthy is how many endpoints are connected.
func (p *Proxy) Healthy() int { return p.endpoints.healthy() }
