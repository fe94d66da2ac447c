package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kvd/internal/freeport"
)

// share counts how often each of some targets is picked.
func share(ts *targets, picks int) map[string]int {
	got := map[string]int{}
	for range picks {
		got[ts.pick(nil).host]++
	}
	return got
}

func TestThePriorityDecidesAndThenTheWeight(t *testing.T) {
	all := func(active ...bool) *targets {
		ts := &targets{all: []*target{
			{host: "a", priority: 10, weight: 1},
			{host: "b", priority: 10, weight: 3},
			{host: "c", priority: 10},
			{host: "d", priority: 20},
			{host: "e", priority: 20},
		}}
		for i, is := range active {
			ts.all[i].active = is
		}
		return ts
	}
	const picks = 20_000
	got := share(all(true, true, true, true, true), picks)
	if got["d"]+got["e"] > 0 {
		t.Errorf("a worse priority was taken: %v", got)
	}
	for host, percent := range map[string]float64{"a": 99. / 4, "b": 99. * 3 / 4, "c": 1} {
		if have := float64(got[host]) * 100 / picks; have < percent*0.8-0.3 || have > percent*1.2+0.3 {
			t.Errorf("%s has %.1f %% where %.1f are due", host, have, percent)
		}
	}
	if got := share(all(false, false, false, true, true), 100); got["d"] != 50 || got["e"] != 50 {
		t.Errorf("of two without a weight: %v", got)
	}
	if got := share(all(), 100); got["d"]+got["e"] > 0 {
		t.Errorf("none is active, and a worse priority was taken: %v", got)
	}
	if got := share(all(true, false), 100); got["a"] != 100 {
		t.Errorf("inactive ones were taken: %v", got)
	}
}

// TestTheSecondOfTwoIsChosenToo: etcd's draw never chooses it.
func TestTheSecondOfTwoIsChosenToo(t *testing.T) {
	ts := &targets{all: []*target{{host: "a", weight: 1, active: true}, {host: "b", weight: 1, active: true}}}
	if got := share(ts, 1000); got["a"] < 400 || got["b"] < 400 {
		t.Errorf("%v", got)
	}
}

func TestAnEndpointThatStaysKeepsItsStateWhenDNSIsAskedAgain(t *testing.T) {
	one, two := echo(t, "one"), echo(t, "two")
	dns := &names{records: map[string][]*net.SRV{"etcd-client-x": {{Target: "127.0.0.1", Port: portOf(one)}}}}
	r, out, _, _ := run(t, Options{SRV: SRV{"ex.test", "x", true}, RetryDelay: 10 * time.Millisecond}, dns)
	got, err := ask(r.Addr(), "")
	if err != nil || got != "one:" {
		t.Fatalf("%q, %v", got, err)
	}
	dns.mu.Lock()
	dns.err = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	dns.mu.Unlock()
	within(t, "the trouble is told", func() bool { return strings.Contains(out.String(), "going on with those that are known") })
	if got, err := ask(r.Addr(), ""); err != nil || got != "one:" {
		t.Fatalf("while DNS has trouble: %q, %v", got, err)
	}
	dns.mu.Lock()
	dns.err = nil
	dns.records = map[string][]*net.SRV{"etcd-client-x": {{Target: "127.0.0.1.", Port: portOf(two)}}}
	dns.mu.Unlock()
	within(t, "the new endpoint is used", func() bool { got, err := ask(r.Addr(), ""); return err == nil && got == "two:" })
}

func TestWithoutTLSNothingIsDiscoveredUnlessAllowed(t *testing.T) {
	plain := map[string][]*net.SRV{"etcd-client": {{Target: "127.0.0.1.", Port: 1}}}
	for _, c := range []struct {
		name    string
		srv     SRV
		records map[string][]*net.SRV
		err     error
		want    string
	}{
		{"only records without TLS", SRV{"ex", "", false}, plain, nil, "name 1 without TLS, which --insecure-discovery would accept"},
		{"no records", SRV{"ex", "", true}, nil, nil, "_etcd-client-ssl._tcp.ex"},
		{"trouble", SRV{"ex", "", true}, plain, errors.New("no answer"), "no answer"},
		{"allowed", SRV{"ex", "", true}, plain, nil, ""},
	} {
		r, err := New(t.Context(), Options{Listen: "127.0.0.1:0", SRV: c.srv, Endpoints: []string{"127.0.0.1:2379"}},
			Parts{Log: slog.New(slog.DiscardHandler), Resolver: &names{records: c.records, err: c.err}})
		if c.want != "" {
			contains(t, err, c.want)
			continue
		}
		must(t, err)
		if got := r.targets.names(); len(got) != 1 || got[0] != "127.0.0.1:1" {
			t.Errorf("%s: endpoints %v", c.name, got)
		}
		must(t, r.Close())
	}
}

