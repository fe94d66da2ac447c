package system

import "testing"

// TestAnInstallationThatIsCutShortIsFinishedLater kills it at several points.
func TestAnInstallationThatIsCutShortIsFinishedLater(t *testing.T) {
	t.Parallel()
	_, p := need(t)
	h := newHost(t, "cutshort")
	whole := func() {
		h.t.Helper()
		h.says("dpkg-query -W -f '${Status}' kvd; dpkg --audit", "install ok installed")
		h.says("stat -c '%a %U:%G' /etc/kvd/kvd.toml; id kvd", "640 root:kvd")
	}
	h.step("power is cut after unpacking", func() {
		h.run("dpkg --unpack " + p.olderDeb + " && sync")
		h.cut()
		h.boot()
		h.run("dpkg --configure -a")
		whole()
	})
	// apt would not look where this test puts its own programs.
	const apt = "apt-get -o DPkg::Path=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin install -y "
	// A program that the scripts call hangs, and all is killed.
	killed := func(install string) {
		h.t.Helper()
		h.write("/usr/local/sbin/systemd-tmpfiles", "#!/bin/sh\ntouch /root/there\nexec sleep 600\n")
		h.run("chmod +x /usr/local/sbin/systemd-tmpfiles; rm -f /root/there")
		h.run("systemd-run --unit=installing -E DEBIAN_FRONTEND=noninteractive " + install)
		h.comes("test -e /root/there && echo there", "there")
		h.run("systemctl kill -s KILL installing")
		h.comes("systemctl is-active installing || true", "failed")
		h.run("systemctl reset-failed installing; rm /usr/local/sbin/systemd-tmpfiles")
		h.says("dpkg --audit", "kvd")
	}
	h.step("it is killed amid an upgrade, and the member goes on", func() {
		h.run(configure + "; systemctl start kvd; kvctl put greeting hello")
		killed(apt + p.deb)
		h.says("kvctl get greeting", "hello")
		h.run("dpkg --configure -a")
		whole()
		h.comes("journalctl -u kvd -t kvd -o cat --grep 'starting kvd' | grep -vc version=0.0.1", "1")
		h.says("kvctl get greeting", "hello")
	})
	h.step("it is killed amid the first installation after a purge", func() {
		h.run("apt-get purge -y kvd")
		killed(apt + p.deb)
		h.run("apt-get install -y --fix-broken; dpkg --configure -a")
		whole()
		h.says("systemctl is-active kvd || true", "inactive")
	})
	h.step("a script that fails says so, and its repetition does not", func() {
		h.run("printf '#!/bin/sh\\nexit 1\\n' >/usr/local/sbin/systemd-tmpfiles && chmod +x /usr/local/sbin/systemd-tmpfiles")
		if out, status := h.try(apt + "--reinstall " + p.deb); status == 0 {
			h.t.Errorf("it succeeds:\n%s", out)
		}
		h.run("rm /usr/local/sbin/systemd-tmpfiles; dpkg --configure -a")
		whole()
	})
}

// TestTheTimerSavesSnapshots is the backup unit, started by its timer.
func TestTheTimerSavesSnapshots(t *testing.T) {
	t.Parallel()
	h := newHost(t, "backup")
	h.serve()
	h.run("kvctl put greeting hello; echo KVD_BACKUP_KEEP=2 >>/etc/kvd/backup.env")
	h.write("/etc/systemd/system/kvd-backup.timer.d/soon.conf", "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/3\nRandomizedDelaySec=0\nAccuracySec=1s\n")
	h.run("systemctl daemon-reload && systemctl enable --now kvd-backup.timer")
	h.says("systemctl list-timers --no-pager", "kvd-backup.timer", "kvd-backup.service")
	h.comes("journalctl -u kvd-backup", "is verified", "is removed; the newest 2 stay", "Deactivated successfully")
	h.run("systemctl stop kvd-backup.timer; systemctl stop kvd-backup.service")
	h.says("ls /var/backups/kvd/*.db | wc -l; stat -c '%a %U' /var/backups/kvd/*.db", "2", "600 kvd")
	h.step("without a member it fails, says so, and removes nothing", func() {
		h.run("systemctl stop kvd")
		if _, status := h.try("systemctl start kvd-backup"); status == 0 {
			h.t.Error("it succeeds")
		}
		h.says("journalctl -u kvd-backup -n 20", "no snapshot was taken")
		h.says("ls /var/backups/kvd/*.db | wc -l", "2")
	})
}

// TestTheRPMRunsItsScripts installs, upgrades and removes with rpm. The host is a
// Debian, so rpm is told to ask nobody for dependencies.
func TestTheRPMRunsItsScripts(t *testing.T) {
	t.Parallel()
	_, p := need(t)
	h := newHost(t, "rpm")
	h.run("rpm -i --nodeps --force-debian " + p.olderRPM)
	h.says("id kvd", "(kvd)")
	h.says("stat -c '%a %U:%G' /etc/kvd/kvd.toml", "640 root:kvd")
	h.says("systemctl is-active kvd || true", "inactive")
	h.run(configure + "; systemctl enable --now kvd; kvctl put greeting hello")
	before := h.property("kvd", "MainPID")
	h.step("an upgrade restarts it and keeps the configuration", func() {
		h.run("rpm -U --nodeps --force-debian " + p.rpm)
		h.comes("systemctl is-active kvd; test $(systemctl show --value -p MainPID kvd) != "+before+" && echo another", "active", "another")
		h.says("grep '^name' /etc/kvd/kvd.toml; kvctl get greeting; systemctl is-enabled kvd", `name = "one"`, "hello", "enabled")
		h.lacks("rpm -V kvd --nodeps", "/usr/bin", "/usr/lib")
	})
	h.step("a removal stops it and keeps data and changed configuration", func() {
		h.run("rpm -e --force-debian kvd")
		h.says("systemctl is-active kvd || true; test -e /usr/bin/kvd || echo gone", "inactive", "gone")
		h.says("ls /etc/kvd/kvd.toml.rpmsave; ls -d /var/lib/kvd/member; id kvd", "rpmsave", "/var/lib/kvd/member", "(kvd)")
		h.lacks("ls /etc/systemd/system/*.wants", "kvd")
	})
}
