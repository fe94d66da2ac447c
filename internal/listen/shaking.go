package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// shaking is a listener whose connections have passed their handshake. Each
// handshake has a goroutine, so that a slow client delays nobody else.
type shaking struct {
	net.Listener
	end     *end
	mixed   bool            // plain connections are let through
	ready   chan net.Conn   // unbuffered: a connection not taken is closed at the end
	slots   chan struct{}   // one element per handshake; full: see room
	ctx     context.Context // ends with Close; handshakes hang on it
	cancel  context.CancelFunc
	running sync.WaitGroup
	failed  chan struct{} // closed when accepting ended
	err     error         // why; readable after failed
	waiting waiting
}

// begin starts the handshakes of a port; Close ends them.
func (e *end) begin(l net.Listener, mixed bool) net.Listener {
	s := &shaking{
		Listener: l, end: e, mixed: mixed, ready: make(chan net.Conn),
		slots: make(chan struct{}, e.slots), failed: make(chan struct{}),
		waiting: waiting{conns: map[*awaited]bool{}},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.run)
	return s
}

func (s *shaking) run() {
	defer close(s.failed)
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			s.err = err
			return
		}
		if !s.room() {
			conn.Close() // it was never in use
			s.err = net.ErrClosed
			return
		}
		s.running.Go(func() { s.shake(conn) })
	}
}

// room waits for a slot; false once the port is closed. When all are taken, the
// handshake ends that has waited for its client the longest, once that is longer
// than the patience: many who say nothing do not keep out those who do.
func (s *shaking) room() bool {
	for {
		select {
		case s.slots <- struct{}{}:
			return true
		default:
		}
		again := time.NewTimer(s.waiting.end(s.end.patience))
		select {
		case s.slots <- struct{}{}:
			again.Stop()
			return true
		case <-s.ctx.Done():
			again.Stop()
			return false
		case <-again.C:
		}
	}
}

// shake does one handshake and hands the connection over. It keeps its slot
// until then, so that a port that nobody accepts from yet stays bounded too.
func (s *shaking) shake(conn net.Conn) {
	defer func() { <-s.slots }()
	served, err := s.secure(conn)
	if err != nil {
		conn.Close() // it was never in use
		return
	}
	select {
	case s.ready <- served:
	case <-s.ctx.Done():
		conn.Close() // it was never in use
	}
}

// secure returns the connection as it is to be served.
func (s *shaking) secure(conn net.Conn) (net.Conn, error) {
	client := s.waiting.add(conn)
	defer s.waiting.remove(client)
	ctx, cancel := context.WithTimeout(s.ctx, s.end.timeout)
	defer cancel()
	if s.mixed {
		plain, err := client.plain(s.end.timeout)
		if err != nil || plain {
			return client, err
		}
	}
	secured := tls.Server(client, s.end.credentials.now.Load().server[s.end.protocol])
	if err := s.handshake(ctx, secured); err != nil {
		s.reject(secured, err)
		return nil, err
	}
	return secured, nil
}

func (s *shaking) handshake(ctx context.Context, conn *tls.Conn) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	if suite := tls.CipherSuiteName(state.CipherSuite); s.end.protocol == Both && state.NegotiatedProtocol == "h2" && !modern(suite) {
		return fmt.Errorf("the cipher suite %s is not good enough for HTTP/2", suite) // RFC 9113; package http, and so etcd, does the same
	}
	certs := state.PeerCertificates
	if len(certs) == 0 || !s.end.remote {
		return nil
	}
	return checkRemote(ctx, certs[0], conn.RemoteAddr())
}

// modern says whether HTTP/2 may be spoken with a cipher suite of Go's.
func modern(suite string) bool {
	return !strings.HasPrefix(suite, "TLS_RSA_") && !strings.Contains(suite, "_CBC_") && !strings.Contains(suite, "_RC4_")
}

// reject logs why a connection was refused. One that was closed without a
// word is a port scan or a health check, and not worth a warning.
func (s *shaking) reject(conn *tls.Conn, err error) {
	if s.ctx.Err() != nil {
		return
	}
	if s.end.rejected != nil {
		s.end.rejected()
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		record.Conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a courtesy
		io.WriteString(record.Conn, plainAnswer)                  //nolint:errcheck // the same
	}
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) {
		level = slog.LevelDebug
	}
	more, silent := s.end.lines.next()
	if silent {
		return
	}
	state := conn.ConnectionState()
	fields := []any{"remote-addr", conn.RemoteAddr().String(), "server-name", state.ServerName, "error", err}
	if len(state.PeerCertificates) > 0 {
		cert := state.PeerCertificates[0]
		fields = append(fields, "ip-addresses", cert.IPAddresses, "dns-names", cert.DNSNames)
	}
	if more > 0 {
		fields = append(fields, "not-logged", more)
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
	s.waiting.endAll()
	s.running.Wait()
	return err
}
