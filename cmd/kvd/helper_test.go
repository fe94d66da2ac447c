package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// home is where the program is built; TestMain makes and removes it.
var home string

// build makes the program, once for all tests, where every user may run it.
var build = sync.OnceValues(func() (string, error) {
	program := filepath.Join(home, "kvd")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, os.Chmod(home, 0o755)
})

func TestMain(m *testing.M) {
	var err error
	if home, err = os.MkdirTemp("", "kvd-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(home)
	os.Exit(status)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flags of a member on ports that the kernel chooses.
func flags(dir string, more ...string) []string {
	return append([]string{
		"--config-file=", "--name=n1", "--data-dir=" + dir,
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1",
		"--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:2",
	}, more...)
}

// process is a kvd of its own.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced with each line
	eof   bool
}

// command prepares a process. The environment is the given one alone, but for
// what a program needs.
func command(t testing.TB, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := build()
	must(t, err)
	cmd := exec.Command(program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, environ...)
	cmd.Dir = t.TempDir()
	return cmd
}

// launch starts a process; it is killed when the test ends.
func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{}), grown: make(chan struct{})}
	out, in, err := os.Pipe()
	must(t, err)
	cmd.Stdout, cmd.Stderr = in, in
	must(t, cmd.Start())
	in.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.read(out)
	}()
	go func() {
		defer close(p.ended)
		<-read
		cmd.Wait() // the status says it
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("process %d said:\n%s", cmd.Process.Pid, p.said())
		}
	})
	return p
}

func (p *process) read(out io.ReadCloser) {
	defer out.Close()
	for in := bufio.NewScanner(out); in.Scan(); {
		p.add(in.Text(), false)
	}
	p.add("", true)
}

func (p *process) add(line string, eof bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.eof = eof; !eof {
		p.lines = append(p.lines, line)
	}
	close(p.grown)
	p.grown = make(chan struct{})
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// hear waits for a line with a part.
func (p *process) hear(t testing.TB, part string) string {
	t.Helper()
	limit := time.After(patience)
	for next := 0; ; {
		p.mu.Lock()
		lines, grown, eof := p.lines[next:], p.grown, p.eof
		next = len(p.lines)
		p.mu.Unlock()
		for _, line := range lines {
			if strings.Contains(line, part) {
				return line
			}
		}
		if eof {
			t.Fatalf("it ended without saying %q:\n%s", part, p.said())
		}
		select {
		case <-grown:
		case <-limit:
			t.Fatalf("it never said %q:\n%s", part, p.said())
		}
	}
}

// status waits for the end.
func (p *process) status(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("it does not end:\n%s", p.said())
		return 0
	}
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(s))
}

var address = regexp.MustCompile(`address=(\S+)`)

// client waits until the process is ready and returns where clients reach it.
func (p *process) client(t testing.TB) string {
	t.Helper()
	found := address.FindStringSubmatch(p.hear(t, "ready to serve client requests"))
	if found == nil {
		t.Fatal("it does not say where")
	}
	return found[1]
}

// outcome runs a program to its end.
func outcome(t testing.TB, environ []string, args ...string) (status int, said string) {
	t.Helper()
	p := launch(t, command(t, environ, args...))
	status = p.status(t)
	return status, p.said()
}

func dial(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialTimeout: patience})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// manager is a service manager that hears what a process tells it.
type manager struct {
	path string
	told chan string
}

func newManager(t testing.TB) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify"), told: make(chan string, 10_000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			m.told <- string(buffer[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return m
}

// expect waits for a notice with a part, and returns what came before it.
func (m *manager) expect(t testing.TB, part string) (before []string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case text := <-m.told:
			if strings.Contains(text, part) {
				return before
			}
			before = append(before, text)
		case <-limit:
			t.Fatalf("never told %q, but\n%s", part, strings.Join(before, "\n"))
		}
	}
}
