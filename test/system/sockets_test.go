package system

import (
	"strings"
	"testing"
)

// TestSocketsStartTheServiceAndStayOpen is socket activation: what systemd opens
// is served from the first connection on, and across restarts.
func TestSocketsStartTheServiceAndStayOpen(t *testing.T) {
	t.Parallel()
	h := newHost(t, "sockets")
	h.install()
	h.run(configure)
	h.run("systemctl enable --now kvd.socket kvd-peer.socket")
	h.step("the first connection starts the service and is answered", func() {
		if got := h.property("kvd", "ActiveState"); got != "inactive" {
			h.t.Fatalf("it is %s before anybody came", got)
		}
		h.says("kvctl --command-timeout=60s put greeting hello", "OK")
		h.says("systemctl status kvd", "Active: active (running)", "TriggeredBy:", "kvd.socket", `Status: "leader`)
	})
	h.step("the sockets are systemd's", func() {
		out := h.says("ss -ltnpH", ":2379", ":2380")
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, ":2379") && !strings.Contains(line, `"systemd",pid=1`) {
				h.t.Errorf("%s", line)
			}
		}
	})
	h.step("clients that come during restarts are served, not refused", func() {
		// Each call is a connection of its own, and is not repeated.
		h.write("/root/caller", `#!/bin/sh
n=0
while [ ! -e /root/enough ]; do
	if out=$(kvctl --command-timeout=60s put greeting hello 2>&1) && [ "$out" = OK ]; then
		n=$((n+1))
	else
		echo "refused: $out"
	fi
done
echo "$n calls answered"
`)
		h.run("systemd-run --unit=caller sh /root/caller")
		h.run("systemd-run --unit=raw sh -c 'while [ ! -e /root/enough ]; do curl -sS --max-time 60 -o /dev/null http://127.0.0.1:2379/health || echo refused: curl $?; done; echo done'")
		for range 8 {
			before := h.property("kvd", "MainPID")
			h.run("systemctl restart kvd")
			if after := h.property("kvd", "MainPID"); after == before {
				h.t.Errorf("process %s was not replaced", before)
			}
		}
		h.run("touch /root/enough")
		h.comes("journalctl -u caller -o cat", "calls answered")
		h.comes("journalctl -u raw -o cat", "done")
		h.lacks("journalctl -t sh -o cat", "refused")
		h.lacks("journalctl -u caller -o cat", "\n0 calls answered")
	})
	h.step("a connection starts it again after a stop", func() {
		h.run("systemctl stop kvd")
		h.says("systemctl is-active kvd.socket", "active")
		h.says("kvctl --command-timeout=60s get greeting", "hello")
	})
	h.step("a socket that is not configured is refused by name", func() {
		h.run(`systemctl stop kvd.socket kvd-peer.socket kvd; cp -p /etc/kvd/kvd.toml good.toml
			printf 'listen-client-urls = "http://127.0.0.1:4001"\nadvertise-client-urls = "http://127.0.0.1:4001"\n' >>/etc/kvd/kvd.toml`)
		h.run("systemctl start kvd.socket")
		h.try("systemctl start kvd")
		h.says("systemctl status kvd || true", "status=78/CONFIG")
		h.says("journalctl -u kvd -n 10", "127.0.0.1:2379", "listen-client-urls", "ListenStream=")
	})
}
