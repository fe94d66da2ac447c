package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kvd/internal/freeport"
	"kvd/internal/member"
)

// zone is a name service with SRV records, written "name target port".
type zone struct {
	hosts
	records []string
	trouble map[string]int // how often a service's look-up fails before it works
	asked   []string
}

func (z *zone) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := "_" + service + "._" + proto + "." + name
	z.asked = append(z.asked, full)
	if z.trouble[service] > 0 {
		z.trouble[service]--
		return "", nil, &net.DNSError{Err: "server misbehaving", Name: full, IsTemporary: true}
	}
	var all []*net.SRV
	for _, text := range z.records {
		var r net.SRV
		var at string
		if _, err := fmt.Sscan(text, &at, &r.Target, &r.Port); err != nil {
			return "", nil, err
		}
		if at == full {
			all = append(all, &r)
		}
	}
	if len(all) == 0 {
		return "", nil, &net.DNSError{Err: "no such host", Name: full, IsNotFound: true}
	}
	return full, all, nil
}

func TestSeedsFromDNS(t *testing.T) {
	names := hosts{"n1.ex": "10.0.0.1", "n2.ex": "10.0.0.2", "n3.ex": "10.0.0.3", "other.ex": "10.0.0.1"}
	plain := []string{"_etcd-server._tcp.ex n2.ex. 2380", "_etcd-server._tcp.ex n1.ex. 2380", "_etcd-server._tcp.ex n3.ex. 2380"}
	secure := []string{"_etcd-server-ssl._tcp.ex n2.ex. 2380", "_etcd-server-ssl._tcp.ex n1.ex. 2380"}
	for _, c := range []struct {
		name       string
		srv        SRV
		records    []string
		trouble    map[string]int
		advertised string
		seeds      string // as the initial cluster is written
		want       string // of the error
		within     time.Duration
	}{
		{"http", SRV{"ex", ""}, plain, nil, "http://n1.ex:2380", "0=http://n2.ex:2380,1=http://n3.ex:2380,n1=http://n1.ex:2380", "", 0},
		{"https", SRV{"ex", ""}, secure, nil, "https://n1.ex:2380", "0=https://n2.ex:2380,n1=https://n1.ex:2380", "", 0},
		{
			"a suffix",
			SRV{"ex", "blue"},
			[]string{"_etcd-server-blue._tcp.ex n1.ex. 1", "_etcd-server-ssl-blue._tcp.ex n2.ex. 2", "_etcd-server._tcp.ex n3.ex. 3"},
			nil, "http://n1.ex:1", "0=https://n2.ex:2,n1=http://n1.ex:1", "", 0,
		},
		{"advertised by address", SRV{"ex", ""}, plain[:2], nil, "http://10.0.0.1:2380", "0=http://n2.ex:2380,n1=http://n1.ex:2380", "", 0},
		{
			"another port is another member",
			SRV{"ex", ""},
			append([]string{"_etcd-server._tcp.ex n1.ex. 1"}, plain[1]), nil,
			"http://n1.ex:2380", "0=http://n1.ex:1,n1=http://n1.ex:2380", "", 0,
		},
		{
			"two records lead here",
			SRV{"ex", ""},
			append([]string{"_etcd-server._tcp.ex other.ex. 2380"}, plain...), nil,
			"http://n1.ex:2380", "", "--initial-cluster has n1=http://other.ex:2380 but missing from --initial-advertise-peer-urls=http://n1.ex:2380", 0,
		},
		{"both services", SRV{"ex", ""}, append(plain[1:2:2], secure[0]), nil, "http://n1.ex:2380", "0=https://n2.ex:2380,n1=http://n1.ex:2380", "", 0},
		{
			"trouble that ends",
			SRV{"ex", ""},
			plain[:2],
			map[string]int{"etcd-server": 3},
			"http://n1.ex:2380",
			"0=http://n2.ex:2380,n1=http://n1.ex:2380", "", 4 * time.Second,
		},
		{
			"trouble with the other service",
			SRV{"ex", ""},
			plain[:2],
			map[string]int{"etcd-server-ssl": 99},
			"http://n1.ex:2380",
			"0=http://n2.ex:2380,n1=http://n1.ex:2380", "", 31 * time.Second,
		},

		{
			"no records",
			SRV{"nothing.ex", ""},
			plain, nil, "http://n1.ex:2380", "",
			"error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup _etcd-server-ssl._tcp.nothing.ex: no such host\n" +
				"error querying DNS SRV records for _etcd-server lookup _etcd-server._tcp.nothing.ex: no such host", 0,
		},
		{
			"it is not there",
			SRV{"ex", ""},
			plain[:1], nil, "http://n1.ex:2380", "",
			`error setting up initial cluster: cannot find local etcd member "n1" in SRV records`, 0,
		},
		{
			"the other scheme",
			SRV{"ex", ""},
			plain[1:2], nil, "https://n1.ex:2380", "",
			"error querying DNS SRV records for _etcd-server bootstrap at http://n1.ex:2380 from DNS for etcd-server has scheme mismatch with expected peer https://n1.ex:2380", 0,
		},
		{"the other scheme, and others", SRV{"ex", ""}, plain, nil, "https://n1.ex:2380", "", `cannot find local etcd member "n1" in SRV records`, 0},
		{
			"no address",
			SRV{"ex", ""},
			append([]string{"_etcd-server._tcp.ex gone.ex. 1"}, plain...), nil, "http://n1.ex:2380", "",
			"an SRV record of _etcd-server._tcp.ex names gone.ex, which has no address yet (no such host)", 32 * time.Second,
		},
		{
			"no address of its own",
			SRV{"ex", ""},
			plain, nil, "http://gone.ex:2380", "",
			"error querying DNS SRV records for _etcd-server no such host", 62 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			synctest.Test(t, func(t *testing.T) {
				out := &logged{}
				o := alone(dir)
				o.Cluster, o.SRV, o.Advertised, o.Logger = nil, c.srv, []string{c.advertised}, out.logger()
				o.Resolver = &zone{hosts: names, records: c.records, trouble: c.trouble}
				o.complete()
				began := time.Now()
				born, err := o.birth(t.Context())
				if took := time.Since(began); took > c.within {
					t.Errorf("it took %v", took)
				}
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%v\nwant %s", err, c.want)
					}
					return
				}
				must(t, err)
				o.SRV = SRV{}
				o.Cluster = seed(c.seeds)
				same, err := o.birth(t.Context())
				must(t, err)
				got, err := json.Marshal(born.changes)
				must(t, err)
				if want, err := json.Marshal(same.changes); err != nil || string(got) != string(want) || born.self != same.self || born.cluster != same.cluster {
					t.Errorf("born of DNS\n%s\nof the same as initial cluster\n%s", got, want)
				}
				for _, line := range []string{
					"get cluster for etcd-server-ssl", "get cluster for etcd-server", "got bootstrap from DNS for etcd-server",
				} {
					if !strings.Contains(out.String(), line) {
						t.Errorf("no line %q in\n%s", line, out)
					}
				}
			})
		})
	}
}

