package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"kvd/internal/freeport"
	"kvd/internal/listen"
)

// install puts a certificate and its key where a member has its own.
func (a *authority) install(t *testing.T, name, cert, key string) {
	t.Helper()
	for from, to := range map[string]string{name + ".crt": cert, name + ".key": key} {
		if to == "" {
			continue
		}
		must(t, os.WriteFile(to+".new", []byte(read(t, a.path(from))), 0o600))
		must(t, os.Rename(to+".new", to))
	}
}

// shown is the common name that a port shows.
func shown(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	must(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

const (
	inService    = "the files of client TLS are in service as they are now"
	notInService = "the new files of client TLS are not used, the old ones stay in service"
)

// secureFlags are those of a member that serves clients over TLS with the files
// of an authority.
func secureFlags(a *authority, dir string, more ...string) []string {
	return append(flags(dir), append([]string{
		"--listen-client-urls=https://127.0.0.1:0",
		"--cert-file=" + a.path("now.crt"), "--key-file=" + a.path("now.key"),
	}, more...)...)
}

func TestCertificatesAreRenewedUnderLoadWithoutALostConnection(t *testing.T) {
	t.Parallel()
	a, dir := newAuthority(t), t.TempDir()
	for _, name := range []string{"first", "second"} {
		a.leaf(t, name, "127.0.0.1")
	}
	a.install(t, "first", a.path("now.crt"), a.path("now.key"))
	args := secureFlags(a, dir)
	d := start(t, args...)
	address := d.client(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	var dials, puts atomic.Int64
	const clients = 4
	for i := range clients {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{"https://" + address}, Logger: zap.NewNop(), TLS: &tls.Config{RootCAs: a.pool},
			DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				dials.Add(1)
				return (&net.Dialer{}).DialContext(ctx, "tcp", address)
			})},
		})
		must(t, err)
		defer c.Close()
		writers.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Put(ctx, fmt.Sprint("k", i), "v"); err != nil && ctx.Err() == nil {
					t.Errorf("a put failed: %v", err)
					return
				}
				puts.Add(1)
			}
		})
	}
	for i := range 4 {
		before := puts.Load()
		name := []string{"second", "first"}[i%2]
		a.install(t, name, a.path("now.crt"), a.path("now.key"))
		if i >= 2 { // the others are found by looking
			d.reload <- Reread{Config: configured(t, args...)}
		}
		waitFor(t, func() bool { return shown(t, address, &tls.Config{RootCAs: a.pool}) == name })
		waitFor(t, func() bool { return puts.Load() > before })
	}
	cancel()
	writers.Wait()
	if n := dials.Load(); n != clients {
		t.Errorf("%d connections were made for %d clients", n, clients)
	}
}

func TestFilesWithAFaultStayOutOfService(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	for _, name := range []string{"first", "second"} {
		a.leaf(t, name, "127.0.0.1")
	}
	a.install(t, "first", a.path("now.crt"), a.path("now.key"))
	manager, notifier := newManager(t)
	args := secureFlags(a, dir)
	d := run(t, Inputs{Config: configured(t, args...), Notifier: notifier})
	d.ready(t)
	trust := &tls.Config{RootCAs: a.pool}
	if conn, err := tls.Dial("tcp", d.client(t), &tls.Config{}); err == nil { // which trusts it not
		conn.Close()
		t.Error("a stranger trusts the member")
	}
	waitFor(t, func() bool {
		return d.metrics(t)[`kvd_tls_rejected_connections_total{option="listen-client-urls"}`] == 1
	})

	a.install(t, "second", a.path("now.crt"), "") // and its key does not come
	refused := d.log.wait(t, notInService, 0)
	if field(refused, "message_id") != messageCredentialsRefused || !strings.Contains(field(refused, "error"), "now.key") {
		t.Errorf("refused with %s, %s", field(refused, "message_id"), field(refused, "error"))
	}
	if got := shown(t, d.client(t), trust); got != "first" {
		t.Errorf("it shows %s", got)
	}
	must(t, put(t, secureClient(t, d.client(t), trust), "k", "v"))
	if m := d.metrics(t); m[`kvd_tls_files_refused{side="client"}`] != 1 || m[`kvd_tls_reloads_total{result="refused",side="client"}`] != 1 {
		t.Errorf("metrics: %v, %v", m[`kvd_tls_files_refused{side="client"}`], m[`kvd_tls_reloads_total{result="refused",side="client"}`])
	}
	manager.expect(t, "STATUS=", "new files of client TLS are not used")

	d.reload <- Reread{Config: configured(t, args...)} // says it again to who asks again
	d.log.wait(t, notInService, 1)

	a.install(t, "second", "", a.path("now.key"))
	replaced := d.log.wait(t, inService, 0)
	if field(replaced, "message_id") != messageCredentials {
		t.Errorf("replaced with %s", field(replaced, "message_id"))
	}
	if got := shown(t, d.client(t), trust); got != "second" {
		t.Errorf("it shows %s", got)
	}
	if m := d.metrics(t); m[`kvd_tls_files_refused{side="client"}`] != 0 {
		t.Error("metrics still say that the files are refused")
	}
}

