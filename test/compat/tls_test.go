package compat

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

// startSecure runs a server with a plain port, which says when it is ready, and
// one that speaks TLS.
func startSecure(t *testing.T, bin oracle.Binary, flags ...string) (m *oracle.Member, address string) {
	t.Helper()
	plain, address := oracle.FreeAddress(t), oracle.FreeAddress(t)
	return oracle.Start(t, bin, oracle.Options{
		ClientURL: "http://" + plain,
		Args:      append([]string{"--listen-client-urls=http://" + plain + ",https://" + address}, flags...),
	}), address
}

// over asks for a page over TLS and HTTP/1, and writes down what came of it.
func over(t *testing.T, network, address string, config *tls.Config) string {
	t.Helper()
	dialer := &net.Dialer{Timeout: answerWithin}
	raw, err := dialer.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return "refused"
	}
	if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "refused"
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "refused" // TLS 1.3 tells it only now
	}
	answer.Body.Close()
	state := conn.ConnectionState()
	return fmt.Sprintf("%d over %s, %s", answer.StatusCode, tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
}

// callOver asks for the status by gRPC, and writes down what came of it.
func callOver(t *testing.T, address string, how credentials.TransportCredentials) string {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(how), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), answerWithin)
	defer cancel()
	_, err = pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	return status.Code(err).String()
}

// visitors are clients of every kind; those that show something that is not in
// order, too.
func visitors(a *authority) map[string]*tls.Config {
	stranger := newAuthority(a.t)
	version := func(of uint16) *tls.Config {
		c := a.trust(a.both("visitor"))
		c.MinVersion, c.MaxVersion = of, of
		return c
	}
	suite := func(of uint16) *tls.Config {
		c := version(tls.VersionTLS12)
		c.CipherSuites = []uint16{of}
		return c
	}
	offers := func(protocols ...string) *tls.Config {
		c := a.trust(a.both("visitor"))
		c.NextProtos = protocols
		return c
	}
	kind := func(of ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = of }
	}
	return map[string]*tls.Config{
		"shows nothing":                      a.trust(),
		"shows a certificate":                a.trust(a.both("visitor")),
		"of another authority":               a.trust(stranger.both("visitor")),
		"that has expired":                   a.trust(a.both("visitor", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })),
		"that is not valid yet":              a.trust(a.both("visitor", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Hour) })),
		"for servers":                        a.trust(a.both("visitor", kind(x509.ExtKeyUsageServerAuth))),
		"for clients":                        a.trust(a.both("visitor", kind(x509.ExtKeyUsageClientAuth))),
		"of no name":                         a.trust(a.sign("nameless", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})),
		"of another address":                 a.trust(a.both("visitor", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} })),
		"with the right host name":           a.trust(a.both("visitor", func(c *x509.Certificate) { c.DNSNames = []string{"good.example", "localhost"} })),
		"with a wrong host name":             a.trust(a.both("visitor", func(c *x509.Certificate) { c.DNSNames = []string{"bad.example", "localhost"} })),
		"with a wildcard":                    a.trust(a.both("visitor", func(c *x509.Certificate) { c.DNSNames = []string{"*.example", "localhost"} })),
		"with the right common name":         a.trust(a.both("good")),
		"trusts another authority":           stranger.trust(a.both("visitor")),
		"speaks TLS 1.1":                     version(tls.VersionTLS11),
		"speaks TLS 1.2":                     version(tls.VersionTLS12),
		"speaks TLS 1.3":                     version(tls.VersionTLS13),
		"speaks one suite":                   suite(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
		"speaks another suite":               suite(tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
		"speaks an old suite":                suite(tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA),
		"offers HTTP/1":                      offers("http/1.1"),
		"offers a protocol of its own":       offers("kvd-test"),
		"offers HTTP/1 and one of its own":   offers("kvd-test", "http/1.1"),
		"offers no protocol, shows, and 1.2": version(tls.VersionTLS12),
	}
}

