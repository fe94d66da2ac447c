package packages

import (
	"strings"
	"testing"
)

// byRPM are functions of the scripts. This machine is a Debian, so rpm is told to
// ask nobody for dependencies.
const byRPM = `
rpm() { command rpm "$@" --nodeps --force-debian; }
# links: what is enabled.
links() { find /etc/systemd/system -name '*kvd*' 2>/dev/null | LC_ALL=C sort; }
`

func TestInstallingTheRPMStartsNothing(t *testing.T) {
	t.Parallel()
	out := runs(t, byRPM+`
rpm -i "$rpm"
state
cat /told
`)
	has(t, out, "/etc/kvd 750 root:kvd", "/etc/kvd/kvd.toml 640 root:kvd", "/var/lib/kvd 700 kvd:kvd", "/var/backups/kvd 700 kvd:kvd",
		"kvd:kvd key-value store:/var/lib/kvd:/usr/sbin/nologin", "systemctl daemon-reload")
	lacks(t, out, "systemctl start", "systemctl restart", "systemctl enable", "try-restart")
}

func TestAnRPMWithoutItsUserIsNotInstalledByHalves(t *testing.T) {
	t.Parallel()
	out := runs(t, byRPM+`
cp /usr/bin/systemd-sysusers /kept 2>/dev/null || cp /bin/systemd-sysusers /kept
printf '#!/bin/sh\nexit 1\n' >$(command -v systemd-sysusers)
if rpm -i "$rpm"; then echo 'it succeeds'; fi
[ -e /usr/bin/kvd ] && echo 'unpacked'
cp /kept $(command -v systemd-sysusers)
rpm -i "$rpm"
state
`)
	has(t, out, "/etc/kvd/kvd.toml 640 root:kvd", "/var/lib/kvd 700 kvd:kvd")
	lacks(t, out, "it succeeds", "unpacked")
}

func TestARemovalOfTheRPMKeepsConfigurationAndData(t *testing.T) {
	t.Parallel()
	out := runs(t, byRPM+`
rpm -i "$rpm"
echo 'name = "mine"' >>/etc/kvd/kvd.toml
echo data >/var/lib/kvd/data
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s /usr/lib/systemd/system/kvd@.service /etc/systemd/system/multi-user.target.wants/kvd@second.service
: >/told
rpm -e kvd
cat /told
state
echo "links: $(links)"
[ -e /usr/bin/kvd ] || echo gone
tail -1 /etc/kvd/kvd.toml.rpmsave
`)
	has(t, out, `systemctl stop .*kvd.socket kvd-peer.socket kvd.service .*kvd@\*.service`, `systemctl --no-reload disable .*kvd.service.*`,
		"/var/lib/kvd/data 644 root:root", `name = "mine"`, "links: ", "gone", "kvd:kvd key-value store:.*")
}

// rpmSteps are what rpm calls the scripts with, each with what is before it.
var rpmSteps = map[string]struct{ before, script, times string }{
	"before an installation": {`mkdir -p /etc/kvd`, "PREIN", "1"},
	"after an installation":  {`rpm -i --noscripts "$rpm"; systemd-sysusers kvd.conf`, "POSTIN", "1"},
	"after an upgrade":       {`rpm -i "$rpm"; echo data >/var/lib/kvd/data`, "POSTIN", "2"},
	"before a removal": {`rpm -i "$rpm"; echo data >/var/lib/kvd/data; mkdir -p /etc/systemd/system/multi-user.target.wants
		ln -s /usr/lib/systemd/system/kvd@.service /etc/systemd/system/multi-user.target.wants/kvd@second.service`, "PREUN", "0"},
	"after a removal": {`rpm -i "$rpm"; echo data >/var/lib/kvd/data; rpm -e --noscripts kvd`, "POSTUN", "0"},
}

// TestAScriptOfTheRPMThatIsCutShortIsFinishedByTheNextRun kills the scripts at
// each command that they call. The next run must come to where an undisturbed one
// does.
func TestAScriptOfTheRPMThatIsCutShortIsFinishedByTheNextRun(t *testing.T) {
	for name, s := range rpmSteps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := runs(t, byRPM+cut+`
saved="$saved etc/systemd/system"
command rpm -qp --qf '%{`+s.script+`}' "$rpm" >/scriptlet
`+s.before+`
call() { sh /scriptlet `+s.times+`; }
state() { find /etc/kvd /var/lib/kvd /var/backups/kvd -printf '%p %m %u:%g\n' 2>/dev/null | LC_ALL=C sort; getent passwd kvd; links; }
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
cat /want
echo "called $n"
`)
			if n := calls(t, out); n > 1 && strings.Count(out, "survived") > n/2 {
				t.Errorf("of %d cuts most were none:\n%s", n, out)
			}
		})
	}
}
