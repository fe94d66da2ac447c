package listen

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soheilhy/cmux"
)

const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxHandshakes    = 1024
)

// ErrNoCertificate means that a URL asks for TLS and no certificate is given.
var ErrNoCertificate = errors.New("the scheme asks for TLS, but certificate and key are not both given")

// end is where the TLS of one role ends. It is made once for all its ports.
type end struct {
	config  *tls.Config
	log     *slog.Logger
	role    string
	timeout time.Duration
	slots   int
	remote  bool
	crl     string
}

// newEnd loads the certificates of a role, so that a missing or broken file
// is found before anything is opened. Without a secure URL there is nothing
// to load.
func newEnd(role Role) (*end, error) {
	if !slices.ContainsFunc(role.URLs, secure) {
		return nil, nil
	}
	o := role.Options
	config, err := serverConfig(o)
	if err != nil {
		return nil, err
	}
	e := &end{
		config: config, log: o.Log, role: cmp.Or(role.Name, role.Option), remote: o.CheckRemote, crl: o.CRLFile,
		timeout: o.HandshakeTimeout, slots: o.MaxHandshakes,
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
	if e.crl != "" {
		if err := checkRevoked(e.crl, nil); err != nil {
			e.log.Warn("certificates are refused on the "+e.role+" endpoint until the list of revoked ones can be read", "error", err)
		}
	}
	return e, nil
}

func serverConfig(o Options) (*tls.Config, error) {
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, ErrNoCertificate
	}
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s, key %s: %w", o.CertFile, o.KeyFile, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   max(o.MinVersion, tls.VersionTLS12),
		MaxVersion:   o.MaxVersion,
		CipherSuites: o.CipherSuites,
	}
	switch o.Protocol {
	case Both:
		// The server's order decides. gRPC clients offer h2 alone; one that
		// offers both, as curl does, speaks plain HTTP and gets HTTP/1.
		config.NextProtos = []string{"http/1.1", "h2"}
	case GRPC:
		config.NextProtos = []string{"h2"}
	case HTTP:
		config.NextProtos = []string{"http/1.1"}
	}
	if o.TrustedCAFile != "" || o.ClientCertAuth {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if o.TrustedCAFile != "" {
		pool, err := readPool(o.TrustedCAFile)
		if err != nil {
			return nil, err
		}
		config.ClientCAs = pool
	}
	if len(o.AllowedCNs) > 0 || len(o.AllowedHostnames) > 0 {
		config.VerifyPeerCertificate = allowed(o.AllowedCNs, o.AllowedHostnames)
	}
	return config, nil
}

// allowed accepts a verified client certificate with one of the common names
// or host names.
func allowed(names, hosts []string) func([][]byte, [][]*x509.Certificate) error {
	return func(_ [][]byte, chains [][]*x509.Certificate) error {
		for _, chain := range chains {
			if len(chain) == 0 {
				continue
			}
			if slices.Contains(names, chain[0].Subject.CommonName) {
				return nil
			}
			for _, host := range hosts {
				if chain[0].VerifyHostname(host) == nil {
					return nil
				}
			}
		}
		return errors.New("client certificate authentication failed")
	}
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
		default:
			return tls.ConnectionState{}, false
		}
	}
}

// shaking is a listener whose connections have passed their handshake. Each
// handshake has a goroutine, so that a slow client delays nobody else.
type shaking struct {
	net.Listener
	end     *end
	ready   chan net.Conn   // unbuffered: a connection not taken is closed at the end
	slots   chan struct{}   // one element per handshake
	ctx     context.Context // ends with Close; handshakes hang on it
	cancel  context.CancelFunc
	running sync.WaitGroup
	failed  chan struct{} // closed when accepting ended
	err     error         // why; readable after failed
}

// begin starts the handshakes of a port; Close ends them.
func (e *end) begin(l net.Listener) net.Listener {
	s := &shaking{
		Listener: l, end: e, ready: make(chan net.Conn),
		slots: make(chan struct{}, e.slots), failed: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.run)
	return s
}