// dns is dnsmasq on a port of its own.
type dns struct {
	process  *exec.Cmd
	hosts    string // file of addresses that may be changed
	resolver *net.Resolver
}

// serveDNS starts a real name service for the domain ex.test. Records are
// options of dnsmasq.
func serveDNS(t *testing.T, records ...string) *dns {
	t.Helper()
	program, err := exec.LookPath("dnsmasq")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			t.Skip("dnsmasq is not there; Debian's package is dnsmasq-base")
		}
	}
	d := &dns{hosts: filepath.Join(t.TempDir(), "hosts")}
	self, err := user.Current() // it would be somebody who cannot read the file
	must(t, err)
	must(t, os.WriteFile(d.hosts, nil, 0o644))
	for try := 0; ; try++ {
		address := netip.MustParseAddrPort(freeport.Address(t))
		d.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address.String())
		}}
		said := &bytes.Buffer{}
		d.process = exec.Command(program, append([]string{
			"--keep-in-foreground", "--user=" + self.Username, "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/", "--pid-file=",
			"--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprintf("--port=%d", address.Port()), "--addn-hosts=" + d.hosts,
		}, records...)...)
		d.process.Stderr = said
		must(t, d.process.Start())
		ended := make(chan struct{})
		go func() { d.process.Wait(); close(ended) }()
		t.Cleanup(func() { d.process.Process.Kill(); <-ended })
		err := d.answers(t, ended)
		if err == nil {
			return d
		}
		if try == 5 { // somebody else has taken the port, again and again
			<-ended
			t.Fatalf("dnsmasq does not run: %v\n%s", err, said)
		}
	}
}

