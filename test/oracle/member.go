package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A Member is one server, as one process after another. One goroutine at a
// time may end or restart it; the rest may be used by any.
type Member struct {
	Options
	Binary Binary
	Front  *Member // the proxy that clients pass, which lives as long as the process; nil: none

	t    testing.TB
	log  string // the file that holds what its processes wrote
	http *http.Client

	mu sync.Mutex // guards what a restart exchanges
	process
}

// process is one run of a server.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// Launch starts a server without waiting for it. It is killed with the test;
// its log is printed if the test fails.
func Launch(t testing.TB, bin Binary, o Options) *Member {
	t.Helper()
	m, err := launch(t, bin, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func launch(t testing.TB, bin Binary, o Options) (*Member, error) {
	t.Helper()
	if err := o.complete(t); err != nil {
		return nil, err
	}
	proxy, err := between(t, bin, &o)
	if err != nil {
		return nil, err
	}
	m := &Member{Options: o, Binary: bin, t: t, Front: proxy}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return o.Connect(ctx, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	m.http = &http.Client{Transport: transport}
	m.log = filepath.Join(t.TempDir(), bin.Name+".log")
	if err := m.start(); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		m.Kill()
		if t.Failed() {
			t.Logf("%s %s wrote:\n%s", bin.Name, o.Name, m.tail(80))
		}
	})
	return m, nil
}

// start runs the server's program with its options as they are now.
func (m *Member) start() error {
	if m.Front != nil {
		select {
		case <-m.Front.Ended():
			if err := m.Front.start(); err != nil {
				return err
			}
		default:
		}
	}
	out, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	command := slices.Concat(m.Under, []string{m.Binary.Path}, m.flags())
	cmd := exec.Command(command[0], command[1:]...)
	if len(m.Sockets) > 0 { // they are addressed to a process by its id, which is the shell's here
		cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, command...)...)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = filepath.Dir(m.log) // nothing may land in the tree
	cmd.Env = append(Environment(), m.Env...)
	var names []string
	for _, s := range m.Sockets {
		cmd.ExtraFiles, names = append(cmd.ExtraFiles, s.File), append(names, s.Name)
	}
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.Binary.Name, err)
	}
	p := process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait() //nolint:errcheck // the exit status is in ProcessState
		if m.Front != nil {
			m.Front.Kill() // clients are to lose what they would lose without it
		}
		close(p.ended)
	}()
	m.mu.Lock()
	m.process = p
	m.mu.Unlock()
	return nil
}

// running returns the process of now.
func (m *Member) running() process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// Relaunch starts the member again, once its process has ended, with its
// options as they are now, and does not wait for it.
func (m *Member) Relaunch() {
	m.t.Helper()
	select {
	case <-m.Ended():
	default:
		m.t.Fatalf("%s %s is to start again while it runs", m.Binary.Name, m.Name)
	}
	if err := m.start(); err != nil {
		m.t.Fatal(err)
	}
}

// Restart is Relaunch that waits until the member is ready.
func (m *Member) Restart() {
	m.t.Helper()
	m.Relaunch()
	if err := m.Ready(ReadyWithin); err != nil {
		m.t.Fatalf("restart %s: %v", m.Name, err)
	}
}

// Environment is ours without what would configure a server.
func Environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCD_") && !strings.HasPrefix(v, "ETCDCTL_") &&
			!strings.HasPrefix(v, "KVD_") && !strings.HasPrefix(v, "NOTIFY_") &&
			!strings.HasPrefix(v, "LISTEN_") && !strings.HasPrefix(v, "WATCHDOG_") {
			env = append(env, v)
		}
	}
	return env
}

