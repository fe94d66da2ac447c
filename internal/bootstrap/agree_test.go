package bootstrap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func pid() string { return strconv.Itoa(os.Getpid()) }

func TestTheClusterMustKnowThisMember(t *testing.T) {
	names := map[string]string{"n1.example": "10.0.0.1", "also.example": "10.0.0.1", "n2.example": "10.0.0.2"}
	find := hosts(names)
	for _, c := range []struct {
		name       string
		cluster    []Seed
		advertised string
		want       string // of the error; "" for none
	}{
		{"same", seed("n1=http://h:1"), "http://h:1", ""},
		{"other order", seed("n1=http://h:1,n1=http://g:1"), "http://g:1,http://h:1", ""},
		{"name and address", seed("n1=http://10.0.0.1:1"), "http://n1.example:1", ""},
		{"two names", seed("n1=http://also.example:1"), "http://n1.example:1", ""},
		{"two spellings", seed("n1=http://[::1]:1"), "http://[0:0:0:0:0:0:0:1]:1", ""},
		{"sockets", seed("n1=unix://a:1"), "unix://a:1", ""},

		{"not in it", seed("n2=http://h:1"), "http://h:1", `couldn't find local name "n1" in the initial cluster configuration`},
		{"none", nil, "http://h:1", `couldn't find local name "n1" in the initial cluster configuration`},
		{
			"other place", seed("n1=http://n2.example:1"), "http://n1.example:1",
			`--initial-cluster has n1=http://n2.example:1 but missing from --initial-advertise-peer-urls=http://n1.example:1 (resolved urls: "http://10.0.0.1:1" != "http://10.0.0.2:1")`,
		},
		{
			"other port", seed("n1=http://localhost:1"), "http://localhost:2",
			`--initial-cluster has n1=http://localhost:1 but missing from --initial-advertise-peer-urls=http://localhost:2 (resolved urls: "http://localhost:2" != "http://localhost:1")`,
		},
		{
			"more listed", seed("n1=http://h:1,n1=http://h:2"), "http://h:1",
			`--initial-cluster has n1=http://h:2 but missing from --initial-advertise-peer-urls=http://h:1 (len(["http://h:1"]) != len(["http://h:1" "http://h:2"]))`,
		},
		{
			"more advertised", seed("n1=http://h:1"), "http://h:1,http://h:2",
			`--initial-advertise-peer-urls has http://h:2 but missing from --initial-cluster=n1=http://h:1`,
		},
		{
			"unknown name", seed("n1=http://10.0.0.1:1"), "http://gone.example:1",
			`--initial-cluster has n1=http://10.0.0.1:1 but missing from --initial-advertise-peer-urls=http://gone.example:1 (failed to resolve "http://gone.example:1" (no such host))`,
		},
		{"twice", seed("n1=http://h:1,n2=http://h:1"), "http://h:1", "initial cluster n1=http://h:1,n2=http://h:1 has duplicate url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			synctest.Test(t, func(t *testing.T) {
				o := Options{DataDir: dir, Name: "n1", Cluster: c.cluster, Advertised: strings.Split(c.advertised, ","), Resolver: find}
				o.complete()
				began := time.Now()
				_, err := o.birth(t.Context())
				switch {
				case c.want == "" && err != nil, c.want != "" && (!errors.Is(err, ErrCluster) || !strings.Contains(err.Error(), c.want)):
					t.Errorf("%v\nwant %s", err, c.want)
				}
				if took := time.Since(began); took > resolveLimit+resolvePause {
					t.Errorf("it took %v", took)
				}
			})
			if c.want == "" || c.name == "unknown name" { // that one takes half a minute outside of a bubble
				return
			}
			o := alone(dir)
			o.Cluster, o.Advertised, o.Resolver = c.cluster, strings.Split(c.advertised, ","), find
			if _, err := Open(t.Context(), o); !errors.Is(err, ErrCluster) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

// hosts is a name service of addresses alone.
type hosts map[string]string

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	text, ok := h[host]
	if !ok {
		return nil, errors.New("no such host")
	}
	a, err := netip.ParseAddr(text)
	return []netip.Addr{a}, err
}

func (h hosts) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.New("no such service")
}

// seed reads name=URL pairs.
func seed(text string) (all []Seed) {
	for pair := range strings.SplitSeq(text, ",") {
		name, u, _ := strings.Cut(pair, "=")
		if n := len(all); n > 0 && all[n-1].Name == name {
			all[n-1].PeerURLs = append(all[n-1].PeerURLs, u)
			continue
		}
		all = append(all, Seed{name, []string{u}})
	}
	return all
}
