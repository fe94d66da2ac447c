package listen

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// silent opens connections to a port that never say a word.
func silent(t *testing.T, port *Port, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, err := net.Dial("tcp", port.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns[i] = conn
	}
	return conns
}

func TestManyWhoSayNothingKeepNobodyOut(t *testing.T) {
	ca := newAuthority(t)
	role := secureRole(t, ca, Options{MaxHandshakes: 8, HandshakeTimeout: time.Hour})
	end, err := newEnd(role)
	if err != nil {
		t.Fatal(err)
	}
	end.patience = 10 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := &Port{Listener: end.begin(l, false), URL: role.URLs[0]}
	echoing(t, port)
	idle := silent(t, port, 64)
	if !echoes(t, port, ca.trust()) {
		t.Error("who spoke was kept out")
	}
	closed := 0
	for _, conn := range idle[:48] { // the oldest ones had to make room
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			closed++
		}
	}
	if closed < 48 {
		t.Errorf("%d of the first 48 idle connections were closed", closed)
	}
}

func isTimeout(err error) bool {
	failed, ok := err.(net.Error) //nolint:errorlint // it comes straight from the connection
	return ok && failed.Timeout()
}

func TestAHandshakeThatIsDoneDoesNotMakeRoom(t *testing.T) {
	ca := newAuthority(t)
	role := secureRole(t, ca, Options{MaxHandshakes: 1})
	end, err := newEnd(role)
	if err != nil {
		t.Fatal(err)
	}
	end.patience = time.Nanosecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := &Port{Listener: end.begin(l, false), URL: role.URLs[0]}
	defer port.Close()
	trust := ca.trust()
	trust.MaxVersion = tls.VersionTLS12 // of which the client knows when the server is done
	first, err := shake(t, port, trust) // and nobody accepts it yet
	if err != nil {
		t.Fatal(err)
	}
	second := silent(t, port, 1)[0]
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("the one that came later: %v", err)
	}
	served, err := port.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	if _, err := served.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func TestRefusalsAreCountedAndSparselyLogged(t *testing.T) {
	ca := newAuthority(t)
	var logged bytes.Buffer
	var mu sync.Mutex
	var refused atomic.Int64
	port := openRole(t, secureRole(t, ca, Options{
		Log:      slog.New(slog.NewTextHandler(lockedWriter{&mu, &logged}, nil)),
		Rejected: func() { refused.Add(1) },
	}))[0]
	echoing(t, port)
	const tries = 100
	for range tries {
		conn := silent(t, port, 1)[0]
		if _, err := io.WriteString(conn, "this is no TLS"); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Fatal("it stays open")
		}
	}
	port.Close()
	if n := refused.Load(); n != tries {
		t.Errorf("%d refusals were counted", n)
	}
	if n := strings.Count(logged.String(), "rejected connection"); n == 0 || n >= tries {
		t.Errorf("%d lines", n)
	}
}

// mixedRole is a role with one address for TLS and plain text.
func mixedRole(t testing.TB, ca *authority, o Options) Role {
	t.Helper()
	role := secureRole(t, ca, o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	role.URLs = []url.URL{parseURL(t, "http://"+address), parseURL(t, "https://"+address)}
	return role
}

func TestOneAddressServesTLSAndPlainText(t *testing.T) {
	ca := newAuthority(t)
	ports := openRole(t, mixedRole(t, ca, Options{}))
	if len(ports) != 1 || !ports[0].Mixed || !ports[0].Secure() || !ports[0].Plain() {
		t.Fatalf("%d ports, mixed %t", len(ports), ports[0].Mixed)
	}
	split := NewSplit(ports[0])
	done := make(chan error, 1)
	go func() { done <- split.Run(t.Context()) }()
	defer func() {
		split.GRPC.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, speaks := range []string{preface, "GET / HTTP/1.1\r\n\r\n"} {
		for _, secure := range []bool{false, true} {
			client, err := net.Dial("tcp", ports[0].Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if secure {
				client = tls.Client(client, ca.trust())
			}
			if _, err := io.WriteString(client, speaks); err != nil {
				t.Fatal(err)
			}
			side := split.HTTP
			if speaks == preface {
				side = split.GRPC
			}
			served, err := side.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer served.Close()
			if _, is := ConnectionState(served); is != secure {
				t.Errorf("%q: over TLS: %t, want %t", speaks, is, secure)
			}
			heard := make([]byte, len(speaks))
			if _, err := io.ReadFull(served, heard); err != nil || string(heard) != speaks {
				t.Errorf("heard %q, %v; want %q", heard, err, speaks)
			}
		}
	}
}

func TestAMixedPortEndsThoseWhoSayNothing(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, mixedRole(t, ca, Options{HandshakeTimeout: 50 * time.Millisecond}))[0]
	conn := silent(t, port, 1)[0]
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsWhoSaysNothingOnAMixedPort(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, mixedRole(t, ca, Options{HandshakeTimeout: time.Hour}))[0]
	silent(t, port, 3)
	closed := make(chan error, 1)
	go func() { closed <- port.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("close waits")
	}
}

func TestAnInheritedSocketMayServeBoth(t *testing.T) {
	ca := newAuthority(t)
	file, addr := socketFile(t, "tcp", "127.0.0.1:0")
	role := clients(t, "http://"+addr.String(), "https://"+addr.String())
	role.Options.Credentials = ca.credentials(t, Files{}, Terms{})
	port := openRole(t, role, file)[0]
	if !port.Mixed || !port.Secure() {
		t.Errorf("mixed %t, secure %t", port.Mixed, port.Secure())
	}
}
