package system

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// configure gives a host's member a name.
const configure = `sed -i 's/^# name = .*/name = "one"/' /etc/kvd/kvd.toml`

// install installs the package as apt does.
func (h *host) install() {
	h.t.Helper()
	_, p := need(h.t)
	h.run("apt-get install -y " + p.deb)
}

// serve installs, configures and starts the service, which is ready then.
func (h *host) serve() {
	h.t.Helper()
	h.install()
	h.run(configure)
	h.run("systemctl start kvd")
}

// notices are what kvd has told systemd since it was last asked to log them.
func (h *host) notices() []string {
	h.t.Helper()
	var all []string
	out := h.run(`journalctl -b _PID=1 -o cat --grep 'kvd.service: Got notification message'`)
	for line := range strings.SplitSeq(out, "\n") {
		_, text, _ := strings.Cut(line, " (")
		all = append(all, strings.TrimSuffix(text, ")"))
	}
	return all
}

// inOrder checks that each part is in one of the lines behind that of the part
// before.
func inOrder(t *testing.T, lines []string, parts ...string) {
	t.Helper()
	next := 0
	for _, part := range parts {
		found := false
		for ; next < len(lines) && !found; next++ {
			found = strings.Contains(lines[next], part)
		}
		if !found {
			t.Fatalf("nothing of %q, or too early, in\n%s", part, strings.Join(lines, "\n"))
		}
	}
}

// TestThePackageFromInstallationToPurge is the life of one member on one host.
func TestThePackageFromInstallationToPurge(t *testing.T) {
	t.Parallel()
	h := newHost(t, "kvd1")
	h.step("apt installs it and starts nothing", h.installed)
	h.step("it starts, and each phase has its line", h.starts)
	h.step("the status line follows", h.follows)
	h.step("it has the limits, and the walls, of its unit", h.walled)
	h.step("it reloads, but no faulty configuration", h.reloads)
	h.step("the journal has fields and explains", h.explains)
	h.step("a process that hangs is killed and started again", h.hangs)
	h.step("a process that crashes is started again", h.crashes)
	h.step("a stop has its lines, too", h.stops)
	h.step("a faulty configuration is refused once", h.refuses)
	h.step("a removal keeps configuration and data", h.removed)
	h.step("a purge takes the configuration, and the data only if told so", h.purged)
}

func (h *host) installed() {
	h.install()
	for _, unit := range []string{"kvd.service", "kvd.socket", "kvd-peer.socket", "kvd-backup.timer"} {
		if got := h.property(unit, "ActiveState"); got != "inactive" {
			h.t.Errorf("%s is %s", unit, got)
		}
		if got := h.property(unit, "UnitFileState"); got != "disabled" {
			h.t.Errorf("%s is %s", unit, got)
		}
	}
	h.says("id kvd", "(kvd)")
	h.says("stat -c '%a %U:%G' /etc/kvd/kvd.toml", "640 root:kvd")
	h.lacks("journalctl -u kvd", "Starting kvd.service")
	h.says("dpkg --verify kvd; dpkg --audit; echo end", "end")
}

func (h *host) starts() {
	h.run("systemctl log-level debug")
	h.run(configure)
	h.run("systemctl enable --now kvd")
	h.says("systemctl status kvd", "Active: active (running)", `Status: "leader, term 2, 1 of 1 members up, `, " of 2 GiB in use, revision 1")
	h.says("stat -c '%a %U' /var/lib/kvd", "700 kvd")
	inOrder(h.t, h.notices(), "STATUS=opening the ports", "EXTEND_TIMEOUT_USEC=", "STATUS=making the log and the database",
		"READY=1, STATUS=leader, term 2, 1 of 1 members up")
	h.says("kvctl put greeting hello", "OK")
	h.says("kvctl get greeting", "hello")
}

func (h *host) follows() {
	h.run("for i in 1 2 3 4 5; do kvctl put key$i value; done")
	h.comes("systemctl status kvd", "revision 7")
}

