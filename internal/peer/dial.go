package peer

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	handshakeTimeout = 10 * time.Second
	// idlePost is how long a connection for posts is kept. Other members may cut
	// it after 5 s without a request, and a post that meets this is lost.
	idlePost       = 4500 * time.Millisecond
	idlePosts      = 1024 // connections, of one host
	headerBytes    = 64 << 10
	connectionSpan = 64 << 10 // buffers of a connection
)

// wire is how connections to other members are made.
type wire struct {
	tls     func() *tls.Config // for those over TLS, as it is now; nil: Go's own
	local   string             // IP they come from; empty: any
	timeout time.Duration      // to connect
}

func newWire(config func() *tls.Config, local string, election time.Duration) wire {
	return wire{tls: config, local: local, timeout: time.Second + election}
}

// roads makes connections on which nothing may wait longer than the given times;
// 0 is for ever. With reuse they are kept for further requests.
func (w wire) roads(read, write time.Duration, reuse bool) *roads {
	return &roads{wire: w, read: read, write: write, reuse: reuse}
}

// roads are the connections of one kind of request. Those over TLS are made with
// the configuration of now: once it is another one, those that are kept are let
// go, and those in use end with their request. Its methods are for any goroutine.
type roads struct {
	wire        wire
	read, write time.Duration
	reuse       bool

	mu    sync.Mutex
	of    *tls.Config     // that the two are made with
	tcp   *http.Transport // nil before the first request
	local *http.Transport // over unix sockets
}

// RoundTrip implements http.RoundTripper. It knows the schemes unix and unixs,
// whose host, with its port, is the name of a socket.
func (r *roads) RoundTrip(request *http.Request) (*http.Response, error) {
	tcp, local := r.take()
	scheme, isLocal := strings.CutPrefix(request.URL.Scheme, "unix")
	if !isLocal {
		return tcp.RoundTrip(request)
	}
	u := *request.URL
	u.Scheme = "http" + scheme
	request = request.WithContext(request.Context()) // a copy
	request.URL = &u
	return local.RoundTrip(request)
}

// CloseIdleConnections lets go of connections that are kept.
func (r *roads) CloseIdleConnections() {
	for _, t := range r.made() {
		t.CloseIdleConnections()
	}
}

func (r *roads) made() []*http.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tcp == nil {
		return nil
	}
	return []*http.Transport{r.tcp, r.local}
}

func (r *roads) take() (tcp, local *http.Transport) {
	var now *tls.Config
	if r.wire.tls != nil {
		now = r.wire.tls()
	}
	r.mu.Lock()
	if r.tcp != nil && r.of == now {
		defer r.mu.Unlock()
		return r.tcp, r.local
	}
	old := []*http.Transport{r.tcp, r.local}
	r.of, r.tcp, r.local = now, r.transport(now), r.transport(now)
	r.local.Proxy = nil
	r.local.DialContext = r.dial(&net.Dialer{Timeout: r.wire.timeout}, "unix")
	tcp, local = r.tcp, r.local
	r.mu.Unlock()
	for _, t := range old {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
	return tcp, local
}

func (r *roads) transport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{
		Timeout:         r.wire.timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if ip := net.ParseIP(r.wire.local); ip != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            r.dial(dialer, "tcp"),
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxIdleConnsPerHost:    -1,
		MaxResponseHeaderBytes: headerBytes,
		ReadBufferSize:         connectionSpan,
		WriteBufferSize:        connectionSpan,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true) // an etcd that was offered h2 would take it and not speak it
	if config != nil {
		t.TLSClientConfig = config.Clone()
	}
	if r.reuse {
		t.MaxIdleConnsPerHost, t.IdleConnTimeout = idlePosts, idlePost
	}
	return t
}

func (r *roads) dial(dialer *net.Dialer, network string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &timed{Conn: conn, read: r.read, write: r.write}, nil
	}
}

// timed is a connection on which no read and no write may take longer than a
// time; 0 is for ever.
type timed struct {
	net.Conn
	read, write time.Duration
}

func (c *timed) Read(b []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

func (c *timed) Write(b []byte) (int, error) {
	if c.write > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}
