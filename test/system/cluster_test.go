package system

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network joins network namespaces of hosts by a bridge, in one more.
type network struct {
	t    *testing.T
	name string
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, name: fmt.Sprintf("%s%d-", groupNames, os.Getpid())}
	n.add("hub")
	n.ip("-n", n.name+"hub", "link", "add", "bridge", "type", "bridge")
	n.ip("-n", n.name+"hub", "link", "set", "bridge", "up")
	return n
}

// add makes a namespace, which is gone with the test.
func (n *network) add(name string) {
	n.t.Helper()
	n.ip("netns", "add", n.name+name)
	n.t.Cleanup(func() { exec.Command("ip", "netns", "del", n.name+name).Run() })
	n.ip("-n", n.name+name, "link", "set", "lo", "up")
}

// join makes a namespace with an address on the bridge.
func (n *network) join(host, address string) (space string) {
	n.t.Helper()
	n.add(host)
	n.ip("-n", n.name+"hub", "link", "add", host, "type", "veth", "peer", "name", "host0", "netns", n.name+host)
	n.ip("-n", n.name+"hub", "link", "set", host, "master", "bridge", "up")
	n.ip("-n", n.name+host, "address", "add", address+"/24", "dev", "host0")
	n.ip("-n", n.name+host, "link", "set", "host0", "up")
	return n.name + host
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// memberConfig is what an administrator adds to a member's configuration. $N is
// its number.
const memberConfig = `
name = "kvd$N"
initial-cluster = "kvd1=https://kvd1:2380,kvd2=https://kvd2:2380,kvd3=https://kvd3:2380"
listen-client-urls = "https://10.78.0.$N:2379,http://127.0.0.1:2379"
advertise-client-urls = "https://kvd$N:2379"
listen-peer-urls = "https://10.78.0.$N:2380"
initial-advertise-peer-urls = "https://kvd$N:2380"
cert-file = "credential:tls.crt"
key-file = "credential:tls.key"
peer-cert-file = "credential:tls.crt"
peer-key-file = "credential:tls.key"
peer-trusted-ca-file = "credential:tls.crt"
peer-client-cert-auth = true
`

const credentials = `[Service]
LoadCredential=tls.crt:/etc/kvd/tls/tls.crt
LoadCredential=tls.key:/etc/kvd/tls/tls.key
`

const makeKeys = `mkdir -p -m 0700 /etc/kvd/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 \
	-subj /CN=kvd -addext 'subjectAltName=DNS:kvd1,DNS:kvd2,DNS:kvd3,IP:10.78.0.1,IP:10.78.0.2,IP:10.78.0.3' \
	-keyout /etc/kvd/tls/tls.key -out /etc/kvd/tls/tls.crt`

// on is how a client that is no member reaches members.
func on(hosts ...string) string {
	urls := make([]string, 0, len(hosts))
	for _, h := range hosts {
		urls = append(urls, "https://"+h+":2379")
	}
	return strings.Join(urls, ",") + " --cacert=/etc/kvd/tls/tls.crt"
}

// TestAClusterOfHosts is three hosts on a bridge: upgraded one after the other
// while a client writes, and one of them powered off and on again.
func TestAClusterOfHosts(t *testing.T) {
	t.Parallel()
	net := newNetwork(t)
	_, p := need(t)
	hosts := make([]*host, 3)
	for i := range hosts {
		name, address := fmt.Sprintf("kvd%d", i+1), fmt.Sprintf("10.78.0.%d", i+1)
		hosts[i] = newHostIn(t, name, net.join(name, address))
	}
	one, two, three := hosts[0], hosts[1], hosts[2]
	one.run("mkdir -p /etc/kvd && " + makeKeys)
	crt, key := one.run("cat /etc/kvd/tls/tls.crt"), one.run("cat /etc/kvd/tls/tls.key")
	for i, h := range hosts {
		h.run("apt-get install -y " + p.olderDeb)
		h.write("/etc/kvd/tls/tls.crt", crt+"\n")
		h.write("/etc/kvd/tls/tls.key", key+"\n")
		h.run("chmod 0600 /etc/kvd/tls/tls.key")
		h.write("/etc/systemd/system/kvd.service.d/tls.conf", credentials)
		h.write("/root/more.toml", strings.ReplaceAll(memberConfig, "$N", fmt.Sprint(i+1)))
		h.run("cat /root/more.toml >>/etc/kvd/kvd.toml && kvd config check; systemctl daemon-reload && systemctl enable kvd && systemctl start --no-block kvd")
		if i == 0 {
			h.comes("systemctl status kvd", "Active: activating (start)", `Status: "waiting for a leader"`)
			h.comes("journalctl -u kvd --catalog MESSAGE_ID=6e9a3b0c51f14c0e9d2d1f7f0a5b7c0f", "waiting for the cluster to accept this member", "Start the other members.")
		}
	}
	for _, h := range hosts {
		h.comes("systemctl status kvd", "Active: active (running)", "3 of 3 members up")
	}
	stop := one.writer(on("kvd1", "kvd2"))
	one.run("systemd-run --unit=watcher kvctl --endpoints=" + on("kvd2", "kvd1") + " watch mark")

	one.step("leadership moves before a leader that is upgraded stops", func() {
		for i, h := range []*host{three, two, one} {
			h.t = one.t
			h.run("kvctl move-leader $(kvctl member list | grep " + h.name + " | cut -d, -f1) --endpoints=" + on("kvd1", "kvd2", "kvd3"))
			h.comes("systemctl status kvd", `Status: "leader, term `)
			h.run("apt-get install -y " + p.deb)
			h.comes("systemctl status kvd", "Active: active (running)", `Status: "follower of kvd`, "3 of 3 members up", " in use, revision ")
			h.says("journalctl -u kvd", "handed leadership over", "version=0.0.1", "Stopped kvd.service")
			one.says(fmt.Sprintf("kvctl --endpoints=%s put mark %d", on("kvd1", "kvd2", "kvd3"), i), "OK")
		}
		one.comes("journalctl -u watcher -o cat", "mark\n0\n", "mark\n1\n", "mark\n2")
	})
	one.step("a host that is powered off is missed, and comes back by itself", func() {
		two.t, three.t = one.t, one.t
		one.run("kvctl move-leader $(kvctl member list | grep kvd3 | cut -d, -f1) --endpoints=" + on("kvd1", "kvd2", "kvd3"))
		three.comes("systemctl status kvd", `Status: "leader, term `)
		id := one.run("kvctl member list | grep kvd3 | cut -d, -f1")
		three.cut()
		one.comes("systemctl status kvd", "2 of 3 members up", ", term ")
		one.comes("journalctl -u kvd PEER="+id, "peer became inactive")
		one.acknowledgedBeyond(one.acknowledged())
		one.says("kvctl --endpoints="+on("kvd1", "kvd2")+" put while away", "OK")
		three.boot()
		three.comes("systemctl status kvd", "Active: active (running)", `Status: "follower of kvd`, "3 of 3 members up")
		one.comes("systemctl status kvd", "3 of 3 members up")
		three.says("kvctl get while", "away")
	})
	one.step("a member is replaced as the catalogue says", func() {
		two.t = one.t
		before := two.run("kvctl member list | grep kvd2 | cut -d, -f1")
		two.run("systemctl stop kvd")
		two.says("kvd member rejoin --dry-run --cacert=/etc/kvd/tls/tls.crt", before)
		two.run("kvd member rejoin --yes --cacert=/etc/kvd/tls/tls.crt")
		two.run("systemctl start kvd")
		// It is a learner, which answers nobody, until it has the data.
		two.comes("systemctl status kvd", "Active: active (running)", `Status: "follower of kvd`, "3 of 3 members up")
		two.comes("kvctl get while", "away")
		two.says("ls -d /var/lib/kvd/member.bad-*", "/var/lib/kvd/member.bad-")
		two.lacks("kvctl member list", before)
		two.lacks("find /var/lib/kvd -not -user kvd", "/var/lib/kvd")
	})
	t.Logf("%d writes acknowledged", stop())
	one.says("kvctl --endpoints="+on("kvd1", "kvd2", "kvd3")+" endpoint health", "kvd1:2379 is healthy", "kvd2:2379 is healthy", "kvd3:2379 is healthy")
}
