package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
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
	if status, said := outcome(t, nil, "--data-dir", "--version"); status != 78 && strings.HasPrefix(said, "kvd Version") {
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

// socket listens and returns the file to hand over.
func socket(t testing.TB) (*os.File, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file, l.Addr().String()
}

// handing makes a command that takes over sockets with these names. A shell
// stands between: the announcement carries the process's own ID.
func handing(t testing.TB, names string, files []*os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(t, []string{"LISTEN_FDS=" + strconv.Itoa(len(files)), "LISTEN_FDNAMES=" + names})
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, args...)
	shell, err := exec.LookPath("sh")
	must(t, err)
	cmd.Path, cmd.ExtraFiles = shell, files
	return cmd
}

func TestInheritedSocketsReplaceTheConfigured(t *testing.T) {
	client, clientAt := socket(t)
	metrics, metricsAt := socket(t)
	p := launch(t, handing(t, "client:metrics", []*os.File{client, metrics}, "--config-file=", "--name=n1", "--data-dir="+t.TempDir(),
		"--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:2"))
	if got := p.client(t); got != clientAt {
		t.Errorf("clients at %s, want the inherited %s", got, clientAt)
	}
	_, err := dial(t, clientAt).Put(limited(t), "k", "v")
	must(t, err)
	contains(t, p.hear(t, "now serving peer/client/metrics"), "listen-metrics-urls=[http://"+metricsAt+"]")
	conn, err := net.Dial("tcp", metricsAt)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte("GET /readyz HTTP/1.0\r\n\r\n"))
	must(t, err)
	answer := make([]byte, 12)
	_, err = conn.Read(answer)
	must(t, err)
	if string(answer) != "HTTP/1.0 200" {
		t.Errorf("%q", answer)
	}
}

func TestSocketsThatDoNotMatchAreAConfigurationError(t *testing.T) {
	for _, c := range []struct {
		names string
		args  []string
		parts []string
	}{
		{"client", []string{"--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1"}, []string{"ListenStream=", "listen-client-urls"}},
		{"clients", nil, []string{`"clients"`, "FileDescriptorName="}},
	} {
		file, _ := socket(t)
		dir := filepath.Join(t.TempDir(), "data")
		p := launch(t, handing(t, c.names, []*os.File{file}, append([]string{"--config-file=", "--data-dir=" + dir, "--listen-peer-urls=http://127.0.0.1:0"}, c.args...)...))
		if status := p.status(t); status != 78 {
			t.Errorf("%s: status %d", c.names, status)
		}
		contains(t, p.said(), c.parts...)
		if _, err := os.Stat(dir); err == nil {
			t.Error("something was written")
		}
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

// TestATermLosesNothingAcknowledged ends a member while clients write and
// watch.
func TestATermLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	c := dial(t, p.client(t))
	events := c.Watch(limited(t), "k", clientv3.WithPrefix())
	var mu sync.Mutex
	acknowledged := map[string]string{}
	var writing sync.WaitGroup
	for w := range 8 {
		writing.Go(func() {
			for i := range 1_000_000 {
				key, value := fmt.Sprintf("k%d/%d", w, i), fmt.Sprint(i)
				if _, err := c.Put(limited(t), key, value); err != nil {
					return
				}
				mu.Lock()
				acknowledged[key] = value
				mu.Unlock()
			}
		})
	}
	enough := func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) >= 500 }
	for limit := time.Now().Add(patience); !enough(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is too slow for this test")
		}
	}
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v, though nothing hung", took)
	}
	c.Close()
	writing.Wait()
	if e, ok := <-events; !ok || len(e.Events) == 0 {
		t.Error("the watch saw nothing")
	}

	again := launch(t, command(t, nil, flags(dir)...))
	r, err := dial(t, again.client(t)).Get(limited(t), "k", clientv3.WithPrefix())
	must(t, err)
	for _, kv := range r.Kvs {
		if acknowledged[string(kv.Key)] == string(kv.Value) {
			delete(acknowledged, string(kv.Key))
		}
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged puts are lost, as %v", len(acknowledged), acknowledged)
	}
}

// held makes a data directory whose database somebody else has open, so that a
// start hangs for a while.
func held(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	p.client(t)
	p.signal(t, syscall.SIGTERM)
	p.status(t)
	db, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	must(t, unix.Flock(int(db.Fd()), unix.LOCK_EX))
	return dir
}

func TestATermBeforeReadinessEndsTheStart(t *testing.T) {
	m := newManager(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path}, flags(held(t))...))
	m.expect(t, "STATUS=opening the database")
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	p.hear(t, "stopped before the member was open")
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	m := newManager(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path}, flags(held(t))...))
	m.expect(t, "STATUS=opening the database")
	p.signal(t, syscall.SIGTERM)
	p.hear(t, "received signal; shutting down")
	time.Sleep(echo + 50*time.Millisecond) // sooner it is taken for the same signal
	p.signal(t, syscall.SIGINT)
	if status := p.status(t); status != 128+int(syscall.SIGINT) {
		t.Errorf("status %d", status)
	}
	p.hear(t, "told to stop again; ending at once")
}

func TestASignalThatComesTwiceIsOne(t *testing.T) {
	p := launch(t, command(t, nil, flags(t.TempDir())...))
	p.client(t)
	p.signal(t, syscall.SIGTERM)
	p.signal(t, syscall.SIGINT)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
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
