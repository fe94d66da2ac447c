package listen

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// secureRole is a role with one TLS port.
func secureRole(t testing.TB, ca *authority, o Options) Role {
	t.Helper()
	if o.Credentials == nil {
		o.Credentials = ca.credentials(t, Files{}, Terms{})
	}
	return Role{
		Name: "client", Option: "listen-client-urls", Configured: true,
		URLs: []url.URL{parseURL(t, "https://127.0.0.1:0")}, Options: o,
	}
}

// shake dials a port; the error may come from either end of the handshake.
func shake(t *testing.T, port *Port, config *tls.Config) (client *tls.Conn, err error) {
	t.Helper()
	client, err = tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", port.Addr().String(), config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return client, nil
}

// echoing accepts from a port and sends back what comes, until it closes.
func echoing(t *testing.T, l net.Listener) {
	t.Helper()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close() })
}

func TestTLSEndsInThePort(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{}))[0]
	if !port.Secure() {
		t.Error("not secure")
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := port.Accept()
		accepted <- conn
	}()
	client, err := shake(t, port, ca.trust())
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	defer server.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(server, buf); err != nil || string(buf) != "hello" {
		t.Errorf("%q, %v", buf, err)
	}
	if state, ok := ConnectionState(server); !ok || !state.HandshakeComplete {
		t.Errorf("state %v, %v", state, ok)
	}
}

func TestCertificatesAreRequiredByACAFile(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{Credentials: ca.credentials(t,
		Files{TrustedCA: ca.file("ca.pem")}, Terms{AllowedCNs: []string{"alice"}},
	)}))[0]
	echoing(t, port)
	if !echoes(t, port, ca.trust(ca.client(t, "alice", nil))) {
		t.Error("alice was refused")
	}
	if echoes(t, port, ca.trust()) {
		t.Error("accepted without a certificate")
	}
	if echoes(t, port, ca.trust(ca.client(t, "bob", nil))) {
		t.Error("bob is not on the list")
	}
	if echoes(t, port, ca.trust(other.client(t, "alice", nil))) {
		t.Error("accepted another authority's alice")
	}
}

