package listen

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// recordHandshake is the first byte of a TLS connection.
const recordHandshake = 0x16

// leastWait is how soon a full port looks again whom it waits for.
const leastWait = 10 * time.Millisecond

// waiting are the connections of a port whose handshakes are under way.
type waiting struct {
	mu    sync.Mutex
	conns map[*awaited]bool
}

// awaited is a connection that knows since when its handshake waits for the
// client. Afterwards it is in the way of nothing.
type awaited struct {
	net.Conn
	since atomic.Int64 // nanoseconds since 1970; 0: it does not wait
	over  bool         // the handshake is; set before the connection is handed over
	first []byte       // read ahead
}

func (w *waiting) add(conn net.Conn) *awaited {
	a := &awaited{Conn: conn}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[a] = true
	return a
}

func (w *waiting) remove(a *awaited) {
	a.over = true
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, a)
}

// end closes the connection that has been waited for the longest, if that is
// longer than patience. It returns when to look again.
func (w *waiting) end(patience time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest *awaited
	var from int64
	for a := range w.conns {
		if since := a.since.Load(); since != 0 && (longest == nil || since < from) {
			longest, from = a, since
		}
	}
	if longest == nil {
		return leastWait
	}
	if left := patience - time.Since(time.Unix(0, from)); left > 0 {
		return max(left, leastWait)
	}
	longest.Conn.Close() // under the lock it is in nobody's hands but its handshake's, which fails now and reports it
	return leastWait
}

func (w *waiting) endAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range w.conns {
		a.Conn.Close() // the handshake that fails now reports it
	}
}

// Read implements net.Conn.
func (a *awaited) Read(b []byte) (int, error) {
	if len(a.first) > 0 && len(b) > 0 {
		n := copy(b, a.first)
		a.first = a.first[n:]
		return n, nil
	}
	if a.over {
		return a.Conn.Read(b)
	}
	a.since.Store(time.Now().UnixNano())
	defer a.since.Store(0)
	return a.Conn.Read(b)
}

// plain says whether the client's first byte is not that of a TLS connection.
func (a *awaited) plain(within time.Duration) (bool, error) {
	if err := a.SetReadDeadline(time.Now().Add(within)); err != nil {
		return false, err
	}
	var first [1]byte
	if _, err := io.ReadFull(a, first[:]); err != nil {
		return false, err
	}
	a.first = first[:]
	return first[0] != recordHandshake, a.SetReadDeadline(time.Time{})
}

// sparse bounds how many lines are logged.
type sparse struct {
	mu     sync.Mutex
	begun  time.Time // of the second that is counted
	lines  int       // in it
	silent int       // since the last line
}

// linesASecond is how many lines a second tell of refused connections.
const linesASecond = 10

// next asks for one more line. It returns how many were kept back before it,
// and whether it is to be kept back, too.
func (s *sparse) next() (before int, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.begun) > time.Second {
		s.begun, s.lines = now, 0
	}
	if s.lines++; s.lines > linesASecond {
		s.silent++
		return 0, true
	}
	before, s.silent = s.silent, 0
	return before, false
}
