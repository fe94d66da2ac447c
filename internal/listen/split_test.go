package listen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// splitting is a split that runs until the test ends.
func splitting(t testing.TB, limit time.Duration) *Split {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSplit(bound(l, Options{}), limit, 10*time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("run does not end")
		}
	})
	return s
}

func dial(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestConnectionsGoWhereTheirFirstBytesSay(t *testing.T) {
	s := splitting(t, time.Minute)
	for _, c := range []struct {
		l    net.Listener
		sent string
	}{
		{s.GRPC, preface + "frames"},
		{s.HTTP, "GET / HTTP/1.1\r\n\r\n"},
		{s.HTTP, "G"},
		{s.HTTP, "PRI\r\n"},
		{s.HTTP, "\x16\x03\x01 a TLS client on a plain port"},
		{s.HTTP, "GET /" + strings.Repeat("a", 100000)},
	} {
		client := dial(t, c.l)
		if _, err := io.WriteString(client, c.sent); err != nil {
			t.Fatal(err)
		}
		server, err := c.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.sent))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != c.sent {
			t.Errorf("sent %.30q, got %.30q, %v", c.sent, got, err)
		}
		server.Close()
	}
}

func TestAPrefaceInPiecesIsRecognized(t *testing.T) {
	s := splitting(t, time.Minute)
	client := dial(t, s.GRPC)
	for _, c := range preface {
		if _, err := client.Write([]byte{byte(c)}); err != nil {
			t.Fatal(err)
		}
	}
	server, err := s.GRPC.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
}

func TestASilentConnectionIsClosed(t *testing.T) {
	s := splitting(t, 50*time.Millisecond)
	client := dial(t, s.GRPC)
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestTheSniffTimeoutEndsWithTheSniffing(t *testing.T) {
	const limit = 100 * time.Millisecond
	s := splitting(t, limit)
	client := dial(t, s.GRPC)
	if _, err := io.WriteString(client, preface); err != nil {
		t.Fatal(err)
	}
	server, err := s.GRPC.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.ReadFull(server, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(3*limit, func() { client.Write([]byte("x")) })
	defer late.Stop()
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Errorf("the deadline stayed: %v", err)
	}
}

func TestRunEndsSoonAndLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSplit(bound(l, Options{MaxConnections: 100}), time.Hour, 10*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var silent []net.Conn
	for i := range 20 {
		conn := dial(t, l)
		if i%2 == 0 {
			if _, err := io.WriteString(conn, "PRI"); err != nil {
				t.Fatal(err)
			}
		}
		silent = append(silent, conn)
	}
	decided := dial(t, l)
	if _, err := io.WriteString(decided, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	server, err := s.HTTP.Accept()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("run waits for the silent connections")
	}
	for _, l := range []net.Listener{s.GRPC, s.HTTP} {
		if _, err := l.Accept(); err == nil {
			t.Error("accepted after the end")
		}
	}
	for _, conn := range silent {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a silent connection is still open")
		}
	}
	if _, err := server.Write([]byte("still here")); err != nil {
		t.Errorf("a connection in use was closed: %v", err)
	}
	server.Close()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

// TestAClosedPortStillHandsOverWhoSpeaks is a client that connects just before
// the end.
func TestAClosedPortStillHandsOverWhoSpeaks(t *testing.T) {
	for _, sent := range []string{preface + "settings", "GET / HTTP/1.1\r\n\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := newSplit(bound(l, Options{}), time.Hour, time.Hour)
		done, drained := make(chan error, 1), make(chan struct{})
		go func() { done <- s.Run(context.Background()) }()
		client := dial(t, l)
		for accepted := false; !accepted; runtime.Gosched() {
			s.root.mu.Lock()
			accepted = len(s.root.conns) == 1
			s.root.mu.Unlock()
		}
		go func() { s.Drain(); close(drained) }()
		for open := true; open; runtime.Gosched() {
			s.root.mu.Lock()
			open = !s.root.ended
			s.root.mu.Unlock()
		}
		if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
			t.Error("the port still takes connections")
		}
		if _, err := io.WriteString(client, sent); err != nil {
			t.Fatal(err)
		}
		side := s.GRPC
		if sent[0] == 'G' {
			side = s.HTTP
		}
		server, err := side.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != sent {
			t.Errorf("%q, %v", got, err)
		}
		<-drained
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestClosingOneSideClosesThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewSplit(l)
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	s.GRPC.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.HTTP.Accept(); err == nil {
		t.Error("the other side still accepts")
	}
}

func TestAnHTTPServerServesItsSide(t *testing.T) {
	s := splitting(t, time.Minute)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path)
	})}
	served := make(chan error, 1)
	go func() { served <- web.Serve(s.HTTP) }()
	response, err := http.Get((&url.URL{Scheme: "http", Host: s.HTTP.Addr().String(), Path: "/health"}).String())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "/health" {
		t.Errorf("%q, %v", body, err)
	}
	if err := web.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// BenchmarkEcho measures a small exchange on a connection, through the split
// and without it, after the sniffing is over.
func BenchmarkEcho(b *testing.B) {
	for _, through := range []string{"bare", "split"} {
		b.Run(through, func(b *testing.B) {
			var l net.Listener
			if through == "split" {
				l = splitting(b, time.Minute).GRPC
			} else {
				var err error
				if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
					b.Fatal(err)
				}
				defer l.Close()
			}
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			if _, err := io.WriteString(client, preface); err != nil {
				b.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer server.Close()
			in := bufio.NewReader(server)
			if _, err := io.ReadFull(in, make([]byte, len(preface))); err != nil {
				b.Fatal(err)
			}
			go func() {
				buf := make([]byte, 256)
				for {
					if _, err := io.ReadFull(in, buf); err != nil {
						return
					}
					if _, err := server.Write(buf); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, 256)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