// answers waits until the service does.
func (d *dns) answers(t *testing.T, ended <-chan struct{}) error {
	t.Helper()
	limit := time.After(20 * time.Second)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		_, err := d.resolver.LookupNetIP(t.Context(), "ip4", "up.ex.test")
		var problem *net.DNSError
		if err == nil || errors.As(err, &problem) && problem.IsNotFound {
			return nil
		}
		select {
		case <-ended:
			return errors.New("it has ended")
		case <-limit:
			t.Fatalf("dnsmasq does not answer: %v", err)
		case <-look.C:
		}
	}
}

func TestARealNameServiceTellsTheMembers(t *testing.T) {
	d := serveDNS(t,
		"--srv-host=_etcd-server._tcp.ex.test,n1.ex.test,31191,10,5", "--srv-host=_etcd-server._tcp.ex.test,n2.ex.test,31192,20,5",
		"--srv-host=_etcd-server._tcp.ex.test,n3.ex.test,31193", "--host-record=n1.ex.test,127.0.0.1",
		"--host-record=n2.ex.test,127.0.0.1", "--cname=n3.ex.test,n1.ex.test",
		"--srv-host=_etcd-server-ssl-x._tcp.ex.test,n1.ex.test,31191")
	var clusters []member.ClusterID
	for name, advertised := range map[string]string{"a": "http://127.0.0.1:31191", "b": "http://n2.ex.test:31192", "c": "http://n1.ex.test:31193"} {
		o := alone(t.TempDir())
		o.Name, o.Cluster, o.SRV, o.Resolver, o.Advertised = name, nil, SRV{Domain: "ex.test"}, d.resolver, []string{advertised}
		m, err := Open(t.Context(), o)
		must(t, err)
		clusters = append(clusters, m.Cluster)
		if n := len(changes(t, m)); n != 3 {
			t.Errorf("%s begins with %d members", name, n)
		}
		must(t, m.Close())
	}
	if clusters[0] != clusters[1] || clusters[0] != clusters[2] {
		t.Errorf("clusters %v", clusters)
	}
	t.Run("by another name over TLS", func(t *testing.T) {
		o := alone(t.TempDir())
		o.Cluster, o.SRV, o.Resolver, o.Advertised = nil, SRV{"ex.test", "x"}, d.resolver, []string{"https://n1.ex.test:31191"}
		m, err := Open(t.Context(), o)
		must(t, err)
		defer m.Close()
		if all := changes(t, m); len(all) != 1 || all[0].Member.PeerURLs[0] != "https://n1.ex.test:31191" {
			t.Errorf("%v", all)
		}
	})
	t.Run("a domain without", func(t *testing.T) {
		o := alone(t.TempDir())
		o.Cluster, o.SRV, o.Resolver = nil, SRV{Domain: "none.test"}, d.resolver
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Error(err)
		}
	})
}

// TestAnAddressThatComesLateIsWaitedFor: headless services publish the records
// of a host before its address.
func TestAnAddressThatComesLateIsWaitedFor(t *testing.T) {
	d := serveDNS(t,
		"--srv-host=_etcd-server._tcp.ex.test,n1.ex.test,31191", "--srv-host=_etcd-server._tcp.ex.test,late.ex.test,31192",
		"--host-record=n1.ex.test,127.0.0.1")
	o := alone(t.TempDir())
	o.Cluster, o.SRV, o.Resolver, o.Advertised = nil, SRV{Domain: "ex.test"}, d.resolver, []string{"http://n1.ex.test:31191"}
	o.Progress = func(text string) {
		if text == "resolving late.ex.test" {
			must(t, os.WriteFile(d.hosts, []byte("127.0.0.1 late.ex.test\n"), 0o644))
			must(t, d.process.Process.Signal(syscall.SIGHUP))
		}
	}
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if n := len(changes(t, m)); n != 2 {
		t.Errorf("%d members", n)
	}
}
