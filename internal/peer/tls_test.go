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
	ports, err := listen.Open(t.Context(), listen.Role{Name: "peer", Option: "listen-peer-urls", URLs: at, Options: listen.Options{
		Protocol: listen.HTTP, CertFile: own.CertFile, KeyFile: own.KeyFile,
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := listen.ClientTLS(listen.ClientOptions{SkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return newStationOn(t, id, ports[0], "https", func(o *Options, p *Parts) {
		o.TLS = config
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
	_, err := New(Options{Member: 1, TLS: &tls.Config{NextProtos: []string{"h2", "http/1.1"}}}, Parts{})
	if err == nil || !strings.Contains(err.Error(), "another protocol") {
		t.Errorf("h2 is offered: %v", err)
	}
}