// TestAdvisoryEndpointsOfTheCommandLineAreAuthenticatedToo is CVE-2020-15136:
// etcd's gateway looks only at endpoints that DNS tells, and then only whether they
// accept a connection.
func TestAdvisoryEndpointsOfTheCommandLineAreAuthenticatedToo(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	good := secureMember(t, "good", &tls.Config{Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}})
	bad := secureMember(t, "bad", &tls.Config{Certificates: []tls.Certificate{others.sign(t, "127.0.0.1")}})
	misnamed := secureMember(t, "misnamed", &tls.Config{Certificates: []tls.Certificate{ours.sign(t, "127.0.0.9")}})
	plain := echo(t, "plain")
	var all []string
	for _, l := range []net.Listener{bad, misnamed, plain, good} {
		all = append(all, l.Addr().String())
	}
	r, out, status, _ := run(t, Options{Endpoints: all, TrustedCAFile: ours.file, RetryDelay: time.Hour}, nil)
	for range 12 {
		if got, err := askTLS(r.Addr(), ours, "127.0.0.1"); err != nil || got != "good:hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	within(t, "one of four is active", func() bool { text, _ := status.now(); return strings.Contains(text, "1 of 4") })
	if n := strings.Count(out.String(), "is not accepted"); n < 3 {
		t.Errorf("%d refusals are told in\n%s", n, out)
	}
	_, err := New(t.Context(), Options{Listen: "127.0.0.1:0", Endpoints: []string{"http://127.0.0.1:1"}, TrustedCAFile: ours.file},
		Parts{Log: slog.New(slog.DiscardHandler)})
	contains(t, err, "is insecure, but --trusted-ca-file demands a certificate")
}

// TestWhenNoEndpointIsAuthenticClientsAreTurnedAway: that all have failed is no
// reason to send a client to one that was refused.
func TestWhenNoEndpointIsAuthenticClientsAreTurnedAway(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	bad := secureMember(t, "bad", &tls.Config{Certificates: []tls.Certificate{others.sign(t, "127.0.0.1")}})
	r, _, _, _ := run(t, Options{Endpoints: []string{bad.Addr().String()}, TrustedCAFile: ours.file, RetryDelay: time.Hour}, nil)
	if got, err := askTLS(r.Addr(), others, "127.0.0.1"); err == nil {
		t.Errorf("a client was sent there: %q", got)
	}
}

// TestAdvisoryThatAnEndpointAcceptsConnectionsIsNotEnough is GHSA-j86v-2vjr-fg8f:
// etcd's gateway takes an endpoint of DNS for a member with TLS when it accepts a
// connection.
func TestAdvisoryThatAnEndpointAcceptsConnectionsIsNotEnough(t *testing.T) {
	ours, plain := newAuthority(t), echo(t, "plain")
	dns := &names{records: map[string][]*net.SRV{"etcd-client-ssl": {{Target: "127.0.0.1", Port: portOf(plain)}}}}
	r, out, status, _ := run(t, Options{SRV: SRV{Domain: "ex.test"}, TrustedCAFile: ours.file, DialTimeout: 300 * time.Millisecond, RetryDelay: time.Hour}, dns)
	within(t, "it is refused", func() bool { return strings.Contains(out.String(), "is not accepted") })
	if got, _ := ask(r.Addr(), "x"); got != "" {
		t.Errorf("a client was sent there: %q", got)
	}
	if text, ready := status.now(); ready {
		t.Error(text)
	}
}

// TestAdvisoryAnEndpointIsAuthenticatedAgain is GHSA-h8g9-6gvh-5mrc: etcd's gateway
// looks at endpoints once, at its start.
func TestAdvisoryAnEndpointIsAuthenticatedAgain(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	shows := &atomic.Pointer[tls.Certificate]{}
	good, bad := ours.sign(t, "127.0.0.1"), others.sign(t, "127.0.0.1")
	shows.Store(&good)
	member := secureMember(t, "m", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shows.Load(), nil }})
	r, out, status, _ := run(t, Options{Endpoints: []string{member.Addr().String()}, TrustedCAFile: ours.file, RetryDelay: 20 * time.Millisecond}, nil)
	within(t, "it is active", func() bool { _, ready := status.now(); return ready })
	shows.Store(&bad)
	within(t, "it is refused", func() bool { return strings.Contains(out.String(), "deactivated endpoint") })
	if got, err := askTLS(r.Addr(), others, "127.0.0.1"); err == nil {
		t.Errorf("a client was sent there: %q", got)
	}
}

