package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kvd/internal/freeport"
	"kvd/internal/proxy"
)

// proxyFlags are those of a proxy of members at some client URLs.
func proxyFlags(dir, endpoints string, more ...string) []string {
	return append([]string{
		"--config-file=", "--proxy=on", "--data-dir=" + filepath.Join(dir, "proxy-data"), "--proxy-endpoints=" + endpoints,
		"--listen-client-urls=http://127.0.0.1:0", "--proxy-failure-wait=100ms",
	}, more...)
}

// seen is what /proxy/endpoints tells.
func seen(t *testing.T, at string) (all []proxy.Endpoint, readOnly bool) {
	t.Helper()
	status, head, body := ask(t, at+"/proxy/endpoints")
	var answer struct {
		ReadOnly  bool
		Endpoints []proxy.Endpoint
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || head.Get("Content-Type") != "application/json" {
		t.Fatalf("%d, %v: %s", status, err, body)
	}
	return answer.Endpoints, answer.ReadOnly
}

// TestAProxyIsReadyOnceAMemberIsConnected: systemd is told so, and before that
// what is waited for, and that it takes longer.
func TestAProxyIsReadyOnceAMemberIsConnected(t *testing.T) {
	place := freeport.Address(t)
	m, notifier := newManager(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int((300 * time.Millisecond).Microseconds())))
	metrics := freeport.Address(t)
	p := run(t, Inputs{
		Config:   configured(t, proxyFlags(t.TempDir(), "http://"+place, "--listen-metrics-urls=http://"+metrics)...),
		Notifier: notifier,
	})
	m.expect(t, "STATUS=proxy, 0 of 1 endpoints connected", "")
	m.expect(t, "EXTEND_TIMEOUT_USEC=", "")
	m.expect(t, "WATCHDOG=1", "")
	if m.position("READY=1") >= 0 {
		t.Error("it was ready without a member")
	}
	for page, want := range map[string]int{
		"/proxy/health": http.StatusServiceUnavailable, "/health": http.StatusServiceUnavailable, "/readyz": http.StatusServiceUnavailable, "/metrics": http.StatusOK,
	} {
		if status, _, body := ask(t, "http://"+metrics+page); status != want {
			t.Errorf("%s: %d, want %d: %s", page, status, want, body)
		}
	}

	member := start(t, append(flags(t.TempDir()), "--listen-client-urls=http://"+place)...)
	m.expect(t, "READY=1", "STATUS=proxy, 1 of 1 endpoints connected")
	must(t, put(t, p.dial(t), "k", "v"))
	m.expect(t, "WATCHDOG=1", "")
	must(t, member.stop(t))
	m.expect(t, "STATUS=proxy, 0 of 1 endpoints connected", "")
	must(t, p.stop(t))
	m.expect(t, "STOPPING=1", "")
}