// TestWhoIsLetInOverTLS has real handshakes of clients of every kind with ports
// of every kind.
func TestWhoIsLetInOverTLS(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]string{
		"certificate":      nil,
		"authority":        {"--trusted-ca-file=CA", "--client-cert-auth"},
		"revoked":          {"--trusted-ca-file=CA", "--client-crl-file=CRL"},
		"host name":        {"--trusted-ca-file=CA", "--client-cert-allowed-hostname=good.example,other.example"},
		"TLS 1.2 at most":  {"--tls-max-version=TLS1.2"},
		"TLS 1.3 at least": {"--tls-min-version=TLS1.3"},
		"suites": {"--tls-max-version=TLS1.2", "--cipher-suites=" +
			"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			a.both("server")
			who := visitors(a)
			who["revoked"] = a.trust(a.both("revoked"))
			a.revoke("revoked.crl", who["revoked"].Certificates[0])
			flags := []string{"--cert-file=" + a.file("server.crt"), "--key-file=" + a.file("server.key")}
			for _, flag := range more {
				flags = append(flags, strings.NewReplacer("CA", a.file("ca.crt"), "CRL", a.file("revoked.crl")).Replace(flag))
			}
			_, judge := startSecure(t, oracle.Etcd(t), flags...)
			_, judged := startSecure(t, target(t), flags...)
			in := 0
			for visitor, config := range who {
				want, got := over(t, "tcp", judge, config), over(t, "tcp", judged, config)
				if want != got {
					t.Errorf("%s, by HTTP/1: etcd %q, kvd %q", visitor, want, got)
				}
				if want != "refused" {
					in++
				}
				want, got = callOver(t, judge, credentials.NewTLS(config)), callOver(t, judged, credentials.NewTLS(config))
				if want != got {
					t.Errorf("%s, by gRPC: etcd %q, kvd %q", visitor, want, got)
				}
			}
			if in == 0 || in == len(who) {
				t.Errorf("%d of %d were let in", in, len(who))
			}
			if want, got := callOver(t, judge, insecure.NewCredentials()), callOver(t, judged, insecure.NewCredentials()); want != got {
				t.Errorf("plain gRPC: etcd %q, kvd %q", want, got)
			}
			// etcd closes the connection, kvd says why first.
			if want, got := plainOver(t, judge), plainOver(t, judged); want != "" || !strings.HasPrefix(got, "HTTP/1.0 400") {
				t.Errorf("plain HTTP: etcd %q, kvd %q", want, got)
			}
		})
	}
}

// plainOver forgets the s of https.
func plainOver(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, answerWithin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(answerWithin)) // the read tells
	if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return "refused"
	}
	b, _ := io.ReadAll(conn) // what came before it was closed
	return string(b)
}

// TestWhoIsLetInAsAMember does the same at the ports of members, which look at
// the address that a certificate comes from, too.
func TestWhoIsLetInAsAMember(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]string{
		"certificate":       nil,
		"authority":         {"--peer-trusted-ca-file=CA", "--peer-client-cert-auth"},
		"revoked":           {"--peer-trusted-ca-file=CA", "--peer-crl-file=CRL"},
		"common name":       {"--peer-trusted-ca-file=CA", "--peer-cert-allowed-cn=good,server"},
		"host name":         {"--peer-trusted-ca-file=CA", "--peer-cert-allowed-hostname=good.example"},
		"without addresses": {"--peer-trusted-ca-file=CA", "--peer-skip-client-san-verification"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			a.both("server", func(c *x509.Certificate) { c.DNSNames = []string{"good.example"} })
			who := visitors(a)
			who["revoked"] = a.trust(a.both("revoked"))
			a.revoke("revoked.crl", who["revoked"].Certificates[0])
			flags := []string{"--peer-cert-file=" + a.file("server.crt"), "--peer-key-file=" + a.file("server.key")}
			for _, flag := range more {
				flags = append(flags, strings.NewReplacer("CA", a.file("ca.crt"), "CRL", a.file("revoked.crl")).Replace(flag))
			}
			var at [2]string
			for i, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
				at[i] = oracle.FreeAddress(t)
				oracle.Start(t, bin, oracle.Options{PeerURL: "https://" + at[i], Args: flags})
			}
			for visitor, config := range who {
				if want, got := over(t, "tcp", at[0], config), over(t, "tcp", at[1], config); want != got {
					t.Errorf("%s: etcd %q, kvd %q", visitor, want, got)
				}
			}
		})
	}
}

func TestUnixSocketsServeClients(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server", func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		dir := t.TempDir()
		plain, secure := filepath.Join(dir, "plain"), filepath.Join(dir, "secure")
		tcp := "http://" + oracle.FreeAddress(t)
		oracle.Start(t, bin, oracle.Options{ClientURL: tcp, Args: []string{
			"--listen-client-urls=" + tcp + ",unix://" + plain + ",unixs://" + secure,
			"--cert-file=" + a.file("server.crt"), "--key-file=" + a.file("server.key"),
		}})
		if got := callOver(t, "unix:"+plain, insecure.NewCredentials()); got != "OK" {
			t.Errorf("%s: %s on a plain socket", bin.Name, got)
		}
		if got := callOver(t, "unix:"+secure, credentials.NewTLS(a.trust())); got != "OK" {
			t.Errorf("%s: %s on a socket with TLS", bin.Name, got)
		}
		if got := over(t, "unix", secure, a.trust()); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: HTTP/1 on a socket with TLS: %s", bin.Name, got)
		}
	}
}