// TestAMemberThatAsksForACertificateIsStillAuthentic: the client has one, the
// gateway has not.
func TestAMemberThatAsksForACertificateIsStillAuthentic(t *testing.T) {
	ours := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		member := secureMember(t, "m", &tls.Config{
			Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: version,
		})
		_, _, status, _ := run(t, Options{Endpoints: []string{member.Addr().String()}, TrustedCAFile: ours.file}, nil)
		within(t, "it is active", func() bool { _, ready := status.now(); return ready })
	}
}

// TestAuthoritiesAreReadAgain: a file that is replaced counts from the next look.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	member := secureMember(t, "m", &tls.Config{Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}})
	r, out, status, _ := run(t, Options{Endpoints: []string{member.Addr().String()}, TrustedCAFile: others.file, RetryDelay: time.Hour}, nil)
	within(t, "it is refused", func() bool { return strings.Contains(out.String(), "is not accepted") })
	text, err := os.ReadFile(ours.file)
	must(t, err)
	must(t, os.WriteFile(others.file, text, 0o600))
	r.Again()
	within(t, "it is active", func() bool { _, ready := status.now(); return ready })
}

// serveDNS starts a real name service. Records are options of dnsmasq.
func serveDNS(t *testing.T, records ...string) *net.Resolver {
	t.Helper()
	program, err := exec.LookPath("dnsmasq")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			t.Skip("dnsmasq is not there; Debian's package is dnsmasq-base")
		}
	}
	self, err := user.Current()
	must(t, err)
	for range 6 { // somebody else may have taken the port
		address := netip.MustParseAddrPort(freeport.Address(t))
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address.String())
		}}
		said := &bytes.Buffer{}
		process := exec.Command(program, append([]string{
			"--keep-in-foreground", "--user=" + self.Username, "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/", "--pid-file=",
			"--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprintf("--port=%d", address.Port()),
		}, records...)...)
		process.Stderr = said
		must(t, process.Start())
		ended := make(chan struct{})
		go func() { process.Wait(); close(ended) }()
		t.Cleanup(func() { process.Process.Kill(); <-ended })
		if answers(t, resolver, ended) {
			return resolver
		}
		<-ended
		t.Logf("dnsmasq ended: %s", said)
	}
	t.Fatal("dnsmasq does not run")
	return nil
}

func answers(t *testing.T, resolver *net.Resolver, ended <-chan struct{}) (yes bool) {
	within(t, "dnsmasq answers or ends", func() bool {
		_, err := resolver.LookupNetIP(t.Context(), "ip4", "up.ex.test")
		var problem *net.DNSError
		yes = err == nil || errors.As(err, &problem) && problem.IsNotFound
		select {
		case <-ended:
			return true
		default:
			return yes
		}
	})
	return yes
}

// TestARealNameServiceTellsTheMembers: TLS from end to end, by priority and
// weight; the certificate is the host's or the domain's.
func TestARealNameServiceTellsTheMembers(t *testing.T) {
	ours := newAuthority(t)
	members := map[string]net.Listener{}
	for name, named := range map[string]string{"first": "n1.ex.test", "heavy": "ex.test", "last": "n3.ex.test", "false": "n9.ex.test"} {
		members[name] = secureMember(t, name, &tls.Config{Certificates: []tls.Certificate{ours.sign(t, named), ours.sign(t, "service.test")}})
	}
	record := func(host, member string, priority, weight int) string {
		return fmt.Sprintf("--srv-host=_etcd-client-ssl._tcp.ex.test,%s.ex.test,%d,%d,%d", host, portOf(members[member]), priority, weight)
	}
	resolver := serveDNS(t,
		record("n1", "first", 10, 1), record("n2", "heavy", 10, 9), record("n3", "last", 20, 0), record("n4", "false", 5, 1),
		"--srv-host=_etcd-client._tcp.ex.test,n1.ex.test,1,0,1",
		"--host-record=n1.ex.test,n2.ex.test,n3.ex.test,n4.ex.test,127.0.0.1")
	r, out, status, _ := run(t, Options{SRV: SRV{Domain: "ex.test"}, TrustedCAFile: ours.file, RetryDelay: time.Hour}, resolver)
	within(t, "all but the false one are active", func() bool { text, ready := status.now(); return ready && strings.Contains(text, "3 of 4") })
	for _, want := range []string{"endpoints without TLS are left out", "n4.ex.test"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	got := map[string]int{}
	for range 60 {
		answer, err := askTLS(r.Addr(), ours, "service.test")
		must(t, err)
		got[answer]++
	}
	if got["first:hello"] == 0 || got["heavy:hello"] < 35 || got["first:hello"]+got["heavy:hello"] != 60 {
		t.Errorf("%v", got)
	}
	members["first"].Close()
	members["heavy"].Close()
	if answer, err := askTLS(r.Addr(), ours, "service.test"); err != nil || answer != "last:hello" {
		t.Errorf("when the better ones are gone: %q, %v", answer, err)
	}
}
