package peer

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
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
	tls     *tls.Config
	local   string        // IP they come from; empty: any
	timeout time.Duration // to connect
}

func newWire(config *tls.Config, local string, election time.Duration) wire {
	return wire{tls: config, local: local, timeout: time.Second + election}
}

// transport makes connections on which nothing may wait longer than the given
// times; 0 is for ever. With reuse they are kept for further requests.
func (w wire) transport(read, write time.Duration, reuse bool) *http.Transport {
	dialer := &net.Dialer{
		Timeout:         w.timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if ip := net.ParseIP(w.local); ip != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &timed{Conn: conn, read: read, write: write}, nil
		},
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxIdleConnsPerHost:    -1,
		MaxResponseHeaderBytes: headerBytes,
		ReadBufferSize:         connectionSpan,
		WriteBufferSize:        connectionSpan,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true) // an etcd that was offered h2 would take it and not speak it
	if w.tls != nil {
		t.TLSClientConfig = w.tls.Clone()
	}
	if reuse {
		t.MaxIdleConnsPerHost, t.IdleConnTimeout = idlePosts, idlePost
	}
	return t
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