func TestAReloadTakesOtherFilesOfTLS(t *testing.T) {
	t.Parallel()
	a, dir := newAuthority(t), t.TempDir()
	for _, name := range []string{"now", "other"} {
		a.leaf(t, name, "127.0.0.1")
	}
	d := start(t, secureFlags(a, dir)...)
	trust := &tls.Config{RootCAs: a.pool}
	d.reload <- Reread{Config: configured(t, secureFlags(a, dir, "--cert-file="+a.path("other.crt"), "--key-file="+a.path("other.key"))...)}
	d.log.wait(t, inService, 0)
	if got := shown(t, d.client(t), trust); got != "other" {
		t.Errorf("it shows %s", got)
	}
	d.reload <- Reread{Config: configured(t, secureFlags(a, dir, "--cert-file="+a.path("absent.crt"), "--key-file="+a.path("other.key"))...)}
	d.log.wait(t, notInService, 0)
	if got := shown(t, d.client(t), trust); got != "other" {
		t.Errorf("it shows %s", got)
	}
}

func TestACertificateThatExpiresSoonIsWarnedOf(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.valid, a.since = 10*24*time.Hour+time.Hour, 80*24*time.Hour
	a.leaf(t, "now", "127.0.0.1")
	manager, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, secureFlags(a, dir)...), Notifier: notifier})
	d.ready(t)
	warning := d.log.wait(t, "the certificate of client TLS expires soon: renew it, kvd takes the new one by itself", 0)
	if field(warning, "message_id") != messageExpires || field(warning, "days-left") != "10" || field(warning, "file") != a.path("now.crt") {
		t.Errorf("warned with %s, %s days, %s", field(warning, "message_id"), field(warning, "days-left"), field(warning, "file"))
	}
	manager.expect(t, "READY=1", "the certificate of client TLS expires in 10 days")
	at := d.metrics(t)[`kvd_tls_expiry_timestamp_seconds{side="client",what="certificate"}`]
	if left := time.Until(time.Unix(int64(at), 0)); left < 9*24*time.Hour || left > 11*24*time.Hour {
		t.Errorf("by the metrics it expires in %s", left)
	}

	a.valid = 90 * 24 * time.Hour
	a.leaf(t, "now", "127.0.0.1")
	d.log.wait(t, inService, 0)
	if remark := (*side)(nil).remark(time.Now()); remark != "" {
		t.Errorf("without TLS: %q", remark)
	}
	for limit := time.Now().Add(patience); strings.Contains(manager.expect(t, "STATUS=", "in use"), "expires"); {
		if time.Now().After(limit) {
			t.Fatal("the status line goes on warning")
		}
	}
}

func TestTheLastThirdOfAShortLifeIsWarnedOf(t *testing.T) {
	a := newAuthority(t)
	for left, want := range map[time.Duration]int{9 * time.Hour: 0, 7 * time.Hour: 1, -time.Hour: 1} {
		a.valid, a.since = left, 24*time.Hour-left
		a.leaf(t, "short", "127.0.0.1")
		c, err := listen.NewCredentials(listen.Files{Cert: a.path("short.crt"), Key: a.path("short.key")}, listen.Terms{})
		must(t, err)
		if got := (&side{Credentials: c}).expiring(time.Now()); len(got) != want {
			t.Errorf("with %s left of a day: %v", left, got)
		}
	}
}

func TestMembersRenewCertificatesAndAuthoritiesWhileTheyRun(t *testing.T) {
	t.Parallel()
	old, fresh := newAuthority(t), newAuthority(t)
	old.leaf(t, "peer", "127.0.0.1")
	fresh.leaf(t, "peer", "127.0.0.1")
	cert, key, ca := old.path("now.crt"), old.path("now.key"), old.path("trusted.crt")
	trust := func(text string) {
		must(t, os.WriteFile(ca+".new", []byte(text), 0o600))
		must(t, os.Rename(ca+".new", ca))
	}
	old.install(t, "peer", cert, key)
	trust(read(t, old.path("ca.crt")))
	all := clusterOf(t, 3, "https",
		"--peer-cert-file="+cert, "--peer-key-file="+key, "--peer-trusted-ca-file="+ca, "--peer-client-cert-auth")
	turn := 0
	renewed := func() {
		t.Helper()
		for _, d := range all {
			d.log.wait(t, "the files of peer TLS are in service as they are now", turn)
		}
		turn++
	}
	trust(read(t, old.path("ca.crt")) + read(t, fresh.path("ca.crt")))
	renewed()
	fresh.install(t, "peer", cert, key)
	renewed()
	trust(read(t, fresh.path("ca.crt")))
	renewed()

	// A member that starts again has new connections only.
	must(t, all[2].stop(t))
	config := all[2].config
	again := run(t, Inputs{Config: config})
	again.ready(t)
	must(t, put(t, again.dial(t), "k", "v"))
	if got := get(t, all[0].dial(t), "k"); got != "v" {
		t.Errorf("k is %q", got)
	}
}

func TestOneAddressServesClientsOverTLSAndInPlainText(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	address := freeport.Address(t)
	d := start(t, secureFlags(a, t.TempDir(), "--listen-client-urls=http://"+address+",https://"+address)...)
	d.log.wait(t, "serving client traffic insecurely; this is strongly discouraged!", 0)
	d.log.wait(t, "serving client traffic securely", 0)
	must(t, put(t, secureClient(t, address, &tls.Config{RootCAs: a.pool}), "k", "secure"))
	if got := get(t, dial(t, address), "k"); got != "secure" {
		t.Errorf("k is %q", got)
	}
	if status, _, body := ask(t, "http://"+address+"/health"); status != 200 {
		t.Errorf("%d: %s", status, body)
	}
}
