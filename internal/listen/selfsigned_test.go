package listen

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSelfSignedCertificateServes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fixtures", "client")
	urls := []url.URL{
		parseURL(t, "https://127.0.0.1:0"), parseURL(t, "https://localhost:2379"), parseURL(t, "https://[::1]:2379"),
		parseURL(t, "unixs:///run/kvd.sock"), parseURL(t, "https://localhost:2378"),
	}
	made, err := SelfSign(dir, urls, 2)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(made.NotAfter); !made.Made || left > 730*24*time.Hour || left < 730*24*time.Hour-time.Hour {
		t.Errorf("%+v", made)
	}
	if info, err := os.Stat(made.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
	port := openRole(t, Role{Option: "listen-client-urls", URLs: urls[:1], Options: Options{Credentials: (&authority{}).credentials(t, Files{Cert: made.CertFile, Key: made.KeyFile}, Terms{})}})[0]
	echoing(t, port)
	text, err := os.ReadFile(made.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	for name, want := range map[string]bool{"127.0.0.1": true, "localhost": true, "::1": true, "127.0.0.2": false, "example.com": false} {
		if got := echoes(t, port, &tls.Config{RootCAs: pool, ServerName: name}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if echoes(t, port, &tls.Config{ServerName: "127.0.0.1"}) {
		t.Error("trusted by who does not have it")
	}
}

func TestSelfSignedCertificateIsKept(t *testing.T) {
	dir := t.TempDir()
	first, err := SelfSign(dir, []url.URL{parseURL(t, "https://127.0.0.1:1")}, 0) // expired at once
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(first.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	again, err := SelfSign(dir, []url.URL{parseURL(t, "https://localhost:1")}, 5)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(again.CertFile)
	if err != nil || again.Made || !bytes.Equal(text, kept) || again.NotAfter.After(time.Now()) {
		t.Errorf("%+v, %v", again, err)
	}
	// Half of it is no certificate.
	if err := os.Remove(again.KeyFile); err != nil {
		t.Fatal(err)
	}
	anew, err := SelfSign(dir, nil, 1)
	if err != nil || !anew.Made {
		t.Errorf("%+v, %v", anew, err)
	}
	if _, err := tls.LoadX509KeyPair(anew.CertFile, anew.KeyFile); err != nil {
		t.Error(err)
	}
}

func TestBrokenSelfSignedCertificateIsNamed(t *testing.T) {
	dir := t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), []byte("x"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SelfSign(dir, nil, 1); err == nil || !strings.Contains(err.Error(), "cert.pem") || !strings.Contains(err.Error(), "remove both") {
		t.Errorf("%v", err)
	}
}
