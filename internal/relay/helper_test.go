package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within polls until something holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatal("not within 30 s: " + what)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// names is a name service in memory.
type names struct {
	mu      sync.Mutex
	hosts   map[string]string
	records map[string][]*net.SRV // by service
	err     error
}

func (n *names) LookupSRV(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return "", nil, n.err
	}
	if all := n.records[service]; len(all) > 0 {
		return name, all, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if text, ok := n.hosts[host]; ok {
		host = text
	}
	ip, err := netip.ParseAddr(host)
	return []netip.Addr{ip}, err
}

// standing is what a relay has told last.
type standing struct {
	mu    sync.Mutex
	text  string
	ready bool
}

func (s *standing) told(text string, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.ready = text, ready
}

func (s *standing) now() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text, s.ready
}

// run runs a relay until the test ends.
func run(t *testing.T, o Options, resolver Resolver) (*Relay, *lines, *standing, context.CancelFunc) {
	t.Helper()
	out, status := &lines{}, &standing{}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	r, err := New(t.Context(), o, Parts{Log: slog.New(slog.NewTextHandler(out, nil)), Resolver: resolver, Told: status.told})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the relay does not stop")
		}
	})
	return r, out, status, cancel
}

// echo is a member that answers with its name and what it was sent.
func echo(t *testing.T, name string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serveEcho(t, l, name)
	return l
}

func serveEcho(t *testing.T, l net.Listener, name string) {
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				sent, _ := io.ReadAll(conn) // until the other half is closed
				io.WriteString(conn, name+":"+string(sent))
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
}

// ask sends a word through the relay, closes its half, and reads what comes back.
func ask(at net.Addr, word string) (string, error) {
	conn, err := net.DialTimeout("tcp", at.String(), 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	a := &authority{cert: cert, key: key, file: filepath.Join(t.TempDir(), "ca.crt")}
	must(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// sign makes a server's certificate for a name or an address.
func (a *authority) sign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		form.IPAddresses = []net.IP{ip}
	} else {
		form.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, &key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secureMember is a member that speaks TLS.
func secureMember(t *testing.T, name string, config *tls.Config) net.Listener {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	must(t, err)
	serveEcho(t, l, name)
	return l
}

// askTLS speaks TLS with whoever is behind the relay.
func askTLS(at net.Addr, a *authority, name string) (string, error) {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{RootCAs: pool, ServerName: name}}
	conn, err := d.Dial("tcp", at.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	if err := conn.(*tls.Conn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

func contains(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
}
