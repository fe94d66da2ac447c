package packages

import (
	"strings"
	"testing"
)

func TestInstallingStartsNothing(t *testing.T) {
	t.Parallel()
	out := runs(t, `
dpkg -i "$deb"
state
cat /told
`)
	has(t, out, "/etc/kvd 750 root:kvd", "/etc/kvd/kvd.toml 640 root:kvd", "/etc/kvd/backup.env 640 root:kvd",
		"/var/lib/kvd 700 kvd:kvd", "/var/backups/kvd 700 kvd:kvd", "install ok installed",
		"kvd:kvd key-value store:/var/lib/kvd:/usr/sbin/nologin", "systemctl --system daemon-reload")
	lacks(t, out, "systemctl start", "systemctl restart", "systemctl enable", "try-restart")
}

func TestAnUpgradeRestartsWhatRunsAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	out := runs(t, `
older
dpkg -i /older.deb
echo 'name = "mine"' >>/etc/kvd/kvd.toml
echo data >/var/lib/kvd/data
state >/before
: >/told
dpkg -i "$deb"
state >/after
diff /before /after
tail -1 /etc/kvd/kvd.toml
cat /told
`)
	has(t, out, `name = "mine"`, `systemctl try-restart kvd.service kvd@\*.service`)
	lacks(t, out, "systemctl stop", "systemctl start", "systemctl restart")
}

func TestARestartThatFailsDoesNotBreakTheUpgrade(t *testing.T) {
	t.Parallel()
	out := runs(t, `
older
dpkg -i /older.deb
printf '#!/bin/sh\ncase "$*" in *try-restart*) exit 1;; esac\n' >/usr/bin/systemctl
dpkg -i "$deb"
cat /log
state
`)
	has(t, out, "kvd did not start; 'journalctl -u kvd.service' says why.", "install ok installed")
}

func TestPolicyRcDIsAsked(t *testing.T) {
	t.Parallel()
	out := runs(t, `
older
dpkg -i /older.deb
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
: >/told
dpkg -i "$deb"
dpkg -r kvd
cat /told
`)
	lacks(t, out, "systemctl try-restart", "systemctl stop")
}

func TestARemovalStopsEverythingAndKeepsConfigurationAndData(t *testing.T) {
	t.Parallel()
	out := runs(t, `
dpkg -i "$deb"
echo 'name = "mine"' >>/etc/kvd/kvd.toml
echo data >/var/lib/kvd/data
echo snapshot >/var/backups/kvd/kvd-20260101T000000Z.db
: >/told
dpkg -r kvd
cat /told
state
dpkg -i "$deb"
tail -1 /etc/kvd/kvd.toml
cat /var/lib/kvd/data
`)
	has(t, out, `systemctl stop .*kvd.socket kvd-peer.socket kvd.service kvd@\*.service`, "/var/lib/kvd/data 644 root:root",
		"/var/backups/kvd/kvd-20260101T000000Z.db 644 root:root", "/etc/kvd/kvd.toml 640 root:kvd", "deinstall ok config-files",
		`name = "mine"`, "data")
}

func TestAPurgeTakesTheConfigurationAndKeepsTheData(t *testing.T) {
	t.Parallel()
	out := runs(t, `
dpkg -i "$deb"
echo second >/etc/kvd/second.toml
echo data >/var/lib/kvd/data
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s /usr/lib/systemd/system/kvd@.service /etc/systemd/system/multi-user.target.wants/kvd@second.service
dpkg -P kvd
grep stays /log
state
ls /etc/systemd/system/multi-user.target.wants
`)
	has(t, out, "The data in /var/lib/kvd stays; /etc/kvd/purge-data was not there.", "/var/lib/kvd/data 644 root:root", "not known", "kvd:kvd key-value store:.*")
	lacks(t, out, "/etc/kvd/kvd.toml", "/etc/kvd/second", "/etc/kvd 750", "deb-systemd-helper-enabled/", "kvd@second")
}

func TestAPurgeTakesTheDataThatItWasAskedToTakeBeforehand(t *testing.T) {
	t.Parallel()
	out := runs(t, `
dpkg -i "$deb"
touch /etc/kvd/purge-data
mkdir /elsewhere /var/lib/kvd/member
echo data >/var/lib/kvd/member/data
rmdir /var/backups/kvd
mv /var/lib/kvd /elsewhere/kvd
ln -s /elsewhere/kvd /var/lib/kvd
mkdir /var/backups/kvd
echo snapshot >/var/backups/kvd/kvd-20260101T000000Z.db
dpkg -r kvd
[ -e /elsewhere/kvd/member/data ] && echo 'kept by the removal'
dpkg -P kvd
state
find /elsewhere
`)
	has(t, out, "kept by the removal", "/var/backups/kvd/kvd-20260101T000000Z.db 644 root:root", "not known", "/elsewhere/kvd")
	lacks(t, out, "/elsewhere/kvd/member", "/var/lib/kvd ", "/etc/kvd")
}

func TestAnOverrideOfTheAdministratorStays(t *testing.T) {
	t.Parallel()
	out := runs(t, `
dpkg -i "$deb"
dpkg-statoverride --update --add root root 0600 /etc/kvd/kvd.toml
dpkg -i "$deb"
state
`)
	has(t, out, "/etc/kvd/kvd.toml 600 root:root", "/etc/kvd/backup.env 640 root:kvd")
}

// steps are what dpkg calls the maintainer scripts with, each with what is before
// it.
var steps = map[string]struct{ before, call string }{
	"install": {`dpkg --unpack "$deb"`, `kvd.postinst configure ""`},
	"upgrade": {`dpkg -i "$deb"; echo data >/var/lib/kvd/data`, `kvd.postinst configure 0.0.1-1`},
	"remove":  {`dpkg -i "$deb"; echo data >/var/lib/kvd/data`, `kvd.prerm remove`},
	"removed": {`dpkg -i "$deb"; echo data >/var/lib/kvd/data`, `kvd.postrm remove`},
	"purge": {`dpkg -i "$deb"; dpkg -r kvd; mkdir /var/lib/kvd/member; echo data >/var/lib/kvd/member/data
		touch /etc/kvd/purge-data`, `kvd.postrm purge`},
}

// TestWhatIsCutShortIsFinishedByTheNextRun kills the maintainer scripts at each
// command that they call. The next run must come to where an undisturbed one does.
func TestWhatIsCutShortIsFinishedByTheNextRun(t *testing.T) {
	for name, s := range steps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := runs(t, cut+s.before+`
export DPKG_MAINTSCRIPT_PACKAGE=kvd DPKG_MAINTSCRIPT_NAME=script
call() { /var/lib/dpkg/info/`+s.call+`; }
save
cut_at 0
PATH=/cut:$PATH call
n=$(cat /cut/count)
state >/want
for i in $(seq $n); do
	restore
	cut_at $i
	if PATH=/cut:$PATH call >/dev/null 2>&1; then echo survived $i; fi
	call >/dev/null
	state >/got
	diff /want /got || { echo "cut at $i, it comes to something else"; exit 1; }
done 2>/dev/null
echo "called $n"
`)
			if n := calls(t, out); strings.Count(out, "survived") > n/2 {
				t.Errorf("of %d cuts most were none:\n%s", n, out)
			}
		})
	}
}
