package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s\nlacks %q", text, part)
		}
	}
}

func TestAllFaultsAreListedAtOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kvd.toml")
	must(t, os.WriteFile(file, []byte("name = \"n1\"\n\nheartbeet-interval = \"100ms\"\n"), 0o600))
	environ := []string{"KVD_MAX_TXN_OPS=many"}
	data := filepath.Join(dir, "data")
	args := []string{"--config-file=" + file, "--data-dir=" + data, "--election-timeout=1ms", "--no-such-flag"}
	status, said := outcome(t, environ, args...)
	if status != 78 {
		t.Errorf("status %d", status)
	}
	parts := []string{file + ":3:", "heartbeet-interval", "heartbeat-interval", "KVD_MAX_TXN_OPS", "election-timeout", "no-such-flag"}
	contains(t, said, parts...)
	if _, err := os.Stat(data); err == nil {
		t.Error("something was written")
	}
	status, said = outcome(t, environ, append([]string{"config", "check"}, args...)...)
	if status != 78 {
		t.Errorf("config check: status %d", status)
	}
	contains(t, said, parts...)
}

func TestTheConfigurationIsExplained(t *testing.T) {
	status, said := outcome(t, []string{"KVD_NAME=n7"}, "config", "explain", "--config-file=", "--max-txn-ops=9")
	if status != 0 {
		t.Errorf("status %d", status)
	}
	contains(t, said, "n7", "environment KVD_NAME", "flag --max-txn-ops", "default")
	status, said = outcome(t, nil, "config", "check", "--config-file=")
	if status != 0 {
		t.Errorf("config check: status %d: %s", status, said)
	}
	for _, args := range [][]string{{"config"}, {"config", "chekc"}} {
		if status, said := outcome(t, nil, args...); status != 78 || !strings.Contains(said, "usage:") {
			t.Errorf("%q: status %d: %s", args, status, said)
		}
	}
	if status, said := outcome(t, nil, "config", "--help"); status != 0 || !strings.Contains(said, "config explain") {
		t.Errorf("status %d: %s", status, said)
	}
}

func TestVersionAndHelpAreTold(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"-version"}, {"version"}, {"--version=true", "--name=x"}} {
		status, said := outcome(t, nil, args...)
		if status != 0 || !strings.HasPrefix(said, "kvd Version: ") || !strings.Contains(said, "etcd API: 3.7.3") {
			t.Errorf("%q: status %d: %s", args, status, said)
		}
	}
	for _, arg := range []string{"--help", "-h", "help"} {
		status, said := outcome(t, nil, arg)
		if status != 0 || !strings.Contains(said, "--listen-client-urls") {
			t.Errorf("%s: status %d: %s", arg, status, said)
		}
	}
	// With a fault, so that it ends whatever the value is taken for.
	if status, said := outcome(t, nil, "--data-dir", "--version", "--max-txn-ops=many"); status != 78 || strings.HasPrefix(said, "kvd Version") {
		t.Errorf("a value was taken for a flag: status %d: %s", status, said)
	}
}

func TestASecondKvdIsToldWhoHoldsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	first := launch(t, command(t, nil, flags(dir)...))
	first.client(t)
	status, said := outcome(t, nil, flags(dir)...)
	if status != 1 {
		t.Errorf("status %d", status)
	}
	contains(t, said, fmt.Sprintf("process %d (kvd)", first.cmd.Process.Pid), dir)
	first.signal(t, syscall.SIGTERM)
	if status := first.status(t); status != 0 {
		t.Errorf("the first ended with %d", status)
	}
}

