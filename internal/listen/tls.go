package listen

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/soheilhy/cmux"
)

const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxHandshakes    = 1024
	// defaultPatience is how long a client may keep a handshake waiting while
	// others wait for its slot.
	defaultPatience = time.Second
)

// end is where the TLS of one role ends. It is made once for all its ports.
type end struct {
	credentials *Credentials
	protocol    Protocol
	log         *slog.Logger
	role        string
	timeout     time.Duration
	patience    time.Duration
	slots       int
	remote      bool
	rejected    func()
	lines       sparse
}

// newEnd wants a certificate if a URL of the role is secure.
func newEnd(role Role) (*end, error) {
	if !slices.ContainsFunc(role.URLs, secure) {
		return nil, nil
	}
	o := role.Options
	if !o.Credentials.serves() {
		return nil, ErrNoCertificate
	}
	e := &end{
		credentials: o.Credentials, protocol: o.Protocol, log: o.Log, role: cmp.Or(role.Name, role.Option), remote: o.CheckRemote,
		timeout: o.HandshakeTimeout, patience: defaultPatience, slots: o.MaxHandshakes,
		rejected: o.Rejected,
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.timeout <= 0 {
		e.timeout = defaultHandshakeTimeout
	}
	if e.slots <= 0 {
		e.slots = defaultMaxHandshakes
	}
	return e, nil
}

// ConnectionState returns the TLS state of a connection that a Port or a
// Split accepted; false for a plain one.
func ConnectionState(conn net.Conn) (tls.ConnectionState, bool) {
	for {
		switch c := conn.(type) {
		case *tls.Conn:
			return c.ConnectionState(), true
		case *cmux.MuxConn:
			conn = c.Conn
		case *candidate:
			conn = c.Conn
		case *counted:
			conn = c.Conn
		case *awaited:
			conn = c.Conn
		default:
			return tls.ConnectionState{}, false
		}
	}
}
