package daemon

import (
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"kvd/internal/freeport"
)

// clusterOf starts members that find each other by these peer URLs' scheme.
func clusterOf(t *testing.T, n int, scheme string, more ...string) []*instance {
	t.Helper()
	var urls, initial []string
	for i := range n {
		urls = append(urls, scheme+"://"+freeport.Address(t))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, urls[i]))
	}
	var all []*instance
	for i := range n {
		all = append(all, run(t, Inputs{Config: configured(t, append([]string{
			fmt.Sprintf("--name=m%d", i), "--data-dir=" + t.TempDir(),
			"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1",
			"--listen-peer-urls=" + urls[i], "--initial-advertise-peer-urls=" + urls[i],
			"--initial-cluster=" + strings.Join(initial, ","), "--heartbeat-interval=20", "--election-timeout=200",
		}, more...)...)}))
	}
	for _, d := range all {
		d.log.wait(t, "ready to serve client requests", 0)
	}
	return all
}

// TestMembersTrustEachOther runs clusters over every kind of connection between
// members.
func TestMembersTrustEachOther(t *testing.T) {
	a := newAuthority(t)
	a.sign(t, "peer", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	for name, c := range map[string]struct {
		scheme string
		args   []string
	}{
		"plain": {"http", nil},
		"certificates of an authority": {"https", []string{
			"--peer-cert-file=" + a.path("peer.crt"), "--peer-key-file=" + a.path("peer.key"),
			"--peer-trusted-ca-file=" + a.path("ca.crt"), "--peer-client-cert-auth", "--peer-cert-allowed-cn=peer",
		}},
		"certificates of their own": {"https", []string{"--peer-auto-tls"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := clusterOf(t, 3, c.scheme, c.args...)
			for i, d := range all {
				key := fmt.Sprint("k", i)
				must(t, put(t, d.dial(t), key, "v"))
				for _, other := range all {
					if got := get(t, other.dial(t), key); got != "v" {
						t.Errorf("%s is %q at another member", key, got)
					}
				}
			}
		})
	}
}

// TestStoppedLeaderHandsOver lets a leader stop: another leads before it has
// gone, so nobody waits for an election.
func TestStoppedLeaderHandsOver(t *testing.T) {
	all := clusterOf(t, 3, "http", "--heartbeat-interval=100", "--election-timeout=1000")
	leader := leaderOf(t, all)
	must(t, all[leader].stop(t))
	all[leader].log.wait(t, "handed leadership over", 0)
	began := time.Now()
	must(t, put(t, all[(leader+1)%3].dial(t), "k", "v"))
	if took := time.Since(began); took > 800*time.Millisecond {
		t.Errorf("a put after the leader had stopped took %v, as long as an election", took)
	}
}

// TestARemovedLeaderLeavesTheLastVoterServing: of two members the leader is
// removed, and the other goes on by itself.
func TestARemovedLeaderLeavesTheLastVoterServing(t *testing.T) {
	t.Parallel()
	all := clusterOf(t, 2, "http", "--heartbeat-interval=100", "--election-timeout=1000")
	leader := leaderOf(t, all)
	c, last := all[leader].dial(t), all[1-leader].dial(t)
	must(t, put(t, c, "k", "v"))
	members, err := c.MemberList(t.Context())
	must(t, err)
	waitFor(t, func() bool { // refused while the members have hardly met
		_, err = c.MemberRemove(t.Context(), members.Header.MemberId)
		return err == nil
	})
	must(t, all[leader].wait(t))
	must(t, put(t, last, "k", "w"))
	if got := get(t, last, "k"); got != "w" {
		t.Errorf("k is %q", got)
	}
}

// leaderOf is which of them leads.
func leaderOf(t *testing.T, all []*instance) (leader int) {
	t.Helper()
	leader = -1
	waitFor(t, func() bool {
		for i, d := range all {
			if d.metrics(t)["etcd_server_is_leader"] == 1 {
				leader = i
			}
		}
		return leader >= 0
	})
	return leader
}
