package system

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suite = "bookworm"
	// included is what a host has that somebody administers, beyond the minimum.
	included = "systemd,systemd-sysv,dbus,libpam-systemd,iproute2,procps,curl,openssl,rpm"
	hosts    = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" +
		"10.78.0.1 kvd1\n10.78.0.2 kvd2\n10.78.0.3 kvd3\n10.78.0.4 client\n"
)

// tree is Debian as all containers see it below their own changes.
var tree = sync.OnceValues(makeTree)

// makeTree makes the tree unless it is in the cache. It appears whole or not at
// all, and one process makes it at a time.
func makeTree() (string, error) {
	cache, err := filepath.Abs("../.cache/system")
	if err != nil {
		return "", err
	}
	recipe := sha256.Sum256([]byte(suite + included + hosts))
	path := filepath.Join(cache, fmt.Sprintf("%s-%x", suite, recipe[:6]))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	making := path + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", err
	}
	if out, err := exec.Command("debootstrap", "--variant=minbase", "--include="+included, suite, making).CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap: %w\n%s", err, out)
	}
	if err := furnish(making); err != nil {
		return "", err
	}
	return path, os.Rename(making, path)
}

// furnish makes a host of what debootstrap has left.
func furnish(root string) error {
	for _, name := range []string{"var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf"} {
		if err := os.Remove(filepath.Join(root, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	// Empty: each host gets one of its own, and none is asked about its first boot.
	if err := os.WriteFile(filepath.Join(root, "etc/machine-id"), nil, 0o444); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(root, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, a := range archives {
		if err := os.Remove(a); err != nil {
			return err
		}
	}
	// A journal on disk outlives a power cut.
	if err := os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "etc/hosts"), []byte(hosts), 0o644)
}

// packages are what the tests install; made once.
type packages struct {
	dir      string // has all of them
	deb, rpm string // names in dir
	previous string // a deb of an older version
}

var built = sync.OnceValues(func() (packages, error) {
	p := packages{dir: os.Getenv("KVD_TEST_PACKAGES")}
	for pattern, name := range map[string]*string{"kvd_*_amd64.deb": &p.deb, "kvd-*.x86_64.rpm": &p.rpm} {
		var err error
		if *name, err = newest(filepath.Join(p.dir, pattern)); err != nil {
			return p, err
		}
	}
	dir := filepath.Join(workdir, "packages")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return p, err
	}
	for _, name := range []*string{&p.deb, &p.rpm} {
		b, err := os.ReadFile(*name)
		if err != nil {
			return p, err
		}
		*name = filepath.Base(*name)
		if err := os.WriteFile(filepath.Join(dir, *name), b, 0o644); err != nil {
			return p, err
		}
	}
	p.dir, p.previous = dir, "kvd_"+previousVersion+"_amd64.deb"
	return p, p.makePrevious()
})

// newest is the file of a pattern that was made last.
func newest(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	var last string
	var made time.Time
	for _, path := range found {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if last == "" || info.ModTime().After(made) {
			last, made = path, info.ModTime()
		}
	}
	if last == "" {
		return "", fmt.Errorf("there is no %s; make package", pattern)
	}
	return last, nil
}

// previousVersion is older than any that is built from this tree.
const previousVersion = "0.0.1"

// makePrevious makes a package of an older version: today's, with programs that
// say they are older.
func (p packages) makePrevious() error {
	root := filepath.Join(workdir, "previous")
	for _, step := range [][]string{
		{"dpkg-deb", "-R", filepath.Join(p.dir, p.deb), root},
		{"go", "-C", "../..", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w -X main.version=" + previousVersion, "-o", filepath.Join(root, "usr/bin") + "/", "./cmd/..."},
		{"sed", "-i", "s/^Version: .*/Version: " + previousVersion + "/", filepath.Join(root, "DEBIAN/control")},
		{"sh", "-c", `cd "$0" && if [ -e DEBIAN/md5sums ]; then find usr -type f -exec md5sum {} + >DEBIAN/md5sums; fi`, root},
		{"dpkg-deb", "-Znone", "-b", root, filepath.Join(p.dir, p.previous)},
	} {
		cmd := exec.Command(step[0], step[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(step, " "), err, out)
		}
	}
	return nil
}

// workdir is removed with all in it when the tests have run.
var workdir string

func TestMain(m *testing.M) {
	if os.Getenv("KVD_TEST_PACKAGES") == "" {
		fmt.Println("system: skipped; make test-system runs these tests")
		return
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	for _, tool := range []string{"debootstrap", "systemd-nspawn", "nsenter", "ip", "dpkg-deb", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("%v (Debian: debootstrap, systemd-container, util-linux, iproute2)\n", err)
			return 1
		}
	}
	if os.Geteuid() != 0 {
		fmt.Println("the containers of these tests are for root to boot")
		return 1
	}
	if err := sweep(); err != nil {
		fmt.Println("removing what is left of an earlier run:", err)
		return 1
	}
	var err error
	if workdir, err = os.MkdirTemp("", "kvd-system-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(workdir)
	if err := os.Chmod(workdir, 0o755); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// need returns the tree and the packages.
func need(t testing.TB) (string, packages) {
	t.Helper()
	root, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	p, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return root, p
}

// sweep removes what test processes left that are no more. Their containers
// have ended with them.
func sweep() error {
	groups, err := controlGroups()
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(groups, groupNames+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if orphaned(filepath.Base(path), groupNames) {
			if err := removeGroup(path); err != nil {
				return err
			}
		}
	}
	spaces, err := filepath.Glob(filepath.Join("/run/netns", groupNames+"*"))
	if err != nil {
		return err
	}
	for _, path := range spaces {
		if name := filepath.Base(path); orphaned(name, groupNames) {
			if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	return nil
}

// orphaned says that the process in a name "PREFIX<pid>-…" is gone.
func orphaned(name, prefix string) bool {
	var pid int
	_, err := fmt.Sscanf(name, prefix+"%d-", &pid)
	return err == nil && errors.Is(unix.Kill(pid, 0), syscall.ESRCH)
}