func TestAHostNameOfTheCertificateCanBeDemanded(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{Credentials: ca.credentials(t,
		Files{TrustedCA: ca.file("ca.pem")}, Terms{AllowedHostnames: []string{"good.example"}},
	)}))[0]
	echoing(t, port)
	for name, want := range map[string]bool{"good.example": true, "bad.example": false} {
		client, err := shake(t, port, ca.trust(ca.client(t, name, []string{name})))
		if err == nil {
			client.Write([]byte("x"))
			_, err = io.ReadFull(client, make([]byte, 1))
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPeerMustComeFromWhereItsCertificateSays(t *testing.T) {
	ca := newAuthority(t)
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	for name, c := range map[string]struct {
		dns  []string
		ips  []net.IP
		good bool
	}{
		"nothing":    {nil, nil, true},
		"its ip":     {nil, []net.IP{net.IPv4(127, 0, 0, 1)}, true},
		"another ip": {nil, []net.IP{net.IPv4(10, 0, 0, 1)}, false},
		"its name":   {[]string{"localhost"}, []net.IP{net.IPv4(10, 0, 0, 1)}, true},
		"no name":    {[]string{"absent.invalid"}, nil, false},
	} {
		cert := ca.client(t, "peer", c.dns, c.ips...)
		if err := checkRemote(t.Context(), cert.Leaf, remote); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASlowHandshakeDelaysNobodyAndEnds(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{HandshakeTimeout: 300 * time.Millisecond}))[0]
	echoing(t, port)
	slow, err := net.Dial("tcp", port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := shake(t, port, ca.trust()); err != nil {
		t.Errorf("behind a slow one: %v", err)
	}
	slow.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := slow.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the slow connection is still open")
	}
}

func TestHandshakesInFlightAreBounded(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{MaxHandshakes: 1, HandshakeTimeout: time.Minute}))[0]
	echoing(t, port)
	slow, err := net.Dial("tcp", port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	shaken := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", port.Addr().String(), ca.trust())
		if err == nil {
			conn.Close()
		}
		shaken <- err
	}()
	select {
	case err := <-shaken:
		t.Fatalf("not bounded: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	slow.Close()
	select {
	case err := <-shaken:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the slot was not freed")
	}
}

func TestCloseEndsHandshakesUnderWay(t *testing.T) {
	ca := newAuthority(t)
	ports, err := Open(t.Context(), secureRole(t, ca, Options{HandshakeTimeout: time.Hour}), nil)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := net.Dial("tcp", ports[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	closed := make(chan error, 1)
	go func() { closed <- ports.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("close waits for a handshake")
	}
	if _, err := ports[0].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

func TestPlainHTTPOnATLSPortGetsAnAnswerAndALogLine(t *testing.T) {
	var mu sync.Mutex
	var lines bytes.Buffer
	ca := newAuthority(t)
	role := secureRole(t, ca, Options{Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &lines}, nil))})
	port := openRole(t, role)[0]
	echoing(t, port)
	client, err := net.Dial("tcp", port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "GET /health HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, len(plainAnswer))
	if _, err := io.ReadFull(client, answer); err != nil || string(answer) != plainAnswer {
		t.Errorf("%q, %v", answer, err)
	}
	port.Close()
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(lines.String(), "rejected connection on client endpoint") {
		t.Errorf("log: %s", lines.String())
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestMissingAndBrokenFilesAreNamed(t *testing.T) {
	ca := newAuthority(t)
	ca.server(t)
	broken := ca.file("broken")
	if err := os.WriteFile(broken, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Files{Cert: ca.file("server.pem"), Key: ca.file("server.key")}
	for want, change := range map[string]func(*Files){
		"ca.key":     func(f *Files) { f.Key = ca.file("ca.key") },
		"absent.pem": func(f *Files) { f.Cert = ca.file("absent.pem") },
		"absent.key": func(f *Files) { f.Key = ca.file("absent.key") },
		"key":        func(f *Files) { f.Key = "" },
		"server.key": func(f *Files) { f.TrustedCA = ca.file("server.key") },
		"absent.ca":  func(f *Files) { f.TrustedCA = ca.file("absent.ca") },
		"broken":     func(f *Files) { f.CRL = broken },
		"absent.crl": func(f *Files) { f.CRL = ca.file("absent.crl") },
		"client.key": func(f *Files) { f.ClientCert, f.ClientKey = f.Cert, ca.file("client.key") },
	} {
		files := good
		change(&files)
		if _, err := NewCredentials(files, Terms{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, none := range []*Credentials{nil, ca.none(t)} {
		role := secureRole(t, ca, Options{})
		role.Options.Credentials = none
		if _, err := Open(t.Context(), role, nil); !errors.Is(err, ErrNoCertificate) {
			t.Errorf("without a certificate: %v", err)
		}
	}
}

// none are credentials without a certificate.
func (a *authority) none(t testing.TB) *Credentials {
	t.Helper()
	c, err := NewCredentials(Files{TrustedCA: a.file("ca.pem")}, Terms{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestALPNSendsClientsToTheirProtocol(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{}))[0]
	split := NewSplit(port)
	done := make(chan error, 1)
	go func() { done <- split.Run(t.Context()) }()
	defer func() {
		split.GRPC.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		offers []string
		speaks string
		l      net.Listener
	}{
		{[]string{"h2"}, preface, split.GRPC},
		{[]string{"h2", "http/1.1"}, "GET / HTTP/1.1\r\n\r\n", split.HTTP},
		{nil, "GET / HTTP/1.1\r\n\r\n", split.HTTP},
		{nil, preface, split.GRPC}, // clients of gRPC that know nothing of ALPN
	} {
		config := ca.trust()
		config.NextProtos = c.offers
		client, err := shake(t, port, config)
		if err != nil {
			t.Fatal(err)
		}
		want := "http/1.1"
		if c.l == split.GRPC {
			want = "h2"
		}
		if got := client.ConnectionState().NegotiatedProtocol; got != want && c.offers != nil {
			t.Errorf("offered %v, got %q", c.offers, got)
		}
		if _, err := io.WriteString(client, c.speaks); err != nil {
			t.Fatal(err)
		}
		server, err := c.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := ConnectionState(server); !ok {
			t.Error("the TLS state was lost in the split")
		}
		server.Close()
	}
}
