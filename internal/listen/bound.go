package listen

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// The waits after an accept that failed for want of descriptors or memory.
// Without them the loop behind would spin until one is free.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// bounded is a listener with a bound on its open connections.
type bounded struct {
	net.Listener
	log    *slog.Logger
	slots  chan struct{} // one element per open connection; nil: no bound
	closed chan struct{}
	once   sync.Once
}

func bound(l net.Listener, o Options) net.Listener {
	b := &bounded{Listener: l, log: o.Log, closed: make(chan struct{})}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if o.MaxConnections > 0 {
		b.slots = make(chan struct{}, o.MaxConnections)
	}
	return b
}

// Accept waits until there is room for one more connection, then for the
// connection.
func (b *bounded) Accept() (net.Conn, error) {
	if b.slots == nil {
		return b.accept()
	}
	select {
	case b.slots <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.accept()
	if err != nil {
		<-b.slots
		return nil, err
	}
	return &counted{Conn: conn, leave: func() { <-b.slots }}, nil
}

func (b *bounded) accept() (net.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		conn, err := b.Listener.Accept()
		if err == nil || !passing(err) {
			return conn, err
		}
		b.log.Warn("cannot accept a connection, trying again", "address", b.Addr().String(),
			"pause", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-b.closed:
			return nil, net.ErrClosed
		}
	}
}

// passing says whether an accept may succeed later.
func passing(err error) bool {
	for _, errno := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Close stops accepting; connections stay open.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// counted is a connection that gives its slot back when closed.
type counted struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *counted) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}
