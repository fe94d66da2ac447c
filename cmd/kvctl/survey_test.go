package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCertificatesAreSeenWithoutTrust(t *testing.T) {
	for name, policy := range map[string]tls.ClientAuthType{"open": tls.NoClientCert, "for those with a certificate": tls.RequireAnyClientCert} {
		server := httptest.NewUnstartedServer(nil)
		server.TLS = &tls.Config{ClientAuth: policy}
		server.StartTLS()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		s := &session{program: &program{}}
		want := server.Certificate().NotAfter
		if got := s.certificateEnd(ctx, server.URL); !got.Equal(want) {
			t.Errorf("%s: the certificate ends %v, seen was %v", name, want, got)
		}
		for _, none := range []string{"http://127.0.0.1:1", "https://127.0.0.1:1", "::", ""} {
			if got := s.certificateEnd(ctx, none); !got.IsZero() {
				t.Errorf("%q shows a certificate until %v", none, got)
			}
		}
		file := filepath.Join(t.TempDir(), "me.crt")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ownCertificateEnd(file); err != nil || !got.Equal(want) {
			t.Errorf("our own certificate ends %v (%v), not %v", got, err, want)
		}
		cancel()
		server.Close()
	}
	if _, err := ownCertificateEnd("survey_test.go"); err == nil {
		t.Error("source code is taken for a certificate")
	}
}

// A member that is there and says nothing must not keep the others from being
// shown.
func TestOneThatHangsDoesNotHideTheOthers(t *testing.T) {
	a, b := newFakes(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	a.ends = []string{"http://" + a.addr, "http://" + mute.Addr().String()}
	b.ends = a.ends
	r := runHere(t, talk{}, []string{"status", "--endpoints", a.addr, "--command-timeout", "1s"})
	if r.code != 0 || !strings.Contains(r.out, "n1 ") || !strings.Contains(r.out, "no answer") {
		t.Errorf("exit %d:\n%s%s", r.code, r.out, r.errs)
	}
}

func TestHowLongACertificateLasts(t *testing.T) {
	for left, want := range map[time.Duration]string{
		0: "EXPIRED", -time.Hour: "EXPIRED", time.Hour: "1 hours", 47*time.Hour + time.Minute: "47 hours", 48 * time.Hour: "2 days", 400 * 24 * time.Hour: "400 days",
	} {
		if got := remaining(examined.Add(left), examined); got != want {
			t.Errorf("%v: %q, not %q", left, got, want)
		}
	}
	if got := remaining(time.Time{}, examined); got != "-" {
		t.Errorf("none: %q", got)
	}
}

func TestPacedHandsOutAsManyAsTheTimeHas(t *testing.T) {
	given := 0
	for range paced(t.Context(), 1000, 300*time.Millisecond, 10, func(time.Duration) {}) {
		given++
	}
	if given < 100 || given > 300 {
		t.Errorf("%d tokens in 300 ms at 1000/s", given)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range paced(ctx, 10, time.Hour, 1, func(time.Duration) {}) {
		t.Error("a token after the end")
	}
}

func TestTheVerdictOfCheckPerfIsEtcdctls(t *testing.T) {
	for _, c := range []struct {
		tally *tally
		want  string
		ok    bool
	}{
		{&tally{took: time.Second, seconds: make([]float64, 149)}, "PASS: Throughput is 150 writes/s|PASS: Slowest request took 0.000000s|PASS: Stddev is 0.000000s", true},
		{&tally{took: 2 * time.Second, seconds: []float64{0.25, 0.75}}, "FAIL: Throughput too low: 2 writes/s|Slowest request took too long: 0.750000s|Stddev too high: 0.250000s", false},
		{
			&tally{took: time.Second, errors: map[string]int{"b": 2, "a": 1}},
			"FAIL: too many errors|FAIL: ERROR(a) -> 1|FAIL: ERROR(b) -> 2|FAIL: Throughput too low: 1 writes/s|PASS: Slowest request took 0.000000s|PASS: Stddev is 0.000000s", false,
		},
	} {
		lines, ok := c.tally.verdict(150)
		if got := strings.Join(lines, "|"); got != c.want || ok != c.ok {
			t.Errorf("%q (%v), not %q", got, ok, c.want)
		}
	}
}