func (h *host) walled() {
	pid := h.property("kvd", "MainPID")
	// What the kernel makes of the limits depends on what the container may do.
	h.says("systemctl show kvd", "LimitNOFILE=65536\n", "OOMScoreAdjust=-500\n", "Type=notify\n", "TimeoutStartUSec=infinity\n", "TimeoutStopUSec=1min 30s\n", "WatchdogUSec=30s\n", "Restart=on-failure\n",
		"RestartPreventExitStatus=65 78\n", "StateDirectoryMode=0700\n", "NoNewPrivileges=yes\n", "ProtectSystem=strict\n")
	h.says("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/"+pid+"/status", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2")
	// The queue of connections is as long as the kernel allows: kvd could read how long.
	if somaxconn := h.run("cat /proc/sys/net/core/somaxconn"); somaxconn == "128" {
		h.t.Error("this kernel allows 128, so nothing is shown")
	} else {
		h.says("ss -ltnH 'sport = :2379' | awk '{ print \"queue\", $3 }'", "queue "+somaxconn)
	}
	h.run("systemd-analyze security --threshold=12 kvd")
	h.says("kvd config explain", "/var/lib/kvd ")
}

func (h *host) reloads() {
	pid := h.property("kvd", "MainPID")
	h.run(`sed -i 's/^# log-level = .*/log-level = "debug"/' /etc/kvd/kvd.toml`)
	h.run("systemctl reload kvd")
	h.comes("journalctl -u kvd", "reloaded the configuration", "log-level", "Reloaded kvd.service")
	h.comes("systemctl status kvd", "Active: active (running)", "Status: \"leader, term 2")
	inOrder(h.t, h.notices(), "READY=1", "RELOADING=1, MONOTONIC_USEC=", "READY=1, STATUS=leader")

	h.run(`cp /etc/kvd/kvd.toml /root/good.toml; echo 'max-txn-ops = "many"' >>/etc/kvd/kvd.toml`)
	h.run("systemctl reload kvd")
	h.comes("journalctl -u kvd -p err", "the configuration was not reloaded, the old one stays in force", "max-txn-ops")
	h.run("cat /root/good.toml >/etc/kvd/kvd.toml")
	h.says("kvctl get greeting", "hello")
	if got := h.property("kvd", "MainPID"); got != pid {
		h.t.Errorf("process %s became %s", pid, got)
	}
}

func (h *host) explains() {
	ready := h.says("journalctl -u kvd -o verbose MESSAGE_ID=6e9a3b0c51f14c0e9d2d1f7f0a5b7c01", "MESSAGE=ready to serve client requests",
		"PRIORITY=6", "SYSLOG_IDENTIFIER=kvd", "_SYSTEMD_UNIT=kvd.service", "REVISION=", "TERM=2")
	for _, field := range []string{"MEMBER_ID", "CLUSTER_ID"} {
		if !regexp.MustCompile(`(?m)^ *` + field + `=[0-9a-f]{1,16}$`).MatchString(ready) {
			h.t.Errorf("no %s in\n%s", field, ready)
		}
	}
	h.says("journalctl -u kvd --catalog MESSAGE_ID=6e9a3b0c51f14c0e9d2d1f7f0a5b7c05", "the configuration was not reloaded",
		"Defined-By: kvd", "max-txn-ops: wrong type", `"kvd config check" says when all faults are gone`)
}

// again waits until the service runs in another process than before, with all
// its data.
func (h *host) again(before string, why ...string) {
	h.t.Helper()
	h.comes("journalctl -u kvd", append(why, "Scheduled restart job")...)
	h.comes("systemctl is-active kvd; test $(systemctl show --value -p MainPID kvd) != "+before+" && echo another", "active", "another")
	h.says("kvctl get greeting", "hello")
}

func (h *host) hangs() {
	h.write("/etc/systemd/system/kvd.service.d/soon.conf", "[Service]\nWatchdogSec=5s\nRestartSec=1s\n")
	h.run("systemctl daemon-reload && systemctl restart kvd")
	pid := h.property("kvd", "MainPID")
	h.run("kill -STOP " + pid)
	h.again(pid, "Watchdog timeout (limit 5s)!")
	h.run("rm -r /etc/systemd/system/kvd.service.d && systemctl daemon-reload")
	h.run("systemctl restart kvd")
}

func (h *host) crashes() {
	h.run("journalctl --rotate && journalctl --vacuum-time=1us")
	pid := h.property("kvd", "MainPID")
	h.run("kill -KILL " + pid)
	h.again(pid, "code=killed, status=9/KILL")
}

func (h *host) stops() {
	h.run("systemctl stop kvd")
	h.says("systemctl status kvd || true", "Active: inactive (dead)", "status=0/SUCCESS", `Status: "stopped"`)
	inOrder(h.t, h.notices(), "STOPPING=1, STATUS=stopping", "STATUS=stopping: taking no more clients", "STATUS=stopping: clients", "STATUS=stopping: replica",
		"STATUS=stopping: closing log and database", "STATUS=stopped")
	h.run("systemctl log-level info")
}

func (h *host) refuses() {
	h.run(`cp -p /etc/kvd/kvd.toml /root/good.toml; echo 'listen-client-urls = "nowhere"' >>/etc/kvd/kvd.toml`)
	if out, status := h.try("systemctl start kvd"); status == 0 {
		h.t.Errorf("it starts: %s", out)
	}
	h.says("systemctl status kvd || true", "Active: failed (Result: exit-code)", "status=78/CONFIG")
	h.says("journalctl -u kvd -n 20", "listen-client-urls", "nowhere", "/etc/kvd/kvd.toml")
	h.says("journalctl -u kvd --catalog MESSAGE_ID=6e9a3b0c51f14c0e9d2d1f7f0a5b7c0a", "listen-client-urls", "systemd does not try again", `"kvd config check"`)
	if out, status := h.try("kvd config check"); status != 78 || !strings.Contains(out, "nowhere") {
		h.t.Errorf("kvd config check: %d %s", status, out)
	}
	// Were it to be tried again, it would be in auto-restart.
	if state, restarts := h.property("kvd", "SubState"), h.property("kvd", "NRestarts"); state != "failed" || restarts != "0" {
		h.t.Errorf("state %s, %s restarts", state, restarts)
	}
	h.run("cat /root/good.toml >/etc/kvd/kvd.toml && systemctl start kvd")
}

func (h *host) removed() {
	h.run("apt-get remove -y kvd")
	h.says("systemctl is-active kvd || true; ls /etc/kvd/kvd.toml; ls -d /var/lib/kvd/member", "inactive", "/etc/kvd/kvd.toml", "/var/lib/kvd/member")
	h.says("test -e /usr/bin/kvd || echo gone", "gone")
	h.install()
	h.says("grep '^name' /etc/kvd/kvd.toml; systemctl is-enabled kvd", `name = "one"`, "enabled")
	h.run("systemctl start kvd")
	h.says("kvctl get greeting", "hello")
}

func (h *host) purged() {
	h.says("apt-get purge -y kvd", "/var/lib/kvd")
	h.says("test -e /etc/kvd || echo gone; ls -d /var/lib/kvd/member; id kvd; systemctl list-unit-files 'kvd*' || true", "gone", "/var/lib/kvd/member", "(kvd)", "0 unit files")
	h.install()
	h.run("touch /etc/kvd/purge-data && apt-get purge -y kvd")
	h.says("test -e /etc/kvd || test -e /var/lib/kvd || echo gone", "gone")
}

// writer is a client on a host that writes one key after the other, and keeps
// those that were acknowledged in the file acknowledged.
func (h *host) writer(endpoints string) (stop func() int) {
	h.t.Helper()
	h.write("/root/writer", `#!/bin/sh
i=0
while [ ! -e /root/enough ]; do
	i=$((i+1))
	kvctl --endpoints=`+endpoints+` put written/$i $i >/dev/null 2>&1 && echo $i >>/root/acknowledged
done
`)
	h.run("rm -f /root/acknowledged /root/enough; systemd-run --unit=writer sh /root/writer")
	h.comes("wc -l </root/acknowledged || true; tail -n 1 /root/acknowledged", "5")
	return func() int {
		h.t.Helper()
		h.run("touch /root/enough")
		h.comes("systemctl is-active writer || true", "inactive")
		lost := h.run("kvctl --endpoints=" + endpoints + " get written/ --prefix --print-value-only | sort >/root/there; sort /root/acknowledged | comm -23 - /root/there")
		if lost != "" {
			h.t.Fatalf("acknowledged and lost: %s", lost)
		}
		n, err := strconv.Atoi(h.run("wc -l </root/acknowledged"))
		if err != nil {
			h.t.Fatal(err)
		}
		return n
	}
}

// acknowledgedBeyond waits until a host's writer has had n more writes acknowledged.
func (h *host) acknowledgedBeyond(n int) {
	h.t.Helper()
	h.comes("test $(wc -l </root/acknowledged) -gt "+strconv.Itoa(n)+" && echo more || wc -l /root/acknowledged", "more")
}

// acknowledged is how many writes of the writer were.
func (h *host) acknowledged() int {
	h.t.Helper()
	n, err := strconv.Atoi(h.run("wc -l </root/acknowledged"))
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// TestAnUpgradeLosesNoAcknowledgedWrite replaces the previous version while a
// client writes.
func TestAnUpgradeLosesNoAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	_, p := need(t)
	h := newHost(t, "upgraded")
	h.run("apt-get install -y " + p.olderDeb)
	h.run(configure + "; systemctl start kvd")
	h.says("journalctl -u kvd", "version=0.0.1")
	before := h.property("kvd", "MainPID")
	stop := h.writer("127.0.0.1:2379")
	h.run("apt-get install -y " + p.deb)
	h.acknowledgedBeyond(h.acknowledged())
	if after := h.property("kvd", "MainPID"); after == before || after == "0" {
		t.Errorf("process %s became %s", before, after)
	}
	out := h.says("journalctl -u kvd -t kvd -o cat --grep 'starting kvd'", "version=0.0.1")
	if strings.Count(out, "starting kvd") != 2 {
		t.Errorf("not one restart:\n%s", out)
	}
	h.says("grep '^name' /etc/kvd/kvd.toml", `name = "one"`)
	t.Logf("%d writes acknowledged", stop())
}
