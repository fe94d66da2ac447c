package system

import "testing"

// TestAProxyIsAServiceLikeAMember runs a proxy as an instance beside the member
// that it passes calls to.
func TestAProxyIsAServiceLikeAMember(t *testing.T) {
	t.Parallel()
	h := newHost(t, "proxied")
	h.install()
	h.run(configure)
	h.write("/etc/kvd/front.toml", `proxy = "on"
initial-cluster = "one=http://127.0.0.1:2380"
listen-client-urls = "http://127.0.0.1:12379"
advertise-client-urls = "http://127.0.0.1:12379"
`)
	h.run("chgrp kvd /etc/kvd/front.toml && chmod 0640 /etc/kvd/front.toml && kvd config check --config-file=/etc/kvd/front.toml")
	const front = "kvctl --endpoints=127.0.0.1:12379 "
	h.step("it is ready when a member is", func() {
		h.run("systemctl enable --now --no-block kvd@front")
		h.comes("systemctl status kvd@front", "Active: activating (start)", `Status: "proxy, looking for the members"`)
		h.run("systemctl start kvd")
		h.comes("systemctl status kvd@front", "Active: active (running)", `Status: "proxy, 1 of 1 endpoints connected"`)
		h.says(front+"put greeting hello", "OK")
		h.says("kvctl get greeting", "hello")
	})
	h.step("its status line follows the members", func() {
		h.run("systemctl stop kvd")
		h.comes("systemctl status kvd@front", "Active: active (running)", `Status: "proxy, 0 of 1 endpoints connected"`)
		h.run("systemctl start kvd")
		h.comes(front+"get greeting; systemctl status kvd@front", "hello", `Status: "proxy, 1 of 1 endpoints connected"`)
	})
	h.step("it reloads", func() {
		h.run(`echo 'log-level = "debug"' >>/etc/kvd/front.toml; systemctl reload kvd@front`)
		h.comes("journalctl -u kvd@front", "reloaded the configuration", "log-level")
		h.says("systemctl is-active kvd@front", "active")
	})
	h.step("one that hangs is killed and started again", func() {
		h.write("/etc/systemd/system/kvd@front.service.d/soon.conf", "[Service]\nWatchdogSec=5s\nRestartSec=1s\n")
		h.run("systemctl daemon-reload && systemctl restart kvd@front")
		pid := h.property("kvd@front", "MainPID")
		h.run("kill -STOP " + pid)
		h.comes("journalctl -u kvd@front", "Watchdog timeout (limit 5s)!", "Scheduled restart job")
		h.comes("systemctl is-active kvd@front; test $(systemctl show --value -p MainPID kvd@front) != "+pid+" && echo another", "active", "another")
		h.comes(front+"get greeting", "hello")
	})
	h.step("it stops in order", func() {
		h.run("systemctl stop kvd@front")
		h.says("systemctl status kvd@front || true", "Active: inactive (dead)", "status=0/SUCCESS", `Status: "stopped"`)
	})
}
