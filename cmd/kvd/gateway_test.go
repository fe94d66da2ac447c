package main

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvd/internal/freeport"
)

// TestTheServiceManagerFollowsAGateway: it is ready once it has reached a member,
// shows signs of life, tries again when told, and drains when it is to stop.
func TestTheServiceManagerFollowsAGateway(t *testing.T) {
	m := newManager(t)
	at, place := freeport.Address(t), freeport.Address(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path, "WATCHDOG_USEC=600000"},
		"gateway", "start", "--listen-addr="+at, "--endpoints="+place, "--retry-delay=1h"))
	before := m.expect(t, "STATUS=gateway, 0 of 1 endpoints active")
	for _, text := range append(before, m.expect(t, "EXTEND_TIMEOUT_USEC=")...) {
		if strings.Contains(text, "READY=1") {
			t.Errorf("ready without a member: %q", text)
		}
	}
	member := launch(t, command(t, nil, append(flags(t.TempDir()), "--listen-client-urls=http://"+place)...))
	member.client(t)
	p.signal(t, syscall.SIGHUP)
	m.expect(t, "READY=1\nSTATUS=gateway, 1 of 1 endpoints active")
	m.expect(t, "WATCHDOG=1")
	p.hear(t, "activated")

	c := dial(t, at)
	_, err := c.Put(limited(t), "k", "v")
	must(t, err)
	answer, err := c.Get(limited(t), "k")
	must(t, err)
	if len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != "v" {
		t.Errorf("got %v", answer.Kvs)
	}
	m.expect(t, "1 connections")
	p.signal(t, syscall.SIGTERM)
	m.expect(t, "STOPPING=1")
	must(t, c.Close())
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestAGatewayEndsConnectionsWhoseTimeIsOver(t *testing.T) {
	place := freeport.Address(t)
	member, err := net.Listen("tcp", place)
	must(t, err)
	defer member.Close()
	at := freeport.Address(t)
	p := launch(t, command(t, nil, "gateway", "--listen-addr="+at, "--endpoints="+place, "--drain-timeout=100ms"))
	p.hear(t, "activated")
	conn, err := net.Dial("tcp", at)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	for range 2 { // the gateway's own look, and the client's
		at, err := member.Accept()
		must(t, err)
		defer at.Close()
		at.Write([]byte("x")) // the gateway may have looked and gone
	}
	_, err = conn.Read(make([]byte, 1)) // it is passed on
	must(t, err)
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	p.hear(t, "closing what is still connected")
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it is still connected")
	}
}

func TestAGatewayThatCannotWorkSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	at := freeport.Address(t)
	for want, args := range map[string][]string{
		"every connection would come back to it": {"--endpoints=" + at},
		"is not host:port":                       {"--endpoints=127.0.0.1"},
		"no endpoints found":                     {"--endpoints="},
		"listen for clients":                     {"--listen-addr=" + taken.Addr().String()},
		"read --trusted-ca-file":                 {"--trusted-ca-file=/nowhere/ca.crt"},
		"unknown flag: --nonsense":               {"--nonsense"},
		`unknown command "stop"`:                 {"stop"},
	} {
		status, said := outcome(t, nil, append([]string{"gateway", "--listen-addr=" + at}, args...)...)
		if status != 1 || !strings.Contains(said, want) {
			t.Errorf("%v: status %d, want %q in\n%s", args, status, want, said)
		}
	}
}
