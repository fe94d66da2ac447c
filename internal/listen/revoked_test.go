package listen

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// revoke writes the list of revoked certificates.
func (a *authority) revoke(t testing.TB, path string, armored bool, serials ...*big.Int) {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: time.Now(),
		})
	}
	issuer := *a.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	text, err := x509.CreateRevocationList(rand.Reader, list, &issuer, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if armored {
		text = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: text})
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// echoes says whether a port that echoes accepts a client.
func echoes(t *testing.T, port *Port, config *tls.Config) bool {
	t.Helper()
	client, err := shake(t, port, config)
	if err != nil {
		return false
	}
	if _, err := client.Write([]byte("x")); err != nil {
		return false
	}
	_, err = io.ReadFull(client, make([]byte, 1)) // TLS 1.3 tells a refusal only now
	return err == nil
}

func TestRevokedCertificatesAreRefused(t *testing.T) {
	for _, armored := range []bool{false, true} {
		ca := newAuthority(t)
		list := ca.file("revoked.crl")
		alice, bob := ca.client(t, "alice", nil), ca.client(t, "bob", nil)
		ca.revoke(t, list, armored, bob.Leaf.SerialNumber, big.NewInt(1000))
		var logged bytes.Buffer
		port := openRole(t, secureRole(t, ca, Options{
			TrustedCAFile: ca.file("ca.pem"), CRLFile: list, Log: slog.New(slog.NewTextHandler(&logged, nil)),
		}))[0]
		echoing(t, port)
		if !echoes(t, port, ca.trust(alice)) {
			t.Error("alice was refused")
		}
		if echoes(t, port, ca.trust(bob)) {
			t.Error("bob was let in, though revoked")
		}
		// The list is read for every connection.
		ca.revoke(t, list, armored, alice.Leaf.SerialNumber)
		if echoes(t, port, ca.trust(alice)) {
			t.Error("alice was let in, though revoked meanwhile")
		}
		if !echoes(t, port, ca.trust(bob)) {
			t.Error("bob was refused, though on the list no more")
		}
		port.Close()
		if !strings.Contains(logged.String(), "is revoked by") {
			t.Errorf("logged %s", logged.String())
		}
	}
}

func TestAResumedSessionIsCheckedForRevocationToo(t *testing.T) {
	ca := newAuthority(t)
	list := ca.file("revoked.crl")
	ca.revoke(t, list, false)
	port := openRole(t, secureRole(t, ca, Options{TrustedCAFile: ca.file("ca.pem"), CRLFile: list}))[0]
	echoing(t, port)
	alice := ca.client(t, "alice", nil)
	config := ca.trust(alice)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if !echoes(t, port, config) {
		t.Fatal("alice was refused")
	}
	ca.revoke(t, list, false, alice.Leaf.SerialNumber)
	if echoes(t, port, config) {
		t.Error("alice was let in with her old session")
	}
}

func TestUnreadableListOfRevokedRefusesAllCertificates(t *testing.T) {
	ca := newAuthority(t)
	list := filepath.Join(t.TempDir(), "absent.crl")
	var logged bytes.Buffer
	port := openRole(t, secureRole(t, ca, Options{
		TrustedCAFile: ca.file("ca.pem"), CRLFile: list, Log: slog.New(slog.NewTextHandler(&logged, nil)),
	}))[0]
	if !strings.Contains(logged.String(), "absent.crl") {
		t.Errorf("at the start: %q", logged.String())
	}
	echoing(t, port)
	alice := ca.client(t, "alice", nil)
	if echoes(t, port, ca.trust(alice)) {
		t.Error("let in without a list")
	}
	if err := os.WriteFile(list, []byte("no list"), 0o600); err != nil {
		t.Fatal(err)
	}
	if echoes(t, port, ca.trust(alice)) {
		t.Error("let in with a broken list")
	}
	ca.revoke(t, list, false)
	if !echoes(t, port, ca.trust(alice)) {
		t.Error("refused once the list was there")
	}
}

func TestClientsWithoutCertificatesNeedNoList(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{CRLFile: filepath.Join(t.TempDir(), "absent.crl")}))[0]
	echoing(t, port)
	if !echoes(t, port, ca.trust()) {
		t.Error("refused")
	}
}