// TestAProxyTellsHowItIsAndHowItSeesTheMembers on client and metrics ports.
func TestAProxyTellsHowItIsAndHowItSeesTheMembers(t *testing.T) {
	t.Parallel()
	place, nowhere := freeport.Address(t), freeport.Address(t)
	member := start(t, append(flags(t.TempDir()), "--listen-client-urls=http://"+place)...)
	metrics := "http://" + freeport.Address(t)
	p := start(t, proxyFlags(t.TempDir(), "http://"+place+",http://"+nowhere, "--listen-metrics-urls="+metrics, "--proxy=readonly", "--host-whitelist=127.0.0.1")...)
	client := "http://" + p.client(t)
	waitFor(t, func() bool {
		all, readOnly := seen(t, client)
		return len(all) == 2 && readOnly && all[0].URL == "http://"+place && all[0].State == "ready" && !all[0].Since.IsZero() &&
			all[1].URL == "http://"+nowhere && all[1].State != "ready" && all[1].Reason != ""
	})
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	heard := p.dial(t).Watch(watching, "k")
	waitFor(t, func() bool {
		_, _, body := ask(t, metrics+"/metrics")
		return strings.Contains(body, "etcd_grpc_proxy_watchers_coalescing_total 1") && strings.Contains(body, "kvd_proxy_member_watches 1")
	})
	must(t, put(t, member.dial(t), "k", "v"))
	if r := <-heard; r.Err() != nil || len(r.Events) != 1 {
		t.Errorf("heard %v, %v", r.Events, r.Err())
	}
	for _, at := range []string{client, metrics} {
		for page, want := range map[string]string{
			"/proxy/health": `{"health":"true","reason":""}`, "/health": `"true"`, "/readyz": "ok", "/livez": "ok",
			"/metrics": "etcd_grpc_proxy_events_coalescing_total 1", "/proxy/metrics": "etcd_grpc_proxy_events_coalescing_total 1",
		} {
			if status, _, body := ask(t, at+page); status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s%s: %d, want %s: %.300s", at, page, status, want, body)
			}
		}
		if all, _ := seen(t, at); len(all) != 2 {
			t.Errorf("%s tells %v", at, all)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, client+"/proxy/endpoints", nil)
	must(t, err)
	if status, _, _ := tell(t, http.DefaultClient, r); status != http.StatusMethodNotAllowed {
		t.Errorf("a POST: %d", status)
	}
	// A page that DNS rebinding has led here (CVE-2018-1099) learns nothing.
	if status, _, body := ask(t, client+"/proxy/endpoints", func(r *http.Request) { r.Host = "evil.example" }); status != http.StatusMisdirectedRequest {
		t.Errorf("for another host: %d: %s", status, body)
	}

	must(t, member.stop(t))
	waitFor(t, func() bool {
		status, _, body := ask(t, client+"/proxy/health")
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"health":"false"`)
	})
	if status, _, body := ask(t, client+"/health"); status != http.StatusServiceUnavailable {
		t.Errorf("/health without members: %d: %s", status, body)
	}
}

// TestAProxySpeaksTLSOnBothSidesAndReloadsIt: its certificate is changed on
// SIGHUP and by a change of the file, and so is what it shows to members and the
// authority that it trusts.
func TestAProxySpeaksTLSOnBothSidesAndReloadsIt(t *testing.T) {
	t.Parallel()
	a, dir, place := newAuthority(t), t.TempDir(), freeport.Address(t)
	for _, name := range []string{"first", "second", "member"} {
		a.leaf(t, name, "127.0.0.1")
	}
	alice := a.leaf(t, "alice", "127.0.0.1")
	start(t, append(flags(t.TempDir()),
		"--listen-client-urls=https://"+place, "--advertise-client-urls=https://"+place, "--client-cert-auth",
		"--cert-file="+a.path("member.crt"), "--key-file="+a.path("member.key"), "--trusted-ca-file="+a.path("ca.crt"))...)
	a.install(t, "first", a.path("now.crt"), a.path("now.key"))
	args := proxyFlags(dir, "https://"+place,
		"--listen-client-urls=https://127.0.0.1:0", "--client-cert-auth",
		"--cert-file="+a.path("now.crt"), "--key-file="+a.path("now.key"), "--trusted-ca-file="+a.path("ca.crt"))
	p := start(t, args...)
	address := p.client(t)
	trust := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{alice}}
	c := secureClient(t, address, trust)
	must(t, put(t, c, "k", "v"))
	if got := shown(t, address, trust); got != "first" {
		t.Errorf("it shows %s", got)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := secureClient(t, address, &tls.Config{RootCAs: a.pool}).Put(soon, "k", "v"); err == nil {
		t.Error("who shows nothing was let in")
	}

	a.install(t, "second", a.path("now.crt"), a.path("now.key")) // found by looking
	waitFor(t, func() bool { return shown(t, address, trust) == "second" })
	a.install(t, "first", a.path("now.crt"), a.path("now.key"))
	p.reload <- Reread{Config: configured(t, args...)}
	waitFor(t, func() bool { return shown(t, address, trust) == "first" })
	must(t, put(t, c, "k", "w"))

	must(t, os.WriteFile(a.path("now.key"), []byte("no key"), 0o600))
	p.log.wait(t, notInService, 0)
	if got := shown(t, address, trust); got != "first" {
		t.Errorf("with a fault in the new files it shows %s", got)
	}
	must(t, put(t, secureClient(t, address, trust), "k", "x"))
}

// TestAProxyTakesNewFilesTowardsMembers: it takes a new authority and a new
// certificate into use for the connections that it makes from then on.
func TestAProxyTakesNewFilesTowardsMembers(t *testing.T) {
	t.Parallel()
	ours, others, place := newAuthority(t), newAuthority(t), freeport.Address(t)
	ours.leaf(t, "member", "127.0.0.1")
	ours.leaf(t, "front", "127.0.0.1")
	others.leaf(t, "stranger", "127.0.0.1")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	others.install(t, "stranger", at("now.crt"), at("now.key"))
	others.install(t, "ca", at("ca.crt"), "")
	start(t, append(flags(t.TempDir()),
		"--listen-client-urls=https://"+place, "--advertise-client-urls=https://"+place, "--client-cert-auth",
		"--cert-file="+ours.path("member.crt"), "--key-file="+ours.path("member.key"), "--trusted-ca-file="+ours.path("ca.crt"))...)
	p := run(t, Inputs{Config: configured(t, proxyFlags(dir, "https://"+place,
		"--cert-file="+at("now.crt"), "--key-file="+at("now.key"), "--trusted-ca-file="+at("ca.crt"))...)})
	p.log.wait(t, "an endpoint is set aside", 0)
	ours.install(t, "ca", at("ca.crt"), "")
	ours.install(t, "front", at("now.crt"), at("now.key"))
	p.ready(t)
	must(t, put(t, p.dial(t), "k", "v"))
}
