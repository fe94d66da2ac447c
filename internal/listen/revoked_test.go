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
		credentials := ca.credentials(t, Files{TrustedCA: ca.file("ca.pem"), CRL: list}, Terms{})
		port := openRole(t, secureRole(t, ca, Options{Credentials: credentials, Log: slog.New(slog.NewTextHandler(&logged, nil))}))[0]
		echoing(t, port)
		if !echoes(t, port, ca.trust(alice)) {
			t.Error("alice was refused")
		}
		if echoes(t, port, ca.trust(bob)) {
			t.Error("bob was let in, though revoked")
		}
		ca.revoke(t, list, armored, alice.Leaf.SerialNumber)
		if err := credentials.Replace(credentials.files); err != nil {
			t.Fatal(err)
		}
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

func TestListsOfSeveralAuthoritiesFitIntoOneFile(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	alice, bob := ca.client(t, "alice", nil), ca.client(t, "bob", nil)
	var both []byte
	for who, serial := range map[*authority]*big.Int{ca: alice.Leaf.SerialNumber, other: bob.Leaf.SerialNumber} {
		list := who.file("revoked.crl")
		who.revoke(t, list, true, serial)
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	list := ca.file("both.crl")
	if err := os.WriteFile(list, both, 0o600); err != nil {
		t.Fatal(err)
	}
	port := openRole(t, secureRole(t, ca, Options{Credentials: ca.credentials(t, Files{TrustedCA: ca.file("ca.pem"), CRL: list}, Terms{})}))[0]
	echoing(t, port)
	if !echoes(t, port, ca.trust(ca.client(t, "carol", nil))) {
		t.Error("carol was refused")
	}
	if echoes(t, port, ca.trust(alice)) || echoes(t, port, ca.trust(bob)) {
		t.Error("one was let in, though revoked")
	}
}

func TestClientsWithoutCertificatesNeedNoList(t *testing.T) {
	ca := newAuthority(t)
	ca.revoke(t, ca.file("revoked.crl"), false, big.NewInt(1))
	port := openRole(t, secureRole(t, ca, Options{Credentials: ca.credentials(t, Files{CRL: ca.file("revoked.crl")}, Terms{})}))[0]
	echoing(t, port)
	if !echoes(t, port, ca.trust()) {
		t.Error("refused")
	}
}
