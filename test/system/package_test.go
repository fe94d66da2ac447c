package system

import (
	"strings"
	"testing"
)

// configure gives a host's member the name and the addresses of a cluster of one.
const configure = `sed -i 's/^# name = .*/name = "one"/' /etc/kvd/kvd.toml`

// install installs the package as apt does.
func (h *host) install() {
	h.t.Helper()
	_, p := need(h.t)
	h.run("apt-get install -y /packages/" + p.deb)
}

// serve starts the service, which returns when it is ready.
func (h *host) serve() {
	h.t.Helper()
	h.install()
	h.run(configure)
	h.run("systemctl start kvd")
}

// TestThePackageFromInstallationToPurge is the life of one member on one host.
func TestThePackageFromInstallationToPurge(t *testing.T) {
	t.Parallel()
	h := newHost(t, "kvd1")
	h.step("apt installs it and starts nothing", h.installed)
	h.step("it starts, and says so", h.starts)
	h.step("it serves", h.serves)
	h.step("it reloads", h.reloads)
}

func (h *host) installed() {
	h.install()
	if got, _ := h.try("systemctl is-active kvd kvd.socket kvd-peer.socket"); strings.Contains(got, "\nactive") || strings.HasPrefix(got, "active") {
		h.t.Errorf("something runs: %s", got)
	}
	h.says("id kvd", "(kvd)")
	h.says("stat -c '%a %U:%G' /etc/kvd/kvd.toml", "640 root:kvd")
	h.lacks("journalctl -u kvd", "Starting kvd.service")
}

func (h *host) starts() {
	h.run(configure)
	h.run("systemctl start kvd")
	h.says("systemctl status kvd", "Active: active (running)", `Status: "leader, term 2, `)
	h.says("stat -c '%a %U' /var/lib/kvd", "700 kvd")
}

func (h *host) serves() {
	h.says("kvctl put greeting hello", "OK")
	h.says("kvctl get greeting", "hello")
}

func (h *host) reloads() {
	pid := h.property("kvd", "MainPID")
	h.run(`sed -i 's/^# log-level = .*/log-level = "debug"/' /etc/kvd/kvd.toml`)
	h.run("systemctl reload kvd")
	h.says("systemctl status kvd", "Active: active (running)")
	h.says("journalctl -u kvd", "reloaded the configuration", "log-level", "Reloading kvd.service", "Reloaded kvd.service")
	if got := h.property("kvd", "MainPID"); got != pid {
		h.t.Errorf("process %s became %s", pid, got)
	}
}
