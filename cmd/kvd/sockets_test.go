package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

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
