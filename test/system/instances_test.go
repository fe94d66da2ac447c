package system

import (
	"fmt"
	"strings"
	"testing"
)

// instance is the configuration of a member beside others on its host.
func instance(name string, port int) string {
	return fmt.Sprintf(`name = %q
listen-client-urls = "http://127.0.0.1:%[2]d"
advertise-client-urls = "http://127.0.0.1:%[2]d"
listen-peer-urls = "http://127.0.0.1:%[3]d"
initial-advertise-peer-urls = "http://127.0.0.1:%[3]d"
`, name, port, port+1)
}

// TestInstancesAreMembersOfTheirOwn is kvd@.service, beside kvd.service.
func TestInstancesAreMembersOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := newHost(t, "instances")
	h.serve()
	h.write("/etc/kvd/east.toml", instance("east", 12379))
	h.write("/etc/kvd/west.toml", instance("west", 22379))
	h.run("chgrp kvd /etc/kvd/*.toml && chmod 0640 /etc/kvd/*.toml")
	h.step("each has its data, its status line and its journal", func() {
		h.run("systemctl enable --now kvd@east kvd@west")
		for i, name := range []string{"east", "west"} {
			h.says("systemctl status kvd@"+name, "Active: active (running)", `Status: "leader, term 2, 1 of 1 members up, `)
			h.says(fmt.Sprintf("kvctl --endpoints=127.0.0.1:%d2379 put whose %s", i+1, name), "OK")
			h.says("stat -c '%a %U' /var/lib/kvd/"+name+"; ls /var/lib/kvd/"+name, "700 kvd", "member")
			h.says("kvd config explain --config-file=/etc/kvd/"+name+".toml", "/var/lib/kvd/"+name)
		}
		h.lacks("journalctl -u kvd@east -o cat", "127.0.0.1:22379")
		h.says("kvctl --endpoints=127.0.0.1:12379 get whose", "east")
		h.says("kvctl --endpoints=127.0.0.1:22379 get whose", "west")
		h.lacks("kvctl get whose", "whose")
	})
	h.step("one is reloaded and restarted without the others", func() {
		main, west, east := h.property("kvd", "MainPID"), h.property("kvd@west", "MainPID"), h.property("kvd@east", "MainPID")
		h.run("systemctl reload kvd@east")
		h.comes("journalctl -u kvd@east -o cat", "reloaded the configuration")
		h.lacks("journalctl -u kvd@west -u kvd -o cat", "reloaded the configuration")
		h.run("systemctl restart kvd@east")
		if h.property("kvd@east", "MainPID") == east || h.property("kvd@west", "MainPID") != west || h.property("kvd", "MainPID") != main {
			h.t.Error("another one was restarted")
		}
		h.says("kvctl --endpoints=127.0.0.1:12379 get whose", "east")
	})
	h.step("its snapshots are kept apart", func() {
		h.write("/etc/kvd/east.backup.env", "KVCTL_ENDPOINTS=http://127.0.0.1:12379\n")
		h.run("systemctl start kvd-backup@east")
		h.says("journalctl -u kvd-backup@east -o cat", "/var/backups/kvd/east/kvd-", "is verified")
		h.says("kvd snapshot status /var/backups/kvd/east/kvd-*.db -w json", `"revision":2`)
		if _, status := h.try("systemctl start kvd-backup@west"); status == 0 {
			h.t.Error("a snapshot of west was taken without a word where it is")
		}
	})
	h.step("one without a configuration, or in the data of kvd.service, does not start", func() {
		if _, status := h.try("systemctl start kvd@nowhere"); status == 0 {
			h.t.Error("kvd@nowhere starts")
		}
		h.says("systemctl status kvd@nowhere || true", "Active: failed (Result: exit-code)", "status=78/CONFIG", "cannot read /etc/kvd/nowhere.toml")
		h.run("cp -p /etc/kvd/east.toml /etc/kvd/member.toml")
		if out, status := h.try("systemctl start kvd@member"); status == 0 || !strings.Contains(out, "Assertion failed") {
			h.t.Errorf("kvd@member: %d %s", status, out)
		}
		h.says("kvctl get whose; ls /var/lib/kvd/member; systemctl is-active kvd", "snap", "wal", "active")
	})
	h.step("a credential that the unit does not pass is named", func() {
		h.run(`cp -p /etc/kvd/west.toml /root/good.toml; printf 'cert-file = "credential:tls.crt"\nkey-file = "credential:tls.key"\n' >>/etc/kvd/west.toml`)
		if _, status := h.try("systemctl restart kvd@west"); status == 0 {
			h.t.Error("it starts")
		}
		h.says("systemctl status kvd@west || true", "status=78/CONFIG")
		h.says("journalctl -u kvd@west -n 20 --catalog", "/etc/kvd/west.toml:", "tls.key", "LoadCredential=", "systemd does not try again")
		// Whoever asks at a terminal is not the service.
		h.says("kvd config check --config-file=/etc/kvd/west.toml", "the service alone", "the configuration is valid")
		h.run("cat /root/good.toml >/etc/kvd/west.toml; systemctl start kvd@west")
	})
	h.step("an upgrade restarts those that run, and a removal stops them", func() {
		_, p := need(h.t)
		h.run("systemctl stop kvd@west")
		main, east := h.property("kvd", "MainPID"), h.property("kvd@east", "MainPID")
		h.run("apt-get install -y --reinstall " + p.deb)
		if h.property("kvd", "MainPID") == main || h.property("kvd@east", "MainPID") == east || h.property("kvd@west", "MainPID") != "0" {
			h.t.Error("not those that ran, and those alone, were restarted")
		}
		h.says("kvctl --endpoints=127.0.0.1:12379 get whose", "east")
		h.run("apt-get remove -y kvd")
		h.says("systemctl is-active kvd@east || true; ls -d /var/lib/kvd/east/member /etc/kvd/east.toml", "inactive", "/var/lib/kvd/east/member", "/etc/kvd/east.toml")
	})
}
