package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/soheilhy/cmux"
)

// sniffTimeout bounds how long a new connection may leave open what it
// speaks. HTTP/1 clients dial ahead of need, so it is not short.
const sniffTimeout = time.Minute

// Split hands the connections of one port to two listeners, by their first
// bytes: HTTP/2 to GRPC, everything else to HTTP. Closing either, or ending
// Run, closes the port: what no longer accepts the one should not accept the
// other. Afterwards a connection costs one more method call for each read.
type Split struct {
	GRPC net.Listener
	HTTP net.Listener

	root *sniffed
	mux  cmux.CMux
}

// NewSplit prepares a split of l; Run begins it.
func NewSplit(l net.Listener) *Split { return newSplit(l, sniffTimeout) }

func newSplit(l net.Listener, limit time.Duration) *Split {
	root := &sniffed{Listener: l, conns: map[*candidate]bool{}}
	mux := cmux.New(root)
	mux.SetReadTimeout(limit)
	return &Split{
		root: root,
		mux:  mux,
		GRPC: &branch{Listener: mux.Match(cmux.HTTP2()), root: root},
		HTTP: &branch{Listener: mux.Match(saysAnything), root: root},
	}
}

// Run splits until ctx ends or the port is closed. When it returns, nothing
// that it started runs any more; connections handed over stay open.
func (s *Split) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.root.Close() //nolint:errcheck // the accept that fails now reports it
	})
	err := s.mux.Serve()
	s.root.abandon() // Serve waited for them already unless accept failed by itself
	if !stop() {
		<-stopped
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// saysAnything matches a connection on which at least one byte came.
func saysAnything(r io.Reader) bool {
	var first [1]byte
	_, err := io.ReadFull(r, first[:])
	return err == nil
}

// sniffed is the port, and the connections that have not yet said what they
// speak: cmux waits for them when it ends, so they must be closed then.
type sniffed struct {
	net.Listener
	mu     sync.Mutex
	conns  map[*candidate]bool // nil after Close
	closed bool
}

func (s *sniffed) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		s.abandon()
		return nil, err
	}
	c := &candidate{Conn: conn, root: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close() // nobody will use it
		return nil, net.ErrClosed
	}
	s.conns[c] = true
	return c, nil
}

// Close closes the port and the connections still undecided.
func (s *sniffed) Close() error {
	s.abandon()
	return s.Listener.Close()
}

func (s *sniffed) abandon() {
	s.mu.Lock()
	undecided := s.conns
	s.conns, s.closed = nil, true
	s.mu.Unlock()
	for c := range undecided {
		c.Conn.Close() // nobody will use it
	}
}

func (s *sniffed) forget(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// candidate is a connection that leaves the list of the undecided when cmux
// closes it.
type candidate struct {
	net.Conn
	root *sniffed
}

func (c *candidate) Close() error {
	c.root.forget(c)
	return c.Conn.Close()
}

// branch is one side of a split.
type branch struct {
	net.Listener // cmux's
	root         *sniffed
}

func (b *branch) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if errors.Is(err, cmux.ErrServerClosed) || errors.Is(err, cmux.ErrListenerClosed) {
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	if mux, ok := conn.(*cmux.MuxConn); ok {
		if c, ok := mux.Conn.(*candidate); ok {
			b.root.forget(c)
		}
	}
	return conn, nil
}

// Close closes the port, with the other branch.
func (b *branch) Close() error { return b.root.Close() }
