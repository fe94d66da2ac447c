package peer

import (
	"context"
	"crypto/tls"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/listen"
	"kvd/internal/member"
)

// secure is a station that is reached over TLS, with a certificate that it made
// itself.
func secure(t *testing.T, id member.ID) *station {
	t.Helper()
	at := []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	own, err := listen.SelfSign(t.TempDir(), at, 1)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := listen.NewCredentials(listen.Files{Cert: own.CertFile, Key: own.KeyFile}, listen.Terms{SkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	ports, err := listen.Open(t.Context(), listen.Role{Name: "peer", Option: "listen-peer-urls", URLs: at, Options: listen.Options{
		Protocol: listen.HTTP, Credentials: credentials,
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newStationOn(t, id, ports[0], "https", func(o *Options, p *Parts) {
		o.TLS = credentials.Client
		p.Desk.Versions = func() Versions { return Versions{Server: "3.7.3"} }
	})
}

func TestMembersSpeakOverTLS(t *testing.T) {
	a, b := secure(t, 0xa), secure(t, 0xb)
	acquaint(t, a, b)
	a.Send([]*raftpb.Message{appendTo(0xa, 0xb, 1), heartbeat(0xa, 0xb, 2)})
	eventually(t, "messages have come", func() bool { return b.ear.heard(0xa, 1) && b.ear.heard(0xa, 2) })
	got := 0
	b.ear.receive = func(_ context.Context, _ *raftpb.Message, image io.Reader) error {
		n, err := io.Copy(io.Discard, image)
		got = int(n)
		return err
	}
	a.SendSnapshot(snapshotMessage(0xa, 0xb), image(t, 3))
	eventually(t, "the snapshot has come", func() bool { return slices.Equal(a.ear.fates(), []bool{true}) })
	if got < 3<<20 {
		t.Errorf("the snapshot has %d bytes", got)
	}
	if v, err := a.Client().Versions(t.Context(), b.url); err != nil || v.Server != "3.7.3" {
		t.Errorf("the version is %v, %v", v, err)
	}
}

func TestOtherProtocolsThanHTTP1AreRefused(t *testing.T) {
	_, err := New(Options{Member: 1, TLS: func() *tls.Config {
		return &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	}}, Parts{})
	if err == nil || !strings.Contains(err.Error(), "another protocol") {
		t.Errorf("h2 is offered: %v", err)
	}
}

func TestConnectionsAreMadeWithTheCredentialsOfNow(t *testing.T) {
	b := secure(t, 0xb)
	trusting := func() *tls.Config { return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} }
	distrusting := func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }
	now := distrusting()
	c := NewClient(ClientOptions{TLS: func() *tls.Config { return now }})
	defer c.Close()
	for _, config := range []*tls.Config{distrusting(), trusting(), distrusting(), trusting()} {
		now = config
		if _, err := c.Versions(t.Context(), b.url); (err == nil) != config.InsecureSkipVerify {
			t.Errorf("trusting: %t; %v", config.InsecureSkipVerify, err)
		}
	}
}

// onSocket is a station that is reached over a unix socket.
func onSocket(t *testing.T, id member.ID) *station {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir) // the name of a socket cannot be a path
	u := url.URL{Scheme: "unix", Host: "localhost:1"}
	ports, err := listen.Open(t.Context(), listen.Role{Name: "peer", Option: "listen-peer-urls", URLs: []url.URL{u}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newStationOn(t, id, ports[0], "unix", func(_ *Options, p *Parts) {
		p.Desk.Versions = func() Versions { return Versions{Server: "3.7.3"} }
	})
	b.url = u.String()
	return b
}

func TestMembersAreReachedOverUnixSockets(t *testing.T) {
	b := onSocket(t, 0xb)
	a := newStation(t, 0xa)
	acquaint(t, a, b)
	a.Send([]*raftpb.Message{appendTo(0xa, 0xb, 1)})
	eventually(t, "a message has come", func() bool { return b.ear.heard(0xa, 1) })
	if v, err := a.Client().Versions(t.Context(), b.url); err != nil || v.Server != "3.7.3" {
		t.Errorf("the version is %v, %v", v, err)
	}
}
