package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
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
	ca.server(t)
	return openRole(t, Role{Name: "peer", Option: "listen-peer-urls", URLs: []url.URL{parseURL(t, "https://127.0.0.1:0")}, Options: Options{
		Protocol: HTTP, CertFile: ca.file("server.pem"), KeyFile: ca.file("server.key"), TrustedCAFile: ca.file("ca.pem"),
	}})[0]
}

func TestAClientShowsTheCertificateThatIsThereNow(t *testing.T) {
	ca := newAuthority(t)
	port := mutual(t, ca)
	ca.client(t, "first", nil)
	ca.client(t, "second", nil)
	cert, key := ca.file("now.pem"), ca.file("now.key")
	install := func(name string) {
		for from, to := range map[string]string{name + ".pem": cert, name + ".key": key} {
			b, err := os.ReadFile(ca.file(from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	install("first")
	config, err := ClientTLS(ClientOptions{CertFile: cert, KeyFile: key, TrustedCAFile: ca.file("ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second", "first"} {
		install(name)
		if got, err := greet(t, port, config, "127.0.0.1"); err != nil || got != name {
			t.Errorf("the server saw %q (%v), want %q", got, err, name)
		}
	}
}

func TestAClientChecksWhomItTrusts(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	port := mutual(t, ca)
	ca.client(t, "me", nil)
	for name, c := range map[string]struct {
		o    ClientOptions
		host string
		want string // part of the error
	}{
		"trusted":               {ClientOptions{TrustedCAFile: ca.file("ca.pem")}, "127.0.0.1", ""},
		"another host":          {ClientOptions{TrustedCAFile: ca.file("ca.pem")}, "127.0.0.2", "127.0.0.2"},
		"a name that it has":    {ClientOptions{TrustedCAFile: ca.file("ca.pem"), ServerName: "127.0.0.1"}, "127.0.0.2", ""},
		"another authority":     {ClientOptions{TrustedCAFile: stranger.file("ca.pem")}, "127.0.0.1", "unknown authority"},
		"the system's roots":    {ClientOptions{}, "127.0.0.1", "unknown authority"},
		"anybody":               {ClientOptions{SkipVerify: true, AllowedCNs: []string{"x"}}, "127.0.0.2", ""},
		"a common name":         {ClientOptions{TrustedCAFile: ca.file("ca.pem"), AllowedCNs: []string{"server"}}, "127.0.0.1", ""},
		"another common name":   {ClientOptions{TrustedCAFile: ca.file("ca.pem"), AllowedCNs: []string{"other"}}, "127.0.0.1", "authentication failed"},
		"another host name":     {ClientOptions{TrustedCAFile: ca.file("ca.pem"), AllowedHostnames: []string{"other"}}, "127.0.0.1", "authentication failed"},
		"a version that is new": {ClientOptions{TrustedCAFile: ca.file("ca.pem"), MinVersion: tls.VersionTLS13}, "127.0.0.1", ""},
	} {
		c.o.CertFile, c.o.KeyFile = ca.file("me.pem"), ca.file("me.key")
		config, err := ClientTLS(c.o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = greet(t, port, config, c.host)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestFilesOfAClientAreCheckedAtOnce(t *testing.T) {
	ca := newAuthority(t)
	ca.sign(t, "me", &x509.Certificate{Subject: pkix.Name{CommonName: "me"}})
	broken := ca.file("broken")
	if err := os.WriteFile(broken, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []ClientOptions{
		{CertFile: ca.file("me.pem")},
		{KeyFile: ca.file("me.key")},
		{CertFile: ca.file("me.pem"), KeyFile: ca.file("ca.key")},
		{TrustedCAFile: broken},
		{TrustedCAFile: ca.file("none")},
	} {
		if _, err := ClientTLS(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
