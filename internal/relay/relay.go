// Package relay is a gateway on layer 4: it takes TCP connections of clients and
// passes their bytes to members of a cluster, without looking into them. TLS goes
// through it from end to end. It is what `kvd gateway` runs.
//
// It knows no protocol but DNS, whose SRV records may tell it the members, and as
// much of TLS as it needs to ask a member for its certificate before any client
// is sent there. Run owns its goroutines.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Options say what a relay does. A zero field takes the default named beside it.
type Options struct {
	Listen         string        // host:port
	Endpoints      []string      // host:port, or URLs of members; not used with SRV
	SRV            SRV           // where to ask for the members; no Domain: Endpoints
	TrustedCAFile  string        // a member has to show a certificate that it signed; "": see SRV
	RetryDelay     time.Duration // until an endpoint that failed is tried again, and DNS asked; 1 min
	DialTimeout    time.Duration // for a connection to a member; 3 s
	MaxConnections int           // of clients at once, those beyond wait in the kernel; 10,000
	Grace          time.Duration // for connections to end by themselves when it stops; 5 s
}

const (
	standardRetry       = time.Minute
	standardDial        = 3 * time.Second
	standardConnections = 10_000
	standardGrace       = 5 * time.Second
	acceptPause         = 50 * time.Millisecond // after accepting has failed, as without file descriptors
	maxLookUps          = 30 * time.Second      // for DNS to tell all members
	maxBytesCA          = 4 << 20
)

func (o *Options) complete() error {
	if o.RetryDelay == 0 {
		o.RetryDelay = standardRetry
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = standardDial
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = standardConnections
	}
	if o.Grace == 0 {
		o.Grace = standardGrace
	}
	var faults []error
	if o.RetryDelay < 0 || o.DialTimeout < 0 || o.Grace < 0 {
		faults = append(faults, fmt.Errorf("--retry-delay, --dial-timeout and --drain-timeout are times and not negative: %v, %v, %v", o.RetryDelay, o.DialTimeout, o.Grace))
	}
	if o.MaxConnections < 1 {
		faults = append(faults, fmt.Errorf("--max-connections is at least 1, and is %d", o.MaxConnections))
	}
	return errors.Join(faults...)
}

// Resolver is the part of a net.Resolver that a relay asks.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Parts are what a relay works with.
type Parts struct {
	Log      *slog.Logger
	Resolver Resolver // nil: the system's
	// Told is called with each change: how it is doing, in a line, and whether it
	// listens and has reached an endpoint. One call at a time.
	Told func(status string, ready bool)
}

// Relay passes connections on. Make it with New, then Run it.
type Relay struct {
	o        Options
	log      *slog.Logger
	resolver Resolver
	told     func(status string, ready bool)
	listener *net.TCPListener
	own      netip.AddrPort // where it listens
	targets  targets
	room     chan struct{} // a token for each client, and for the one to come
	clients  atomic.Int64
	again    chan struct{} // one signal: look now
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.TCPConn]bool // that are to be closed when it stops; nil: it has stopped
}

// New checks the options, finds the endpoints and opens the listener: who connects
// from then on waits for Run. The receiver has to Run it, or Close it.
func New(ctx context.Context, o Options, parts Parts) (*Relay, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &Relay{
		o: o, log: parts.Log, resolver: parts.Resolver, told: parts.Told,
		room: make(chan struct{}, o.MaxConnections), again: make(chan struct{}, 1), conns: map[*net.TCPConn]bool{},
	}
	if r.resolver == nil {
		r.resolver = net.DefaultResolver
	}
	if r.told == nil {
		r.told = func(string, bool) {}
	}
	if _, _, err := splitAddress(o.Listen); err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	found, err := r.find(ctx)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	r.listener = l.(*net.TCPListener)
	r.own = r.listener.Addr().(*net.TCPAddr).AddrPort()
	if err := r.notItself(ctx, found); err != nil {
		return nil, errors.Join(err, r.listener.Close())
	}
	r.targets.replace(found)
	return r, nil
}

// Addr is where it listens.
func (r *Relay) Addr() net.Addr { return r.listener.Addr() }

// Close gives up a relay that is not run.
func (r *Relay) Close() error { return r.listener.Close() }

// Again looks now at the endpoints that have failed, at DNS and at the certificate
// authorities, and not only when the next look is due.
func (r *Relay) Again() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// Moves returns when what every connection has to pass can be passed.
func (r *Relay) Moves() {
	r.mu.Lock()
	r.mu.Unlock() //nolint:staticcheck // that it can be had is all that is asked
	r.targets.counts()
}

// Run passes connections on until ctx ends; then it takes no more, and those that
// are left at the end of the time of grace are closed.
func (r *Relay) Run(ctx context.Context) error {
	r.log.Info("ready to proxy client requests", "listen-addr", r.own.String(), "endpoints", r.targets.names())
	watching, stop := context.WithCancel(ctx)
	defer stop()
	r.work.Go(func() { r.watch(watching) })
	ended := context.AfterFunc(ctx, func() { r.listener.Close() }) //nolint:errcheck // it is given up
	defer ended()
	r.accept(ctx)
	r.listener.Close() //nolint:errcheck // it is closed already, or about to be
	stop()
	r.drain()
	return nil
}

// accept takes connections until the listener is closed.
func (r *Relay) accept(ctx context.Context) {
	for {
		select {
		case r.room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		client, err := r.listener.AcceptTCP()
		switch {
		case err == nil:
			r.work.Go(func() {
				r.clients.Add(1)
				defer func() { r.clients.Add(-1); <-r.room }()
				r.serve(ctx, client)
			})
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			<-r.room
			return
		}
		<-r.room
		r.log.Warn("a client's connection is not accepted", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(acceptPause):
		}
	}
}

// drain waits until all connections have ended, and ends those that have not.
func (r *Relay) drain() {
	over := make(chan struct{})
	go func() { r.work.Wait(); close(over) }()
	late := time.NewTimer(r.o.Grace)
	defer late.Stop()
	select {
	case <-over:
		return
	case <-late.C:
	}
	r.mu.Lock()
	if n := len(r.conns); n > 0 {
		r.log.Info("closing what is still connected", "connections", n)
	}
	for c := range r.conns {
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	<-over
}

// hold notes a connection that is to be closed when the relay stops; false: it has
// stopped, and the connection is closed.
func (r *Relay) hold(c *net.TCPConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		c.Close()
		return false
	}
	r.conns[c] = true
	return true
}

// release closes a connection that was held.
func (r *Relay) release(c *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	c.Close()
}

// report tells how the relay is doing.
func (r *Relay) report() {
	active, all := r.targets.counts()
	r.told(fmt.Sprintf("gateway, %d of %d endpoints active, %d connections", active, all, r.clients.Load()), active > 0)
}