// Ready waits until the server says that it is ready, has ended, or the time
// is over.
func (m *Member) Ready(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	p := m.running()
	for {
		err := m.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready: %s", m.Binary.Name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w", m.Binary.Name, within, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ready asks once, and wants the versions of cluster and storage settled too:
// until then answers of a fresh server change by themselves.
func (m *Member) ready(ctx context.Context) error {
	page := "/readyz"
	if m.Learner {
		page = "/livez"
	}
	status, body, err := m.Get(ctx, page)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: %d %s", page, status, body)
	}
	if m.Proxy != "" {
		return nil
	}
	if _, body, err = m.get(ctx, m.listen+"/version"); err != nil {
		return err
	}
	var version struct{ Etcdcluster, Storage string }
	if err := json.Unmarshal([]byte(body), &version); err != nil || version.Etcdcluster != version.Storage {
		return fmt.Errorf("/version: %s", body)
	}
	return nil
}

// Get asks for a page of the client port.
func (m *Member) Get(ctx context.Context, path string) (status int, body string, err error) {
	return m.get(ctx, m.ClientURL+path)
}

func (m *Member) get(ctx context.Context, url string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Address is where clients connect, host:port.
func (m *Member) Address() string { return strings.TrimPrefix(m.ClientURL, "http://") }

// Dial connects to the client port; the connection ends with the test. Nothing
// is retried by it.
func (m *Member) Dial(more ...grpc.DialOption) *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.Address(), append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(m.Connect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)),
	}, more...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return conn
}

// Pid of the process.
func (m *Member) Pid() int { return m.running().cmd.Process.Pid }

// Signal sends a signal to the process.
func (m *Member) Signal(s syscall.Signal) error { return m.running().cmd.Process.Signal(s) }

// Pause stops the process without ending it; Resume lets it go on.
func (m *Member) Pause() error { return m.Signal(syscall.SIGSTOP) }

// Resume is the end of a Pause.
func (m *Member) Resume() error { return m.Signal(syscall.SIGCONT) }

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (m *Member) Kill() {
	p := m.running()
	select {
	case <-p.ended:
		return
	default:
	}
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended just now
	<-p.ended
}

// Stop ends the process with SIGTERM and fails the test unless it ends in
// order: with status 0, or of the signal itself as etcd does.
func (m *Member) Stop() {
	m.t.Helper()
	if err := m.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatalf("stop %s: %v", m.Binary.Name, err)
	}
	exit, err := m.Wait(30 * time.Second)
	if err != nil {
		m.t.Fatalf("stop %s: %v", m.Binary.Name, err)
	}
	if !exit.InOrder() {
		m.t.Fatalf("stop %s: ended with %s", m.Binary.Name, exit)
	}
}

// Ended is closed when the process has ended.
func (m *Member) Ended() <-chan struct{} { return m.running().ended }

// An Exit is how a process ended.
type Exit struct{ *os.ProcessState }

// InOrder tells whether the process ended by its own decision, without fault.
func (e Exit) InOrder() bool {
	status, ok := e.Sys().(syscall.WaitStatus)
	return e.Success() || ok && status.Signaled() && status.Signal() == syscall.SIGTERM
}

// Wait returns how the process ended, or an error if it is still there after
// the time given.
func (m *Member) Wait(within time.Duration) (Exit, error) {
	p := m.running()
	select {
	case <-p.ended:
		return Exit{p.cmd.ProcessState}, nil
	case <-time.After(within):
		return Exit{}, fmt.Errorf("%s has not ended after %s", m.Binary.Name, within)
	}
}

// LogFile names the file that holds what all processes of the member wrote.
func (m *Member) LogFile() string { return m.log }

// Log returns what the member has written so far.
func (m *Member) Log() string {
	b, err := os.ReadFile(m.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(b)
}

// tail returns the last lines of the log.
func (m *Member) tail(lines int) string {
	all := bytes.Split(bytes.TrimSpace([]byte(m.Log())), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	for i, line := range all {
		all[i] = line[:min(len(line), 600)]
	}
	return string(bytes.Join(all, []byte("\n")))
}

// Run runs a program to its end and returns what it wrote to either stream.
// Nothing of our own environment that configures clients reaches it.
func (b Binary) Run(t testing.TB, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.Path, args...)
	cmd.Env = Environment()
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// MustRun is Run that fails the test if the program does.
func (b Binary) MustRun(t testing.TB, args ...string) string {
	t.Helper()
	out, err := b.Run(t, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", b.Name, strings.Join(args, " "), err, out)
	}
	return out
}
