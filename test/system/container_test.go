package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	groupNames = "kvd-system-" // of control groups and network namespaces; then the process that made it

	bootLimit    = 4 * time.Minute
	commandLimit = 4 * time.Minute
	patience     = 2 * time.Minute // for what must happen by itself
)

// A host is a Debian of its own that is booted in a container. It ends with the
// test, and with this process if that is killed.
type host struct {
	t     *testing.T
	name  string // host name, too
	dir   string // what it has changed of the tree
	space string // network namespace; empty: one of its own, with loopback alone

	group  string // control group; all processes of the host are in it
	cmd    *exec.Cmd
	ended  chan struct{}
	leader int // process ID of its systemd
}

var booted atomic.Int64 // numbers the control groups

// newHost boots a host with nothing but loopback.
func newHost(t *testing.T, name string) *host {
	t.Helper()
	return newHostIn(t, name, "")
}

// newHostIn boots a host in a network namespace.
func newHostIn(t *testing.T, name, space string) *host {
	t.Helper()
	h := &host{t: t, name: name, space: space, dir: filepath.Join(t.TempDir(), name)}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What is lost with the power of the real machine is lost with the test.
	quick := filepath.Join(h.dir, "upper/etc/dpkg/dpkg.cfg.d/quick")
	if err := os.MkdirAll(filepath.Dir(quick), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(quick, []byte("force-unsafe-io\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.boot()
	t.Cleanup(func() {
		if t.Failed() {
			h.tell()
		}
		h.cut()
	})
	return h
}

// step runs a part of a test that stands on what the parts before have left.
func (h *host) step(claim string, do func()) {
	h.t.Helper()
	outer := h.t
	defer func() { h.t = outer }()
	if !outer.Run(claim, func(t *testing.T) { h.t = t; do() }) {
		h.t = outer
		outer.FailNow()
	}
}

// start is what becomes systemd-nspawn. The mounts are in a namespace of its
// own, and so gone with it. $1 tree, $2 directory; the rest is for nspawn.
const start = `
tree=$1 dir=$2; shift 2
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
	umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
fi
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/root" || exit 1
exec systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off -D "$dir/root" "$@"
`

// boot starts the host and waits until all that it starts by itself runs.
func (h *host) boot() {
	h.t.Helper()
	root, packages := need(h.t)
	groups, err := controlGroups()
	if err != nil {
		h.t.Fatal(err)
	}
	h.group = filepath.Join(groups, fmt.Sprintf("%s%d-%d", groupNames, os.Getpid(), booted.Add(1)))
	if err := os.Mkdir(h.group, 0o755); err != nil {
		h.t.Fatal(err)
	}
	group, err := os.Open(h.group)
	if err != nil {
		h.t.Fatal(err)
	}
	defer group.Close()
	args := []string{
		"--mount", "--propagation=private", "sh", "-c", start, "sh", root, h.dir,
		"--machine=" + h.name, "--hostname=" + h.name, "--bind-ro=" + packages.dir + ":/packages",
	}
	if h.space == "" {
		args = append(args, "--private-network")
	} else {
		args = append(args, "--network-namespace-path=/run/netns/"+h.space)
	}
	h.cmd = exec.Command("unshare", args...)
	console, err := os.Create(h.console())
	if err != nil {
		h.t.Fatal(err)
	}
	defer console.Close()
	h.cmd.Stdout, h.cmd.Stderr = console, console
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	h.ended = ended
	go func(cmd *exec.Cmd) {
		defer close(ended)
		cmd.Wait() // the console says why
	}(h.cmd)
	h.awaitBoot()
}

func (h *host) console() string { return filepath.Join(h.dir, "console") }

// awaitBoot waits for the host's systemd, and for what that starts.
func (h *host) awaitBoot() {
	h.t.Helper()
	limit := time.After(bootLimit)
	var out string
	for {
		h.leader = child(h.cmd.Process.Pid)
		if h.leader != 0 {
			switch out, _ = h.try("systemctl is-system-running --wait"); out {
			case "running":
				return
			case "degraded":
				h.t.Fatalf("%s: %s", h.name, h.run("systemctl --failed; journalctl -b -p warning"))
			}
		}
		select {
		case <-h.ended:
		case <-limit:
		case <-time.After(50 * time.Millisecond):
			continue
		}
		console, err := os.ReadFile(h.console())
		h.t.Fatalf("%s does not boot: %s\n%s%v", h.name, out, console, err)
	}
}

// child is the first child of a process, 0 if it has none.
func child(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	var first int
	fmt.Sscan(string(b), &first) // none: 0
	return first
}

// cut ends the host as a power cut does: at once and without its knowledge.
func (h *host) cut() {
	h.t.Helper()
	if h.group == "" {
		return
	}
	h.cmd.Process.Kill() // it may have ended
	<-h.ended
	if err := removeGroup(h.group); err != nil {
		h.t.Error(err)
	}
	h.group, h.leader = "", 0
}

// controlGroups is where control groups of the second version are mounted.
func controlGroups() (string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no control groups of version 2 are mounted")
}

// removeGroup kills what is in a control group, and removes it.
func removeGroup(path string) error {
	if err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := removeTree(path)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// removeTree removes the directories of a control group, the innermost first;
// the files in them are not to be removed.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}

// command prepares a shell's work on the host, as its root.
func (h *host) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "--all", fmt.Sprintf("--target=%d", h.leader), "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_COLORS=0",
		"sh", "-c", "cd /root; exec 2>&1; "+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// try runs a script and returns what it says and its status.
func (h *host) try(script string) (string, int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	out, err := h.command(ctx, script).Output()
	said := strings.TrimSpace(string(out))
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		h.t.Fatalf("%s: %s: not ended after %s; it said\n%s", h.name, script, commandLimit, said)
	case errors.As(err, &ended):
		return said, ended.ExitCode()
	case err != nil:
		h.t.Fatalf("%s: %s: %v", h.name, script, err)
	}
	return said, 0
}

// run runs a script that must succeed.
func (h *host) run(script string) string {
	h.t.Helper()
	out, status := h.try(script)
	if status != 0 {
		h.t.Fatalf("%s: %s: status %d\n%s", h.name, script, status, out)
	}
	return out
}

// write writes a file of the host.
func (h *host) write(path, content string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := h.command(ctx, "mkdir -p $(dirname "+path+") && cat > "+path)
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.Output(); err != nil {
		h.t.Fatalf("%s: write %s: %v: %s", h.name, path, err, out)
	}
}

// says runs a script that must say all the parts.
func (h *host) says(script string, parts ...string) string {
	h.t.Helper()
	out := h.run(script)
	for _, part := range parts {
		if !strings.Contains(out, part) {
			h.t.Fatalf("%s: %s: nothing of %q in\n%s", h.name, script, part, out)
		}
	}
	return out
}

// lacks runs a script that must say none of the parts, whatever its status.
func (h *host) lacks(script string, parts ...string) {
	h.t.Helper()
	out, _ := h.try(script)
	for _, part := range parts {
		if strings.Contains(out, part) {
			h.t.Fatalf("%s: %s: there is %q in\n%s", h.name, script, part, out)
		}
	}
}

// comes repeats a script until it says all the parts.
func (h *host) comes(script string, parts ...string) string {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, _ := h.try(script)
		missing := ""
		for _, part := range parts {
			if !strings.Contains(out, part) {
				missing = part
			}
		}
		if missing == "" {
			return out
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: %s: after %s still nothing of %q in\n%s", h.name, script, patience, missing, out)
		}
	}
}

// property is what systemd knows of a unit.
func (h *host) property(unit, name string) string {
	h.t.Helper()
	return h.run("systemctl show --value -p " + name + " " + unit)
}

// tell logs what a person would look at.
func (h *host) tell() {
	if h.leader == 0 {
		return
	}
	out, _ := h.try("systemctl --no-pager --full status 'kvd*'; journalctl --no-pager -o short-precise -p info -n 150")
	h.t.Logf("%s:\n%s", h.name, out)
}
