package listen

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// greet connects a client to a port; it returns the common name that the server
// saw.
func greet(t *testing.T, port *Port, config *tls.Config, host string) (name string, err error) {
	t.Helper()
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = host
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", port.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", err
	}
	served, err := port.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	state, _ := ConnectionState(served)
	if state.NegotiatedProtocol != "" {
		t.Errorf("the protocol is %q", state.NegotiatedProtocol)
	}
	if len(state.PeerCertificates) > 0 {
		name = state.PeerCertificates[0].Subject.CommonName
	}
	return name, nil
}

// mutual is a port that asks for certificates of the authority.
func mutual(t *testing.T, ca *authority) *Port {
	t.Helper()
	return openRole(t, Role{Name: "peer", Option: "listen-peer-urls", URLs: []url.URL{parseURL(t, "https://127.0.0.1:0")}, Options: Options{
		Protocol: HTTP, Credentials: ca.credentials(t, Files{TrustedCA: ca.file("ca.pem")}, Terms{}),
	}})[0]
}

func TestAClientChecksWhomItTrusts(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	port := mutual(t, ca)
	pair, err := tls.LoadX509KeyPair(ca.file("server.pem"), ca.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca.revoke(t, ca.file("revoked.crl"), false, pair.Leaf.SerialNumber)
	ca.client(t, "me", nil)
	for name, c := range map[string]struct {
		f    Files
		o    Terms
		host string
		want string // part of the error
	}{
		"trusted":               {Files{TrustedCA: ca.file("ca.pem")}, Terms{}, "127.0.0.1", ""},
		"another host":          {Files{TrustedCA: ca.file("ca.pem")}, Terms{}, "127.0.0.2", "127.0.0.2"},
		"a name that it has":    {Files{TrustedCA: ca.file("ca.pem")}, Terms{ServerName: "127.0.0.1"}, "127.0.0.2", ""},
		"another authority":     {Files{TrustedCA: stranger.file("ca.pem")}, Terms{}, "127.0.0.1", "unknown authority"},
		"the system's roots":    {Files{}, Terms{}, "127.0.0.1", "unknown authority"},
		"anybody":               {Files{}, Terms{SkipVerify: true, AllowedCNs: []string{"x"}}, "127.0.0.2", ""},
		"a common name":         {Files{TrustedCA: ca.file("ca.pem")}, Terms{AllowedCNs: []string{"server"}}, "127.0.0.1", ""},
		"another common name":   {Files{TrustedCA: ca.file("ca.pem")}, Terms{AllowedCNs: []string{"other"}}, "127.0.0.1", "authentication failed"},
		"another host name":     {Files{TrustedCA: ca.file("ca.pem")}, Terms{AllowedHostnames: []string{"other"}}, "127.0.0.1", "authentication failed"},
		"a version that is new": {Files{TrustedCA: ca.file("ca.pem")}, Terms{MinVersion: tls.VersionTLS13}, "127.0.0.1", ""},
		"one that is revoked":   {Files{TrustedCA: ca.file("ca.pem"), CRL: ca.file("revoked.crl")}, Terms{}, "127.0.0.1", "revoked"},
	} {
		c.f.Cert, c.f.Key = ca.file("me.pem"), ca.file("me.key")
		_, err := greet(t, port, ca.credentials(t, c.f, c.o).Client(), c.host)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAClientShowsTheCertificateThatIsMeantForIt(t *testing.T) {
	ca := newAuthority(t)
	port := mutual(t, ca)
	ca.client(t, "first", nil)
	ca.client(t, "second", nil)
	first, second := ca.file("first"), ca.file("second")
	trusted := ca.file("ca.pem")
	for want, files := range map[string]Files{
		"first":  {Cert: first + ".pem", Key: first + ".key", TrustedCA: trusted},
		"second": {Cert: first + ".pem", Key: first + ".key", ClientCert: second + ".pem", ClientKey: second + ".key", TrustedCA: trusted},
	} {
		if got, err := greet(t, port, ca.credentials(t, files, Terms{}).Client(), "127.0.0.1"); err != nil || got != want {
			t.Errorf("the server saw %q (%v), want %q", got, err, want)
		}
	}
}
