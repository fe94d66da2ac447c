package daemon

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// secureClient dials a member over TLS.
func secureClient(t *testing.T, address string, config *tls.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + address}, Logger: zap.NewNop(), TLS: config})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestMemberMakesItsOwnCertificates(t *testing.T) {
	dir := t.TempDir()
	args := append(flags(dir), "--auto-tls", "--peer-auto-tls",
		"--listen-client-urls=https://127.0.0.1:0", "--listen-metrics-urls=https://127.0.0.1:0",
		"--listen-peer-urls=https://127.0.0.1:0", "--initial-advertise-peer-urls=https://127.0.0.1:2")
	trust := func(side string) *tls.Config {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(read(t, filepath.Join(dir, "fixtures", side, "cert.pem")))) {
			t.Fatalf("no certificate for %s", side)
		}
		return &tls.Config{RootCAs: pool}
	}
	var made string
	for range 2 { // the second start uses them again
		d := start(t, args...)
		client := trust("client")
		must(t, put(t, secureClient(t, d.client(t), client), "k", "v"))
		for url, config := range map[string]*tls.Config{
			d.url(t, "listen-metrics-urls") + "/health": client,
			d.url(t, "listen-peer-urls") + "/version":   trust("peer"),
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			must(t, err)
			if status, _, body := tell(t, &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, r); status != http.StatusOK {
				t.Errorf("%s: %d: %s", url, status, body)
			}
		}
		is := read(t, filepath.Join(dir, "fixtures", "client", "cert.pem"))
		if made != "" && made != is {
			t.Error("made anew")
		}
		made = is
		must(t, d.stop(t))
	}
}

func TestGivenCertificatesComeBeforeOwnOnes(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	ca.leaf(t, "here", "127.0.0.1")
	d := start(t, append(flags(dir), "--auto-tls", "--listen-client-urls=https://127.0.0.1:0",
		"--cert-file="+ca.path("here.crt"), "--key-file="+ca.path("here.key"))...)
	d.log.wait(t, "ignoring client auto TLS since certs given", 0)
	must(t, put(t, secureClient(t, d.client(t), &tls.Config{RootCAs: ca.pool}), "k", "v"))
	if _, err := os.Stat(filepath.Join(dir, "fixtures")); err == nil {
		t.Error("some were made")
	}
}

func TestPlainMemberMakesNoCertificates(t *testing.T) {
	dir := t.TempDir()
	start(t, append(flags(dir), "--auto-tls", "--peer-auto-tls")...)
	if _, err := os.Stat(filepath.Join(dir, "fixtures")); err == nil {
		t.Error("some were made")
	}
}

func TestOwnCertificateStillAsksForTheClients(t *testing.T) {
	ca := newAuthority(t)
	alice := ca.leaf(t, "alice", "127.0.0.1")
	d := start(t, append(flags(t.TempDir()), "--auto-tls", "--listen-client-urls=https://127.0.0.1:0",
		"--client-cert-auth", "--trusted-ca-file="+ca.path("ca.crt"))...)
	get := func(show ...tls.Certificate) error {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: show}}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.client(t)+"/version", nil)
		must(t, err)
		answer, err := c.Do(r)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	if err := get(alice); err != nil {
		t.Errorf("alice: %v", err)
	}
	if get() == nil {
		t.Error("answered who showed nothing")
	}
}

// revoke writes the list revoked.crl, with one certificate in it.
func (a *authority) revoke(t *testing.T, of tls.Certificate) {
	t.Helper()
	parsed, err := x509.ParseCertificate(of.Certificate[0])
	must(t, err)
	issuer := *a.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: parsed.SerialNumber, RevocationTime: time.Now()}},
	}, &issuer, a.key)
	must(t, err)
	must(t, os.WriteFile(a.path("revoked.crl"), list, 0o600))
}

func TestRevokedClientsAndPeersAreRefused(t *testing.T) {
	ca := newAuthority(t)
	ca.leaf(t, "here", "127.0.0.1")
	alice, bob := ca.leaf(t, "alice", "127.0.0.1"), ca.leaf(t, "bob", "127.0.0.1")
	ca.revoke(t, bob)
	d := start(t, append(flags(t.TempDir()),
		"--listen-client-urls=https://127.0.0.1:0", "--cert-file="+ca.path("here.crt"), "--key-file="+ca.path("here.key"),
		"--trusted-ca-file="+ca.path("ca.crt"), "--client-crl-file="+ca.path("revoked.crl"),
		"--listen-peer-urls=https://127.0.0.1:0", "--initial-advertise-peer-urls=https://127.0.0.1:2",
		"--peer-cert-file="+ca.path("here.crt"), "--peer-key-file="+ca.path("here.key"),
		"--peer-trusted-ca-file="+ca.path("ca.crt"), "--peer-crl-file="+ca.path("revoked.crl"),
	)...)
	for _, url := range []string{"https://" + d.client(t) + "/version", d.url(t, "listen-peer-urls") + "/version"} {
		for name, c := range map[string]struct {
			show tls.Certificate
			in   bool
		}{"alice": {alice, true}, "bob": {bob, false}} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			must(t, err)
			answer, err := ca.web(c.show).Do(r)
			if err == nil {
				answer.Body.Close()
			}
			if (err == nil) != c.in {
				t.Errorf("%s, %s: %v", url, name, err)
			}
		}
	}
}

func TestMemberThatExistsIgnoresHowItWasToBeMade(t *testing.T) {
	dir := t.TempDir()
	d := start(t, flags(dir)...)
	must(t, put(t, d.dial(t), "k", "v"))
	must(t, d.stop(t))
	for _, args := range [][]string{
		{"--initial-cluster-state=existing", "--initial-cluster=n1=http://127.0.0.1:2,n2=http://127.0.0.1:3"},
		{"--discovery-srv=example.com"},
		{"--discovery-endpoints=http://127.0.0.1:1", "--discovery-token=t"},
		{"--force-new-cluster"},
	} {
		d := start(t, flags(dir, args...)...)
		if got := get(t, d.dial(t), "k"); got != "v" {
			t.Errorf("%v: k is %q", args, got)
		}
		if strings.HasPrefix(args[0], "--discovery-endpoints") {
			d.log.wait(t, "discovery token is ignored since cluster already initialized; valid logs are found", 0)
		}
		must(t, d.stop(t))
	}
}
