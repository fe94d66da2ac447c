package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// pingAfter is how long a connection may say nothing while calls wait. etcd
	// refuses clients that ask more often than every 5 seconds.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// maxBackoff bounds the time between two attempts to connect.
	maxBackoff = 2 * time.Second
	bufferSize = 64 << 10
	windowSize = 4 << 20
)

// endpoint is a client URL of a member, with a connection that is kept.
type endpoint struct {
	url    string
	conn   *grpc.ClientConn
	ready  bool
	aside  time.Time // not chosen before, if there is another
	failed string    // why it was set aside last
	since  time.Time // when it came to be what it is
	drop   context.CancelFunc
}

// endpoints are the members' client URLs that are known. Each has a goroutine
// that follows its connection.
type endpoints struct {
	log         *slog.Logger
	failureWait time.Duration
	secure      credentials.TransportCredentials // for https and unixs; nil: not possible

	running sync.WaitGroup
	mu      sync.Mutex
	all     []*endpoint
	turn    int
	changed chan struct{} // closed and replaced when an endpoint becomes ready, or the list is another
	closed  bool
}

func newEndpoints(log *slog.Logger, failureWait time.Duration, secure credentials.TransportCredentials) *endpoints {
	return &endpoints{log: log, failureWait: failureWait, secure: secure, changed: make(chan struct{})}
}

// replace makes urls the endpoints. Those that stay keep their connections, and
// what is known of their health.
func (es *endpoints) replace(urls []string) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.closed {
		return
	}
	var kept []*endpoint
	for _, e := range es.all {
		if slices.Contains(urls, e.url) {
			kept = append(kept, e)
			continue
		}
		es.log.Info("an endpoint is gone", "endpoint", e.url)
		e.drop()
	}
	for _, u := range urls {
		if slices.ContainsFunc(kept, func(e *endpoint) bool { return e.url == u }) {
			continue
		}
		e, err := es.open(u)
		if err != nil {
			es.log.Warn("an endpoint cannot be used", "endpoint", u, "error", err)
			continue
		}
		es.log.Info("a new endpoint", "endpoint", u)
		kept = append(kept, e)
	}
	es.all = kept
	es.tellLocked()
}

func (es *endpoints) tellLocked() {
	close(es.changed)
	es.changed = make(chan struct{})
}

// open makes a connection, which is followed until the endpoint is dropped. It
// is closed once nothing uses it: at the latest with the calls on it.
func (es *endpoints) open(text string) (*endpoint, error) {
	target, secure, err := targetOf(text)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if secure {
		if es.secure == nil {
			return nil, fmt.Errorf("%s needs TLS, and there is no certificate authority to trust; set trusted-ca-file", text)
		}
		transport = es.secure.Clone()
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), // the proxy chooses where to ask again
		grpc.WithIdleTimeout(0),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
		grpc.WithInitialWindowSize(windowSize), grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
	)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &endpoint{url: text, conn: conn, drop: cancel, since: time.Now()}
	es.running.Go(func() { es.follow(ctx, e) })
	return e, nil
}

// targetOf tells gRPC where a client URL leads. A host and port without a
// scheme is one, too.
func targetOf(text string) (target string, secure bool, err error) {
	if !strings.Contains(text, "://") {
		return "passthrough:///" + text, false, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", false, err
	}
	switch u.Scheme {
	case "http", "https":
		return "passthrough:///" + u.Host, u.Scheme == "https", nil
	case "unix", "unixs":
		return "unix:" + u.Host + u.Path, u.Scheme == "unixs", nil
	}
	return "", false, fmt.Errorf("the scheme of %s is none of http, https, unix and unixs", text)
}

// follow keeps the connection up and notes how it is, until it is dropped.
func (es *endpoints) follow(ctx context.Context, e *endpoint) {
	defer e.conn.Close()
	for {
		state := e.conn.GetState()
		if state == connectivity.Idle {
			e.conn.Connect()
		}
		es.note(e, state)
		if !e.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (es *endpoints) note(e *endpoint, state connectivity.State) {
	es.mu.Lock()
	defer es.mu.Unlock()
	was := e.ready
	e.ready = state == connectivity.Ready
	if e.ready != was {
		e.since = time.Now()
	}
	switch {
	case e.ready && !was:
		es.tellLocked()
	case state == connectivity.TransientFailure:
		es.setAsideLocked(e, "cannot be reached")
	}
}

// setAside keeps an endpoint from being chosen for a while, if there is another.
func (es *endpoints) setAside(e *endpoint, why string) {
	es.mu.Lock()
	defer es.mu.Unlock()
	es.setAsideLocked(e, why)
}

func (es *endpoints) setAsideLocked(e *endpoint, why string) {
	now := time.Now()
	if now.After(e.aside) {
		es.log.Warn("an endpoint is set aside", "endpoint", e.url, "for", es.failureWait, "reason", why)
	}
	e.aside, e.failed = now.Add(es.failureWait), why
}

// pick chooses an endpoint that is connected, other than those of tried, in
// turn; one that was set aside only if there is no other.
func (es *endpoints) pick(tried []*endpoint) *endpoint {
	es.mu.Lock()
	defer es.mu.Unlock()
	now := time.Now()
	var second *endpoint
	for i := range es.all {
		e := es.all[(es.turn+i)%len(es.all)]
		if !e.ready || slices.Contains(tried, e) {
			continue
		}
		if now.Before(e.aside) {
			if second == nil {
				second = e
			}
			continue
		}
		es.turn = (es.turn + i + 1) % len(es.all)
		return e
	}
	return second
}

// choose waits until there is an endpoint to pick, for the time given.
func (es *endpoints) choose(ctx context.Context, tried []*endpoint, patience time.Duration) (*endpoint, error) {
	if e := es.pick(tried); e != nil {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		es.mu.Lock()
		changed := es.changed
		es.mu.Unlock()
		if e := es.pick(tried); e != nil {
			return e, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, es.noneError()
		}
	}
}

// noneError says what became of every endpoint.
func (es *endpoints) noneError() error {
	states := es.states()
	if len(states) == 0 {
		return fmt.Errorf("%w: none is known", ErrNoEndpoint)
	}
	var parts []string
	for _, s := range states {
		parts = append(parts, s.URL+" "+s.State)
	}
	return fmt.Errorf("%w: %s", ErrNoEndpoint, strings.Join(parts, ", "))
}

// Endpoint is how the proxy sees one client URL of a member.
type Endpoint struct {
	URL    string    `json:"url"`
	State  string    `json:"state"` // "ready", "connecting" or "set aside"
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

func (es *endpoints) states() []Endpoint {
	es.mu.Lock()
	defer es.mu.Unlock()
	out := make([]Endpoint, 0, len(es.all))
	now := time.Now()
	for _, e := range es.all {
		s := Endpoint{URL: e.url, State: "connecting", Since: e.since}
		switch {
		case now.Before(e.aside):
			s.State, s.Reason = "set aside", e.failed
		case e.ready:
			s.State = "ready"
		default:
			s.Reason = e.failed // the last try's
		}
		out = append(out, s)
	}
	return out
}

// healthy is how many endpoints are connected.
func (es *endpoints) healthy() (n int) {
	es.mu.Lock()
	defer es.mu.Unlock()
	for _, e := range es.all {
		if e.ready {
			n++
		}
	}
	return n
}

// close drops every endpoint and waits for their goroutines.
func (es *endpoints) close() {
	es.mu.Lock()
	es.closed = true
	for _, e := range es.all {
		e.drop()
	}
	es.all = nil
	es.mu.Unlock()
	es.running.Wait()
}
