package packages

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is what one script of a test may take, on a machine that is busy.
const patience = 10 * time.Minute

// dir is where "make package" has put the packages.
func dir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KVD_TEST_PACKAGES")
	if dir == "" {
		t.Skip("KVD_TEST_PACKAGES names no packages; make test-packages does")
	}
	if os.Geteuid() != 0 {
		t.Fatal("only root can install packages")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir(t), pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// setup makes the root that a script runs in: this machine's, below a layer in
// memory. systemctl is one that only says what it was told, into /told.
const setup = `
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
mount -t overlay -o lowerdir=/,upperdir="$SCRATCH/upper",workdir="$SCRATCH/work" overlay "$SCRATCH/root"
root=$SCRATCH/root
for dir in dev proc; do mount --rbind "/$dir" "$root/$dir"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/run/systemd/system" "$root/packages"
rm -f "$root/var/lib/man-db/auto-update"
rm -f "$root/usr/sbin/policy-rc.d"
for package in "$DEB" "$RPM"; do cp "$package" "$root/packages/"; done
: >"$root/told"
cat >"$root/usr/bin/systemctl" <<'END'
#!/bin/sh
echo "systemctl $*" >>/told
case "$*" in
*is-enabled*) exit 1 ;;
esac
END
chmod +x "$root/usr/bin/systemctl"
cp "$SCRIPT" "$root/script"
exec chroot "$root" /bin/bash -eu /script
`

// library are the functions of the scripts.
const library = `
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
deb=$(echo /packages/*.deb) rpm=$(echo /packages/*.rpm)
dpkg() { command dpkg --force-unsafe-io "$@" >>/log 2>&1 || { status=$?; cat /log; return $status; }; }
# Without its programs and pages the package is unpacked faster.
dpkg-deb -R "$deb" /small
echo >/small/usr/bin/kvd
echo >/small/usr/bin/kvctl
rm -r /small/usr/share/man
deb=/small.deb
dpkg-deb -Znone -b /small $deb >/dev/null
# older makes /older.deb, the package of an older version.
older() {
	sed -i 's/^Version: .*/Version: 0.0.1-1/' /small/DEBIAN/control
	dpkg-deb -Znone -b /small /older.deb >/dev/null
}
# state: all that the package and its scripts leave behind.
state() {
	for path in /etc/kvd /var/lib/kvd /var/backups/kvd; do
		[ ! -e "$path" ] || find "$path" -printf '%p %m %u:%g\n' | LC_ALL=C sort
	done
	getent passwd kvd | cut -d: -f1,5-
	[ ! -d /var/lib/systemd/deb-systemd-helper-enabled ] ||
		find /var/lib/systemd/deb-systemd-helper-enabled -name '*kvd*' | LC_ALL=C sort
	dpkg-query -W -f '${Status}\n' kvd 2>/dev/null || echo 'not known'
}
`

// in runs a script in a root of its own, and returns what it printed.
func in(t *testing.T, script string) (string, error) {
	t.Helper()
	scratch := t.TempDir()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(library+script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", setup)
	cmd.Env = append(os.Environ(), "SCRATCH="+scratch, "SCRIPT="+file,
		"DEB="+one(t, "kvd_*_amd64.deb"), "RPM="+one(t, "kvd-*.x86_64.rpm"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// runs is in, and the script must not fail.
func runs(t *testing.T, script string) string {
	t.Helper()
	out, err := in(t, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func has(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
}

func lacks(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(out, part) {
			t.Errorf("%q is in\n%s", part, out)
		}
	}
}

// cut are functions of the scripts. cut_at puts commands before those that the
// maintainer scripts call: the one that is called as number $1 kills the script
// that called it. save and restore keep what a script changes.
const cut = `
cut_at() {
	mkdir -p /cut
	echo 0 >/cut/count
	for name in systemd-sysusers systemd-tmpfiles journalctl timeout chown chmod dpkg-statoverride deb-systemd-helper deb-systemd-invoke systemctl find rmdir rm; do
		cat >/cut/$name <<END
#!/bin/sh
n=\$((\$(cat /cut/count) + 1))
echo \$n >/cut/count
[ \$n = "$1" ] && kill -9 \$PPID && exit 1
PATH=$PATH exec $name "\$@"
END
		chmod +x /cut/$name
	done
}
saved="etc/kvd var/lib/kvd var/backups/kvd var/lib/systemd/deb-systemd-helper-enabled var/lib/systemd/deb-systemd-helper-masked"
save() { tar -C / -cf /saved.tar --ignore-failed-read $saved etc/passwd etc/group etc/shadow etc/gshadow 2>/dev/null; }
restore() {
	(cd / && rm -rf $saved)
	tar -C / -xpf /saved.tar
}
`

// calls is how many commands the scripts of a step have called.
func calls(t *testing.T, out string) int {
	t.Helper()
	found := regexp.MustCompile(`(?m)^called (\d+)$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no number of calls in\n%s", out)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil || n < 1 {
		t.Fatalf("%d calls (%v) in\n%s", n, err, out)
	}
	return n
}
