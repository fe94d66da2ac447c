package daemon

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// authority signs certificates for a test.
type authority struct {
	dir   string
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pool  *x509.CertPool
	valid time.Duration // how long certificates are; 0: one hour
	since time.Duration // for how long they have been; 0: one hour
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	a.cert, a.key, _ = a.sign(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

// sign makes name.crt and name.key.
func (a *authority) sign(t *testing.T, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-cmp.Or(a.since, time.Hour)), time.Now().Add(cmp.Or(a.valid, time.Hour))
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(a.path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(a.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// leaf signs a certificate for both ends of a connection at an address.
func (a *authority) leaf(t *testing.T, name, ip string) tls.Certificate {
	t.Helper()
	_, _, pair := a.sign(t, name, &x509.Certificate{
		IPAddresses: []net.IP{net.ParseIP(ip)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return pair
}

func (a *authority) web(show ...tls.Certificate) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool, Certificates: show}}}
}

func TestSecurePorts(t *testing.T) {
	ca := newAuthority(t)
	here := ca.leaf(t, "here", "127.0.0.1")
	elsewhere := ca.leaf(t, "elsewhere", "192.0.2.1")
	d := start(t, append(flags(t.TempDir()),
		"--listen-client-urls=https://127.0.0.1:0", "--cert-file="+ca.path("here.crt"), "--key-file="+ca.path("here.key"),
		"--listen-peer-urls=https://127.0.0.1:0", "--initial-advertise-peer-urls=https://127.0.0.1:2",
		"--peer-cert-file="+ca.path("here.crt"), "--peer-key-file="+ca.path("here.key"),
		"--peer-trusted-ca-file="+ca.path("ca.crt"), "--peer-client-cert-auth",
		"--host-whitelist=only.example",
	)...)
	d.log.wait(t, "serving client traffic securely", 0)

	t.Run("gRPC", func(t *testing.T) {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{"https://" + d.client(t)}, Logger: zap.NewNop(), TLS: &tls.Config{RootCAs: ca.pool},
		})
		must(t, err)
		defer c.Close()
		must(t, put(t, c, "k", "v"))
	})
	get := func(c *http.Client, url string) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		must(t, err)
		answer, err := c.Do(r)
		if err != nil {
			return 0, err
		}
		answer.Body.Close()
		return answer.StatusCode, nil
	}
	t.Run("the whitelist is of plain requests", func(t *testing.T) {
		// That takes a request that knows of its TLS behind the split.
		if status, err := get(ca.web(), "https://"+d.client(t)+"/version"); status != http.StatusOK {
			t.Errorf("%d, %v", status, err)
		}
	})
	t.Run("peers show where they are", func(t *testing.T) {
		peer := d.url(t, "listen-peer-urls") + "/version"
		if status, err := get(ca.web(here), peer); status != http.StatusOK {
			t.Errorf("from here: %d, %v", status, err)
		}
		if status, err := get(ca.web(elsewhere), peer); err == nil {
			t.Errorf("with the certificate of another address: %d", status)
		}
		if status, err := get(ca.web(), peer); err == nil {
			t.Errorf("without a certificate: %d", status)
		}
	})
}

func TestPeersNeedNotShowWhereTheyAre(t *testing.T) {
	ca := newAuthority(t)
	ca.leaf(t, "here", "127.0.0.1")
	elsewhere := ca.leaf(t, "elsewhere", "192.0.2.1")
	d := start(t, append(flags(t.TempDir()),
		"--listen-peer-urls=https://127.0.0.1:0", "--initial-advertise-peer-urls=https://127.0.0.1:2",
		"--peer-cert-file="+ca.path("here.crt"), "--peer-key-file="+ca.path("here.key"),
		"--peer-trusted-ca-file="+ca.path("ca.crt"), "--peer-skip-client-san-verification",
	)...)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url(t, "listen-peer-urls")+"/version", nil)
	must(t, err)
	if status, _, body := tell(t, ca.web(elsewhere), r); status != http.StatusOK {
		t.Errorf("%d: %s", status, body)
	}
}

func TestAMissingCertificateFileIsNamedBeforeAnythingIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	gone := filepath.Join(t.TempDir(), "gone.crt")
	err := run(t, Inputs{Config: configured(t, append(flags(dir), "--listen-client-urls=https://127.0.0.1:0",
		"--cert-file="+gone, "--key-file="+gone)...)}).wait(t)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), gone) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}
