package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"kvd/internal/freeport"
)

func TestBytesPassUntouchedBothWaysAndHalvesCloseOneByOne(t *testing.T) {
	member := echo(t, "m")
	r, _, _, _ := run(t, Options{Endpoints: []string{"http://" + member.Addr().String()}}, nil)
	big := make([]byte, 3<<20)
	rand.Read(big)
	for _, word := range []string{"", "hello", string(big)} {
		got, err := ask(r.Addr(), word)
		if err != nil || got != "m:"+word {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(word)+2, err)
		}
	}
}

func TestAMemberThatEndsEndsTheClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	r, _, _, _ := run(t, Options{Endpoints: []string{l.Addr().String()}}, nil)
	checked, err := l.Accept() // the first look
	must(t, err)
	checked.Close()
	client, err := net.Dial("tcp", r.Addr().String())
	must(t, err)
	defer client.Close()
	member, err := l.Accept()
	must(t, err)
	must(t, member.(*net.TCPConn).SetLinger(0)) // a reset, as of a member that is killed
	must(t, member.Close())
	client.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, client); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the client still waits")
	}
	within(t, "no connection is held", func() bool { return r.clients.Load() == 0 })
}

func TestAFailedEndpointGetsNothingUntilItAnswersAgain(t *testing.T) {
	place := freeport.Address(t)
	alive := echo(t, "alive")
	r, out, status, _ := run(t, Options{Endpoints: []string{place, alive.Addr().String()}, RetryDelay: time.Hour}, nil)
	for range 6 {
		if got, err := ask(r.Addr(), "x"); err != nil || got != "alive:x" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	within(t, "one of two is active", func() bool { text, ready := status.now(); return ready && strings.Contains(text, "1 of 2") })
	if !strings.Contains(out.String(), "failed to activate endpoint") {
		t.Errorf("nothing is said of the endpoint in\n%s", out)
	}

	back, err := net.Listen("tcp", place)
	must(t, err)
	serveEcho(t, back, "back")
	r.Again()
	within(t, "both are active", func() bool { active, _ := r.targets.counts(); return active == 2 })
	heard := map[string]bool{}
	for range 4 {
		got, err := ask(r.Addr(), "")
		must(t, err)
		heard[got] = true
	}
	if !heard["alive:"] || !heard["back:"] {
		t.Errorf("heard %v", heard)
	}
}

func TestAnEndpointIsTriedAgainAfterTheRetryDelay(t *testing.T) {
	place := freeport.Address(t)
	_, _, status, _ := run(t, Options{Endpoints: []string{place}, RetryDelay: 20 * time.Millisecond}, nil)
	within(t, "it is said that none is active", func() bool { text, ready := status.now(); return !ready && strings.Contains(text, "0 of 1") })
	back, err := net.Listen("tcp", place)
	must(t, err)
	serveEcho(t, back, "back")
	within(t, "it is ready", func() bool { _, ready := status.now(); return ready })
}

// TestWhenAllHaveFailedTheyAreTriedAllTheSame: etcd's gateway turns clients away
// for as long as the retry delay.
func TestWhenAllHaveFailedTheyAreTriedAllTheSame(t *testing.T) {
	place := freeport.Address(t)
	r, out, _, _ := run(t, Options{Endpoints: []string{place}, RetryDelay: time.Hour}, nil)
	if got, err := ask(r.Addr(), "x"); got != "" {
		t.Fatalf("%q, %v", got, err)
	}
	within(t, "it is said", func() bool { return strings.Contains(out.String(), "a client is turned away") })
	back, err := net.Listen("tcp", place)
	must(t, err)
	serveEcho(t, back, "back")
	if got, err := ask(r.Addr(), "x"); err != nil || got != "back:x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestClientsBeyondTheLimitWait(t *testing.T) {
	member := echo(t, "m")
	r, _, _, _ := run(t, Options{Endpoints: []string{member.Addr().String()}, MaxConnections: 2}, nil)
	var first []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", r.Addr().String())
		must(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		must(t, err)
		first = append(first, conn)
	}
	within(t, "both are taken", func() bool { return r.clients.Load() == 2 })
	answered := make(chan string, 1)
	go func() { got, _ := ask(r.Addr(), "third"); answered <- got }()
	select {
	case got := <-answered:
		t.Fatalf("the third was answered: %q", got)
	case <-time.After(200 * time.Millisecond):
	}
	must(t, first[0].Close())
	if got := <-answered; got != "m:third" {
		t.Errorf("the third got %q", got)
	}
}

func TestAStopLetsConnectionsEndAndThenEndsThem(t *testing.T) {
	member := echo(t, "m")
	r, _, _, cancel := run(t, Options{Endpoints: []string{member.Addr().String()}, Grace: 300 * time.Millisecond}, nil)
	busy, err := net.Dial("tcp", r.Addr().String())
	must(t, err)
	defer busy.Close()
	idle, err := net.Dial("tcp", r.Addr().String())
	must(t, err)
	defer idle.Close()
	for _, conn := range []net.Conn{busy, idle} {
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Write([]byte("x"))
		must(t, err)
	}
	within(t, "both are passed on", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.conns) == 4 })
	cancel()
	within(t, "nobody is let in", func() bool {
		conn, err := net.Dial("tcp", r.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	must(t, busy.(*net.TCPConn).CloseWrite())
	if got, err := io.ReadAll(busy); err != nil || string(got) != "m:x" {
		t.Errorf("what was under way got %q, %v", got, err)
	}
	if got, err := io.ReadAll(idle); len(got) > 0 {
		t.Errorf("the idle one got %q, %v", got, err)
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	one, two := echo(t, "m"), echo(t, "m")
	r, _, _, _ := run(t, Options{Endpoints: []string{one.Addr().String(), two.Addr().String()}}, nil)
	var all sync.WaitGroup
	word := strings.Repeat("w", 10_000)
	for range 100 {
		all.Go(func() {
			if got, err := ask(r.Addr(), word); err != nil || got != "m:"+word {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	within(t, "no connection is held", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.conns) == 0 })
}

func TestADialEndsAtItsTimeout(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer l.Close()
	// A listener whose queue is full does not answer, as a black hole.
	raw, err := l.SyscallConn()
	must(t, err)
	must(t, shrinkBacklog(raw))
	for range 8 {
		d := net.Dialer{Timeout: 100 * time.Millisecond}
		if conn, err := d.Dial("tcp", l.Addr().String()); err == nil {
			defer conn.Close()
		}
	}
	alive := echo(t, "alive")
	r, _, _, _ := run(t, Options{Endpoints: []string{l.Addr().String(), alive.Addr().String()}, DialTimeout: 100 * time.Millisecond, RetryDelay: time.Hour}, nil)
	for range 3 {
		if got, err := ask(r.Addr(), ""); err != nil || got != "alive:" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for want, o := range map[string]Options{
		"no endpoints found":                   {Listen: "127.0.0.1:0"},
		`endpoint "127.0.0.1" is not host:po`:  {Listen: "127.0.0.1:0", Endpoints: []string{"127.0.0.1"}},
		`"127.0.0.1:http" is not host:port`:    {Listen: "127.0.0.1:0", Endpoints: []string{"127.0.0.1:http"}},
		"only host:port, http://host:port and": {Listen: "127.0.0.1:0", Endpoints: []string{"unix:///run/x"}},
		"names no host or no port":             {Listen: "127.0.0.1:0", Endpoints: []string{":2379"}},
		"listen address":                       {Listen: "23790", Endpoints: []string{"127.0.0.1:2379"}},
		"not negative":                         {Listen: "127.0.0.1:0", Endpoints: []string{"127.0.0.1:2379"}, RetryDelay: -1},
		"--max-connections is at least 1":      {Listen: "127.0.0.1:0", Endpoints: []string{"127.0.0.1:2379"}, MaxConnections: -1},
		"read --trusted-ca-file":               {Listen: "127.0.0.1:0", Endpoints: []string{"127.0.0.1:2379"}, TrustedCAFile: "/nowhere/ca.crt"},
	} {
		r, err := New(t.Context(), o, Parts{Log: slog.New(slog.DiscardHandler)})
		contains(t, err, want)
		if err == nil {
			r.Close()
		}
	}
}

// TestAdvisoryAGatewayThatLeadsToItself is CVE-2020-15114: an endpoint that is the
// gateway itself makes each connection another one, without end.
func TestAdvisoryAGatewayThatLeadsToItself(t *testing.T) {
	_, port, err := net.SplitHostPort(freeport.Address(t))
	must(t, err)
	other := echo(t, "m").Addr().String()
	for _, c := range []struct{ listen, endpoint string }{
		{"127.0.0.1:" + port, "127.0.0.1:" + port},
		{"127.0.0.1:" + port, "http://localhost:" + port},
		{"127.0.0.1:" + port, "0.0.0.0:" + port},
		{"127.0.0.1:" + port, "[::ffff:127.0.0.1]:" + port},
		{"0.0.0.0:" + port, "127.0.0.1:" + port},
		{"0.0.0.0:" + port, "127.9.9.9:" + port},
		{":" + port, "localhost:" + port},
	} {
		r, err := New(t.Context(), Options{Listen: c.listen, Endpoints: []string{other, c.endpoint}}, Parts{Log: slog.New(slog.DiscardHandler)})
		contains(t, err, "every connection would come back to it")
		if err == nil {
			r.Close()
		}
	}
	// The same port of another host is none of its business.
	r, err := New(t.Context(), Options{Listen: "127.0.0.1:" + port, Endpoints: []string{"127.0.0.2:" + port}}, Parts{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, r.Close())
}

// TestAdvisoryANameThatComesToLeadToTheGateway: what a name leads to may change
// after the start, so each connection is looked at.
func TestAdvisoryANameThatComesToLeadToTheGateway(t *testing.T) {
	dns := &names{hosts: map[string]string{"localhost": "192.0.2.1"}} // what the start is told
	place := freeport.Address(t)
	_, port, err := net.SplitHostPort(place)
	must(t, err)
	r, out, _, _ := run(t, Options{Listen: place, Endpoints: []string{"localhost:" + port}, RetryDelay: time.Hour}, dns)
	if got, _ := ask(r.Addr(), "x"); got != "" {
		t.Errorf("got %q", got)
	}
	within(t, "it is said why", func() bool { return strings.Contains(out.String(), errItself.Error()) })
	within(t, "no connection goes round", func() bool { return r.clients.Load() == 0 })
}

func TestTheLogNamesTheEndpoints(t *testing.T) {
	var out bytes.Buffer
	member := echo(t, "m")
	r, err := New(t.Context(), Options{Listen: "127.0.0.1:0", Endpoints: []string{member.Addr().String()}},
		Parts{Log: slog.New(slog.NewTextHandler(&out, nil))})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, r.Run(ctx))
	if !strings.Contains(out.String(), "ready to proxy client requests") || !strings.Contains(out.String(), member.Addr().String()) {
		t.Errorf("the log is\n%s", out.String())
	}
}