func (s *shaking) run() {
	defer close(s.failed)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			s.err = net.ErrClosed
			return
		}
		conn, err := s.Listener.Accept()
		if err != nil {
			s.err = err
			return
		}
		s.running.Go(func() { s.shake(conn) })
	}
}

// shake does one handshake and hands the connection over. It keeps its slot
// until then, so that a port that nobody accepts from yet stays bounded too.
func (s *shaking) shake(conn net.Conn) {
	defer func() { <-s.slots }()
	secured := tls.Server(conn, s.end.config)
	if err := s.handshake(secured); err != nil {
		s.reject(secured, err)
		conn.Close() // it was never in use
		return
	}
	select {
	case s.ready <- secured:
	case <-s.ctx.Done():
		conn.Close() // it was never in use
	}
}

func (s *shaking) handshake(conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.end.timeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	certs := conn.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil
	}
	if s.end.crl != "" {
		if err := checkRevoked(s.end.crl, certs); err != nil {
			return err
		}
	}
	if !s.end.remote {
		return nil
	}
	return checkRemote(ctx, certs[0], conn.RemoteAddr())
}

// reject logs why a connection was refused. One that was closed without a
// word is a port scan or a health check, and not worth a warning.
func (s *shaking) reject(conn *tls.Conn, err error) {
	if s.ctx.Err() != nil {
		return
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		io.WriteString(record.Conn, plainAnswer) //nolint:errcheck // a courtesy
	}
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) {
		level = slog.LevelDebug
	}
	state := conn.ConnectionState()
	fields := []any{"remote-addr", conn.RemoteAddr().String(), "server-name", state.ServerName, "error", err}
	if len(state.PeerCertificates) > 0 {
		cert := state.PeerCertificates[0]
		fields = append(fields, "ip-addresses", cert.IPAddresses, "dns-names", cert.DNSNames)
	}
	s.end.log.Log(s.ctx, level, "rejected connection on "+s.end.role+" endpoint", fields...)
}

// plainAnswer tells a person who forgot the s in https what to do.
const plainAnswer = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

// looksLikeHTTP says whether what should have been a TLS record header is the
// begin of an HTTP/1 request.
func looksLikeHTTP(header [5]byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}, string(header[:]))
}

// Accept returns the next connection that passed its handshake.
func (s *shaking) Accept() (net.Conn, error) {
	select {
	case conn := <-s.ready:
		return conn, nil
	case <-s.failed:
		return nil, s.err
	}
}

// Close stops accepting and waits for the handshakes under way, which fail.
func (s *shaking) Close() error {
	s.cancel()
	err := s.Listener.Close()
	s.running.Wait()
	return err
}

// checkRemote wants the certificate to name the address that it comes from:
// by IP, or by a DNS name that resolves to it. A certificate without either
// is accepted, as etcd does.
func checkRemote(ctx context.Context, cert *x509.Certificate, remote net.Addr) error {
	if len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		return err
	}
	if len(cert.IPAddresses) > 0 && cert.VerifyHostname(host) == nil {
		return nil
	}
	if namesHost(ctx, cert.DNSNames, host) {
		return nil
	}
	return fmt.Errorf("tls: %q does not match any of DNSNames %q, IP addresses %v", host, cert.DNSNames, cert.IPAddresses)
}

// namesHost says whether one of the DNS names stands for the host: wildcards
// by the host's own name, others also by their address.
func namesHost(ctx context.Context, names []string, host string) bool {
	if len(names) == 0 {
		return false
	}
	own, _ := net.DefaultResolver.LookupAddr(ctx, host) // no name is an answer
	for _, name := range own {
		name = strings.TrimSuffix(name, ".")
		for _, wanted := range names {
			suffix, wild := strings.CutPrefix(wanted, "*")
			if wanted == name || wild && strings.HasPrefix(suffix, ".") && strings.HasSuffix(name, suffix) {
				return true
			}
		}
	}
	for _, wanted := range names {
		if strings.HasPrefix(wanted, "*.") {
			continue
		}
		addrs, _ := net.DefaultResolver.LookupHost(ctx, wanted) // no address is an answer
		if slices.Contains(addrs, host) {
			return true
		}
	}
	return false
}
