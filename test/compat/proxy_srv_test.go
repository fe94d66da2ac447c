package compat

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kvd/test/oracle"
)

// TestAProxyFindsTheMembersByDNS has a name service tell the members' peer URLs,
// or only where they listen for clients.
func TestAProxyFindsTheMembersByDNS(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root: the name service listens on port 53 of a loopback address")
	}
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	mustWrite(t, m, "k", "v")
	for service, at := range map[string]string{"etcd-server": m.PeerURL, "etcd-client": m.ClientURL} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(at)
			if err != nil {
				t.Fatal(err)
			}
			resolv := serveNames(t, "--srv-host=_"+service+"._tcp.ex.test,n1.ex.test,"+u.Port(), "--host-record=n1.ex.test,127.0.0.1")
			p := oracle.Launch(t, oracle.Kvd(t), oracle.Options{
				Name: "proxy", Proxy: "on", Args: []string{"--discovery-srv=ex.test", "--proxy-refresh-interval=200ms"},
				Under: []string{"unshare", "--mount", "/bin/sh", "-c", `mount --bind "` + resolv + `" /etc/resolv.conf && exec "$0" "$@"`},
			})
			if err := settles(t, func() error { return isReady(p) }); err != nil {
				t.Fatal(err)
			}
			serves(t, p, "k", "v")
		})
	}
}

// serveNames runs a name service and returns a resolv.conf that leads to it.
func serveNames(t *testing.T, records ...string) (resolv string) {
	t.Helper()
	program, err := exec.LookPath("dnsmasq")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			t.Skip("dnsmasq is not there; Debian's package is dnsmasq-base")
		}
	}
	address := net.IPv4(127, byte(1+rand.IntN(254)), byte(1+rand.IntN(254)), byte(1+rand.IntN(254))).String()
	process := exec.Command(program, append([]string{
		"--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/", "--pid-file=",
		"--listen-address=" + address, "--bind-interfaces", "--port=53",
	}, records...)...)
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	resolv = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, fmt.Appendf(nil, "nameserver %s\n", address), 0o644); err != nil {
		t.Fatal(err)
	}
	return resolv
}
