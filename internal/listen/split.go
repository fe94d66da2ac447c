package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soheilhy/cmux"
)

// sniffTimeout bounds how long a new connection may leave open what it
// speaks. HTTP/1 clients dial ahead of need, so it is not short.
const sniffTimeout = time.Minute

// lastWords bounds how long a closed port waits for the first bytes of the
// connections that it has accepted. A client that has just connected is about to
// send them; one that is silent costs a stop this much.
const lastWords = time.Second

// Split hands the connections of one port to two listeners, by their first
// bytes: HTTP/2 to GRPC, everything else to HTTP. Closing either, or ending
// Run, closes the port: what no longer accepts the one should not accept the
// other. Connections that were accepted until then are still handed over, once
// they speak. Afterwards a connection costs one more method call for each read.
type Split struct {
	GRPC net.Listener
	HTTP net.Listener

	root *sniffed
	mux  cmux.CMux
}

// NewSplit prepares a split of l; Run begins it.
func NewSplit(l net.Listener) *Split { return newSplit(l, sniffTimeout, lastWords) }

func newSplit(l net.Listener, limit, last time.Duration) *Split {
	root := &sniffed{Listener: l, last: last, conns: map[*candidate]bool{}, quiet: make(chan struct{})}
	mux := cmux.New(root)
	mux.SetReadTimeout(limit)
	return &Split{
		root: root,
		mux:  mux,
		GRPC: &branch{Listener: mux.Match(cmux.HTTP2()), root: root, reads: true, closed: make(chan struct{})},
		HTTP: &branch{Listener: mux.Match(saysAnything), root: root, closed: make(chan struct{})},
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
	if !stop() {
		<-stopped
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Drain closes the port of a split that runs, and returns when every connection that it has accepted is
// with those who serve it, which must go on accepting meanwhile, or was silent for
// too long. A server that is stopped before throws away what it accepts. For the
// servers nothing has happened until they close their side.
func (s *Split) Drain() {
	s.root.drained.Store(true)
	s.root.Close() //nolint:errcheck // the accept that fails now reports it
	<-s.root.quiet
}

// saysAnything matches a connection on which at least one byte came.
func saysAnything(r io.Reader) bool {
	var first [1]byte
	_, err := io.ReadFull(r, first[:])
	return err == nil
}

// sniffed is the port, and the connections that are not with a server yet: cmux
// closes them when Accept fails, so that waits for them.
type sniffed struct {
	net.Listener
	last    time.Duration // for connections to speak after Close
	drained atomic.Bool   // by Drain

	mu     sync.Mutex
	conns  map[*candidate]bool
	closed bool
	ended  bool          // nothing more is accepted
	quiet  chan struct{} // closed once there are no conns and will be none
	late   *time.Timer   // since Close
}

func (s *sniffed) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		s.Close() //nolint:errcheck // it has failed, or is closed
		s.mu.Lock()
		s.ended = true
		s.settleLocked()
		s.mu.Unlock()
		<-s.quiet
		return nil, err
	}
	c := &candidate{Conn: conn, root: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	return c, nil
}

// Close closes the port. The connections of which nobody knows what they speak
// may still say so for a while.
func (s *sniffed) Close() error {
	s.mu.Lock()
	first := !s.closed
	if first {
		s.closed = true
		s.late = time.AfterFunc(s.last, s.abandon)
	}
	s.mu.Unlock()
	return s.Listener.Close()
}

// abandon closes the connections that have not spoken in time.
func (s *sniffed) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.handed.Load() {
			c.Conn.Close() // nobody will use it
		}
	}
	clear(s.conns)
	s.settleLocked()
}

func (s *sniffed) forget(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c] {
		delete(s.conns, c)
		s.settleLocked()
	}
}

// settleLocked says so when the last connection of a closed port has gone.
func (s *sniffed) settleLocked() {
	if !s.ended || len(s.conns) > 0 {
		return
	}
	s.late.Stop()
	select {
	case <-s.quiet:
	default:
		close(s.quiet)
	}
}

// candidate is a connection that leaves the list of its port when a server has
// it, or cmux closes it.
type candidate struct {
	net.Conn
	root   *sniffed
	handed atomic.Bool // a server has accepted it; read without root.mu
	known  atomic.Bool // root.forget was called
}

// Read implements net.Conn. gRPC looks once more whether it stops between
// accepting and reading.
func (c *candidate) Read(p []byte) (int, error) {
	if c.handed.Load() && !c.known.Load() {
		c.forget()
	}
	return c.Conn.Read(p)
}

func (c *candidate) Close() error {
	c.forget()
	return c.Conn.Close()
}

func (c *candidate) forget() {
	c.known.Store(true)
	c.root.forget(c)
}

// branch is one side of a split.
type branch struct {
	net.Listener // cmux's
	root         *sniffed
	reads        bool // its server has a connection only once it reads from it
	once         sync.Once
	closed       chan struct{} // by its server
}

func (b *branch) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if errors.Is(err, cmux.ErrServerClosed) || errors.Is(err, cmux.ErrListenerClosed) {
		if b.root.drained.Load() {
			<-b.closed
		}
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	if mux, ok := conn.(*cmux.MuxConn); ok {
		if c, ok := mux.Conn.(*candidate); ok {
			c.handed.Store(true)
			if !b.reads {
				c.forget()
			}
		}
	}
	return conn, nil
}

// Close closes the port, with the other branch.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.root.Close()
}
