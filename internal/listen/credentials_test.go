package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// install puts a certificate of the authority, and its key, where a member has
// its own: certificate and key by rename.
func (a *authority) install(t testing.TB, name string, files ...string) {
	t.Helper()
	for i, ending := range []string{".pem", ".key"}[:len(files)] {
		text, err := os.ReadFile(a.file(name + ending))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[i]+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(files[i]+".new", files[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// named makes certificates for this host, for both ends.
func (a *authority) named(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		a.sign(t, name, &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		})
	}
}

// shows is the common name of the certificate that a port shows.
func shows(t *testing.T, port *Port, config *tls.Config) string {
	t.Helper()
	client, err := shake(t, port, config)
	if err != nil {
		return err.Error()
	}
	return client.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestAllFilesAreReplacedAtOnceOrNone(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	ca.named(t, "first", "second")
	cert, key, trusted := ca.file("now.pem"), ca.file("now.key"), ca.file("trusted.pem")
	ca.install(t, "first", cert, key)
	ca.install(t, "ca", trusted)
	files := Files{Cert: cert, Key: key, TrustedCA: trusted}
	credentials := ca.credentials(t, files, Terms{})
	port := openRole(t, secureRole(t, ca, Options{Credentials: credentials}))[0]
	echoing(t, port)
	alice, bob := ca.trust(ca.client(t, "alice", nil)), ca.trust(other.client(t, "bob", nil))
	served := func(when, name string, toAlice, toBob bool) {
		t.Helper()
		if got := shows(t, port, alice); got != name {
			t.Errorf("%s: the port shows %q, want %q", when, got, name)
		}
		if got := credentials.Client(); clientName(t, got) != name {
			t.Errorf("%s: to others it shows %q, want %q", when, clientName(t, got), name)
		}
		if echoes(t, port, alice) != toAlice || echoes(t, port, bob) != toBob {
			t.Errorf("%s: it is not alice %t, bob %t", when, toAlice, toBob)
		}
	}
	served("at first", "first", true, false)

	ca.install(t, "second", cert)
	other.install(t, "ca", trusted)
	if err := credentials.Replace(files); err == nil || !strings.Contains(err.Error(), cert) {
		t.Errorf("a certificate without its key: %v", err)
	}
	if credentials.Fault() == nil {
		t.Error("no fault is shown")
	}
	served("with half of the new files", "first", true, false)

	ca.install(t, "second", cert, key)
	if err := credentials.Replace(files); err != nil || credentials.Fault() != nil {
		t.Errorf("whole: %v, %v", err, credentials.Fault())
	}
	served("with the new files", "second", false, true)
}

func clientName(t *testing.T, config *tls.Config) string {
	t.Helper()
	shown, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return shown.Leaf.Subject.CommonName
}

func TestASessionEndsWithTheFilesItWasBegunWith(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	trusted := ca.file("trusted.pem")
	ca.install(t, "ca", trusted)
	credentials := ca.credentials(t, Files{TrustedCA: trusted}, Terms{})
	port := openRole(t, secureRole(t, ca, Options{Credentials: credentials}))[0]
	echoing(t, port)
	alice := ca.trust(ca.client(t, "alice", nil))
	alice.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	resumed := func() bool {
		client, err := shake(t, port, alice)
		return err == nil && client.ConnectionState().DidResume
	}
	if !echoes(t, port, alice) || !resumed() {
		t.Fatal("no session to begin with")
	}
	other.install(t, "ca", trusted)
	if err := credentials.Replace(credentials.files); err != nil {
		t.Fatal(err)
	}
	if resumed() || echoes(t, port, alice) {
		t.Error("alice was let in with her old session")
	}
}

func TestFilesAreFollowedOnceTheyStandStill(t *testing.T) {
	ca := newAuthority(t)
	ca.named(t, "first", "second", "third")
	cert, key := ca.file("now.pem"), ca.file("now.key")
	ca.install(t, "first", cert, key)
	credentials := ca.credentials(t, Files{Cert: cert, Key: key}, Terms{})
	var last string
	look := func(want bool, name string) error {
		t.Helper()
		read, err := credentials.follow(&last)
		if read != want {
			t.Errorf("read: %t, %v", read, err)
		}
		if got := clientName(t, credentials.Client()); got != name {
			t.Errorf("it shows %s, want %s", got, name)
		}
		return err
	}
	look(false, "first") // nothing is read
	look(false, "first") // the same

	ca.install(t, "second", cert)
	look(false, "first") // they still change
	ca.install(t, "second", cert, key)
	look(false, "first") // the same
	if err := look(true, "second"); err != nil {
		t.Error(err)
	}

	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	look(false, "second") // they still change
	if err := look(true, "second"); err == nil || credentials.Fault() == nil {
		t.Errorf("a key that is gone: %v, %v", err, credentials.Fault())
	}
	look(false, "second") // that was said

	ca.install(t, "third", cert, key)
	look(false, "second") // they still change
	if err := look(true, "third"); err != nil || credentials.Fault() != nil {
		t.Errorf("once all is there: %v, %v", err, credentials.Fault())
	}
}

func TestASymbolicLinkOnTheWayIsFollowed(t *testing.T) {
	ca := newAuthority(t)
	ca.named(t, "first", "second")
	for _, name := range []string{"first", "second"} {
		dir := ca.file("dir-" + name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		ca.install(t, name, dir+"/tls.crt", dir+"/tls.key")
	}
	data := ca.file("..data")
	point := func(name string) {
		if err := os.Symlink(ca.file("dir-"+name), data+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(data+".new", data); err != nil {
			t.Fatal(err)
		}
	}
	point("first")
	credentials := ca.credentials(t, Files{Cert: data + "/tls.crt", Key: data + "/tls.key"}, Terms{})
	point("second")
	var last string
	for _, want := range []bool{false, true} {
		if read, err := credentials.follow(&last); read != want || err != nil {
			t.Errorf("read: %t, %v", read, err)
		}
	}
	if got := clientName(t, credentials.Client()); got != "second" {
		t.Errorf("it shows %s", got)
	}
}

func TestFollowLooksAtEachIntervalAndEnds(t *testing.T) {
	ca := newAuthority(t)
	ca.named(t, "first", "second")
	cert, key := ca.file("now.pem"), ca.file("now.key")
	ca.install(t, "first", cert, key)
	credentials := ca.credentials(t, Files{Cert: cert, Key: key}, Terms{})
	synctest.Test(t, func(t *testing.T) {
		told := make(chan error, 1)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- credentials.Follow(ctx, time.Second, func(err error) { told <- err }) }()
		begun := time.Now()
		ca.install(t, "second", cert, key)
		if err := <-told; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("followed after %s", took)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestExpiryIsThatOfTheFirstInAChainAndTheLastAuthority(t *testing.T) {
	ca := newAuthority(t)
	ca.named(t, "me")
	ca.revoke(t, ca.file("revoked.crl"), false)
	soon := time.Now().Add(time.Minute).Truncate(time.Second)
	ca.valid = time.Minute
	ca.sign(t, "short", &x509.Certificate{Subject: pkix.Name{CommonName: "short"}, IsCA: true, BasicConstraintsValid: true})
	for name, with := range map[string]string{"me": "short", "ca": "short"} {
		text, err := os.ReadFile(ca.file(name + ".pem"))
		if err != nil {
			t.Fatal(err)
		}
		more, err := os.ReadFile(ca.file(with + ".pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ca.file(name+"-chain.pem"), append(text, more...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := ca.credentials(t, Files{
		Cert: ca.file("me-chain.pem"), Key: ca.file("me.key"), ClientCert: ca.file("me.pem"), ClientKey: ca.file("me.key"),
		TrustedCA: ca.file("ca-chain.pem"), CRL: ca.file("revoked.crl"),
	}, Terms{})
	near := map[string]bool{}
	for _, e := range c.Expiries() {
		near[e.What] = e.At.Sub(soon) < time.Minute
	}
	want := map[string]bool{"certificate": true, "client certificate": false, "trusted CA": false, "CRL": false}
	for what := range want {
		if is, known := near[what]; !known || is != want[what] {
			t.Errorf("%s: soon %t, known %t", what, is, known)
		}
	}
}
