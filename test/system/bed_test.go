package system

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

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

// packages are what the tests install, in one directory.
type packages struct {
	dir                          string
	deb, rpm, olderDeb, olderRPM string // where a host has them
}

// collect copies the packages that were built to where hosts see them, as
// /packages: what is new in dist, what is older in previous.
func collect() (packages, error) {
	p := packages{dir: filepath.Join(workdir, "packages")}
	for _, c := range []struct {
		from, to string
		path     *string
	}{
		{"system/kvd_*.deb", "dist", &p.deb},
		{"system/kvd-*.rpm", "dist", &p.rpm},
		{"previous/kvd_*.deb", "previous", &p.olderDeb},
		{"previous/kvd-*.rpm", "previous", &p.olderRPM},
	} {
		found, err := filepath.Glob(filepath.Join(os.Getenv("KVD_TEST_PACKAGES"), c.from))
		if err != nil {
			return p, err
		}
		if len(found) != 1 {
			return p, fmt.Errorf("%d files are %s; make test-system builds them", len(found), c.from)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			return p, err
		}
		name := filepath.Join(c.to, filepath.Base(found[0]))
		*c.path = filepath.Join("/packages", name)
		if err := os.MkdirAll(filepath.Join(p.dir, c.to), 0o755); err != nil {
			return p, err
		}
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o644); err != nil {
			return p, err
		}
	}
	return p, nil
}

var built = sync.OnceValues(collect)

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
	for _, tool := range []string{"debootstrap", "systemd-nspawn", "nsenter", "unshare", "ip"} {
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