func TestTheServiceManagerFollowsALife(t *testing.T) {
	m := newManager(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "kvd.toml")
	must(t, os.WriteFile(file, nil, 0o600))
	args := append(flags(filepath.Join(dir, "data")), "--config-file="+file)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path}, args...))
	before := m.expect(t, "READY=1\nSTATUS=leader")
	for _, part := range []string{"STATUS=opening the database", "EXTEND_TIMEOUT_USEC="} {
		if !slices.ContainsFunc(before, func(s string) bool { return strings.Contains(s, part) }) {
			t.Errorf("not told %q before it was ready, but %q", part, before)
		}
	}
	must(t, os.WriteFile(file, []byte("log-level = \"debug\"\n"), 0o600))
	if status, said := outcome(t, nil, "config", "check", "--config-file="+file); status != 0 {
		t.Fatalf("the test's own file: %s", said)
	}
	p.signal(t, syscall.SIGHUP)
	m.expect(t, "RELOADING=1\nMONOTONIC_USEC=")
	m.expect(t, "READY=1")
	contains(t, p.hear(t, "reloaded the configuration"), "changed=[log-level]")

	must(t, os.WriteFile(file, []byte("nonsense = 1\n"), 0o600))
	p.signal(t, syscall.SIGHUP)
	m.expect(t, "RELOADING=1")
	m.expect(t, "READY=1")
	contains(t, p.hear(t, "the configuration was not reloaded"), file+":1", "nonsense")

	p.signal(t, syscall.SIGTERM)
	m.expect(t, "STOPPING=1")
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	p.hear(t, "received signal; shutting down signal=terminated")
}

func TestTheWatchdogHearsNothingOfAStoppedProcess(t *testing.T) {
	const interval = 600 * time.Millisecond
	m := newManager(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path, "WATCHDOG_USEC=" + strconv.Itoa(int(interval.Microseconds()))}, flags(t.TempDir())...))
	m.expect(t, "WATCHDOG=1")
	m.expect(t, "WATCHDOG=1")
	p.signal(t, syscall.SIGSTOP)
	waitStopped(t, p.cmd.Process.Pid)
	for len(m.told) > 0 {
		<-m.told
	}
	select {
	case text := <-m.told:
		t.Errorf("a stopped process told %q", text)
	case <-time.After(2 * interval):
	}
	p.signal(t, syscall.SIGCONT)
	m.expect(t, "WATCHDOG=1")
}

// waitStopped waits until the kernel has stopped a process.
func waitStopped(t testing.TB, pid int) {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		if _, state, ok := strings.Cut(string(b), ") "); ok && state[0] == 'T' {
			return
		}
	}
	t.Fatal("it does not stop")
}

func TestADirectoryThatIsNotOursIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // the other user may get here
	for _, data := range []string{dir, filepath.Join(dir, "data")} {
		cmd := command(t, nil, flags(data)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		p := launch(t, cmd)
		if status := p.status(t); status != 1 {
			t.Errorf("status %d", status)
		}
		contains(t, p.said(), data, "permission denied", "user ID 65534")
	}
}

func TestTooFewDescriptorsAreRefused(t *testing.T) {
	cmd := command(t, nil)
	cmd.Args = append([]string{"sh", "-c", `ulimit -n 150; exec "$0" "$@"`, cmd.Path}, flags(t.TempDir())...)
	shell, err := exec.LookPath("sh")
	must(t, err)
	cmd.Path = shell
	p := launch(t, cmd)
	if status := p.status(t); status != 1 {
		t.Errorf("status %d", status)
	}
	contains(t, p.said(), "limit of open files: 150 is too low", "LimitNOFILE=")
}

func TestALogThatCannotBeWrittenIsNamed(t *testing.T) {
	status, said := outcome(t, nil, flags(t.TempDir(), "--log-outputs=/no/such/directory/log")...)
	if status != 1 {
		t.Errorf("status %d", status)
	}
	contains(t, said, "log-outputs", "/no/such/directory/log")
}

func TestACorruptLogEndsTheStartWithStatusOne(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	c := dial(t, p.client(t))
	for range 20 {
		_, err := c.Put(limited(t), "k", strings.Repeat("v", 100))
		must(t, err)
	}
	p.signal(t, syscall.SIGTERM)
	p.status(t)
	segments, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	must(t, err)
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damage"), 900)
	must(t, err)
	must(t, f.Close())
	status, said := outcome(t, nil, flags(dir)...)
	if status != 1 {
		t.Errorf("status %d", status)
	}
	contains(t, said, "log is corrupt", segments[0], "at offset", "restore")
}