func TestHTTPAndGRPCMayHaveSecurePortsOfTheirOwn(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server")
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		calls, web, plain := oracle.FreeAddress(t), oracle.FreeAddress(t), "http://"+oracle.FreeAddress(t)
		oracle.Start(t, bin, oracle.Options{ClientURL: plain, Args: []string{
			"--listen-client-urls=https://" + calls, "--listen-client-http-urls=" + plain + ",https://" + web,
			"--cert-file=" + a.file("server.crt"), "--key-file=" + a.file("server.key"),
			"--trusted-ca-file=" + a.file("ca.crt"),
		}})
		shown := func() *tls.Config { return a.trust(a.both("visitor")) }
		if got := callOver(t, calls, credentials.NewTLS(shown())); got != "OK" {
			t.Errorf("%s: gRPC on its port: %s", bin.Name, got)
		}
		if got := callOver(t, web, credentials.NewTLS(shown())); got == "OK" { // etcd says Unimplemented, kvd speaks no HTTP/2 there
			t.Errorf("%s: gRPC on the port of HTTP/1", bin.Name)
		}
		if got := over(t, "tcp", web, shown()); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: HTTP/1 on its port: %s", bin.Name, got)
		}
		if got := over(t, "tcp", calls, shown()); got != "refused" {
			t.Errorf("%s: HTTP/1 on the port of gRPC: %s", bin.Name, got)
		}
		if got := over(t, "tcp", web, a.trust()); got != "refused" {
			t.Errorf("%s: without a certificate: %s", bin.Name, got)
		}
	}
}

func TestOneAddressServesBothSchemes(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server")
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		address := oracle.FreeAddress(t)
		oracle.Start(t, bin, oracle.Options{ClientURL: "http://" + address, Args: []string{
			"--listen-client-urls=http://" + address + ",https://" + address,
			"--cert-file=" + a.file("server.crt"), "--key-file=" + a.file("server.key"),
		}})
		for name, how := range map[string]credentials.TransportCredentials{"plain": insecure.NewCredentials(), "TLS": credentials.NewTLS(a.trust())} {
			if got := callOver(t, address, how); got != "OK" {
				t.Errorf("%s: %s: %s", bin.Name, name, got)
			}
		}
		if got := over(t, "tcp", address, a.trust()); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: HTTP/1 over TLS: %s", bin.Name, got)
		}
	}
}

// TestMembersOfBothKindsMeetOverTLS has members that show each other certificates
// of one authority, and others that they made themselves.
func TestMembersOfBothKindsMeetOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server")
	for name, flags := range map[string][]string{
		"of an authority": {
			"--peer-cert-file=" + a.file("server.crt"), "--peer-key-file=" + a.file("server.key"),
			"--peer-trusted-ca-file=" + a.file("ca.crt"), "--peer-client-cert-auth", "--peer-cert-allowed-cn=server",
		},
		"of their own": {"--peer-auto-tls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := oracle.StartCluster(t, []oracle.Binary{oracle.Etcd(t), target(t), target(t)}, oracle.ClusterOptions{
				Args:   flags,
				Member: func(_ int, o *oracle.Options) { o.PeerURL = strings.Replace(o.PeerURL, "http:", "https:", 1) },
			})
			writeThroughAll(t, c)
		})
	}
}

// TestMembersOfBothKindsMeetOverUnixSockets has peer URLs whose host names a file
// in the working directory, as etcd takes them.
func TestMembersOfBothKindsMeetOverUnixSockets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Etcd(t), target(t), target(t)}, oracle.ClusterOptions{
		Member: func(i int, o *oracle.Options) {
			o.PeerURL = fmt.Sprintf("unix://localhost:%d", i+1)
			o.Under = []string{"/bin/sh", "-c", `cd ` + dir + ` && exec "$0" "$@"`}
		},
	})
	writeThroughAll(t, c)
}

// writeThroughAll writes through each member and reads through all.
func writeThroughAll(t *testing.T, c *oracle.Cluster) {
	t.Helper()
	for i := range c.Members {
		key := fmt.Sprint("through-", i)
		if _, err := c.Client(t, i).Put(t.Context(), key, "v"); err != nil {
			t.Fatal(err)
		}
		for j := range c.Members {
			if resp, err := c.Client(t, j).Get(t.Context(), key); err != nil || len(resp.Kvs) != 1 {
				t.Errorf("%s through member %d: %v", key, j, err)
			}
		}
	}
}
