package sd

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// datagrams is a socket that stands for systemd's or journald's end.
func datagrams(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn, path
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 1<<20)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNoticesAreWrittenAsSystemdReadsThem(t *testing.T) {
	conn, path := datagrams(t)
	t.Setenv("NOTIFY_SOCKET", path)
	n := NewNotifier()
	if !n.Listening() {
		t.Fatal("the socket was not seen")
	}
	for _, c := range []struct {
		send func() error
		want string
	}{
		{func() error { return n.Ready("serving on two addresses") }, "READY=1\nSTATUS=serving on two addresses"},
		{func() error { return n.Status("one\nREADY=1") }, "STATUS=one READY=1"},
		{func() error { return n.Stopping("handing over") }, "STOPPING=1\nSTATUS=handing over"},
		{func() error { return n.Extend(1500 * time.Millisecond) }, "EXTEND_TIMEOUT_USEC=1500000"},
		{n.Alive, "WATCHDOG=1"},
	} {
		if err := c.send(); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, conn); got != c.want {
			t.Errorf("sent %q, want %q", got, c.want)
		}
	}
}

func TestReloadingCarriesItsTime(t *testing.T) {
	conn, path := datagrams(t)
	t.Setenv("NOTIFY_SOCKET", path)
	if err := NewNotifier().Reloading("reading it again"); err != nil {
		t.Fatal(err)
	}
	told, ok := strings.CutPrefix(receive(t, conn), "RELOADING=1\nMONOTONIC_USEC=")
	stamp, status, _ := strings.Cut(told, "\n")
	if status != "STATUS=reading it again" {
		t.Errorf("status %q", status)
	}
	if usec, err := strconv.ParseUint(stamp, 10, 64); !ok || err != nil || usec == 0 {
		t.Errorf("time stamp %q: %v", stamp, err)
	}
}

func TestWithoutSystemdNothingIsSaidOrFound(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "JOURNAL_STREAM"} {
		t.Setenv(name, "")
	}
	if err := NewNotifier().Ready("x"); err != nil {
		t.Error(err)
	}
	if interval, err := Watchdog(); interval != 0 || err != nil {
		t.Errorf("watchdog %v, %v", interval, err)
	}
	if sockets, err := Inherit(); len(sockets) != 0 || err != nil {
		t.Errorf("sockets %v, %v", sockets, err)
	}
	if UnderJournal() {
		t.Error("found a journal")
	}
}

func TestANoticeToNobodyIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "absent"))
	if err := NewNotifier().Ready("x"); err == nil {
		t.Error("no error")
	}
}

func TestWatchdogIntervalIsThatOfThisProcess(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if interval, err := Watchdog(); interval != 30*time.Second || err != nil {
		t.Errorf("%v, %v", interval, err)
	}
	t.Setenv("WATCHDOG_PID", "1")
	if interval, err := Watchdog(); interval != 0 || err != nil {
		t.Errorf("another process's: %v, %v", interval, err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := Watchdog(); err == nil {
		t.Error("no error for a bad interval")
	}
}

// TestInheritInAChild runs only as the child of the tests below.
func TestInheritInAChild(t *testing.T) {
	if os.Getenv("SD_TEST_CHILD") == "" {
		t.Skip("run by TestSocketsAreInheritedByName")
	}
	sockets, err := Inherit()
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	if len(sockets[SocketClient]) != 2 || len(sockets[SocketMetrics]) != 1 || len(sockets[SocketPeer]) != 0 {
		t.Fatalf("child: got %v", sockets)
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if _, set := os.LookupEnv(name); set {
			t.Errorf("child: %s is still set", name)
		}
	}
	for _, file := range sockets[SocketClient] {
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatalf("child: %v", err)
		}
		l.Close()
	}
	sockets.Close()
	if again, err := Inherit(); len(again) != 0 || err != nil {
		t.Errorf("child: a second time %v, %v", again, err)
	}
}

// inherit runs TestInheritInAChild with three listening sockets of the given
// names, as systemd would start it.
func inherit(t *testing.T, names string) (string, error) {
	t.Helper()
	var files []*os.File
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		files = append(files, file)
	}
	// LISTEN_PID must be the child's own, which only a shell can know before.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestInheritInAChild$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "SD_TEST_CHILD=1", "LISTEN_FDS=3", "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestSocketsAreInheritedByName(t *testing.T) {
	if out, err := inherit(t, "client:metrics:client"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAnUnknownSocketNameIsRefused(t *testing.T) {
	out, err := inherit(t, "client:kvd.socket:metrics")
	if err == nil {
		t.Fatal("accepted")
	}
	if !strings.Contains(out, `unknown name "kvd.socket"`) || !strings.Contains(out, "FileDescriptorName=") {
		t.Errorf("unhelpful: %s", out)
	}
}

func TestCredentialsAreFoundInTheirDirectory(t *testing.T) {
	env := func(name string) string { return map[string]string{"CREDENTIALS_DIRECTORY": "/run/c"}[name] }
	for path, want := range map[string]string{
		"credential:key.pem": "/run/c/key.pem",
		"/etc/key.pem":       "/etc/key.pem",
		"":                   "",
	} {
		if got, err := CredentialPath(path, env); got != want || err != nil {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"credential:", "credential:..", "credential:a/b"} {
		if got, err := CredentialPath(path, env); err == nil {
			t.Errorf("%q resolved to %q", path, got)
		}
	}
	if _, err := CredentialPath("credential:key.pem", func(string) string { return "" }); err == nil {
		t.Error("resolved without a directory")
	}
}

func TestDirectoriesAreTakenFromTheUnit(t *testing.T) {
	env := func(name string) string { return map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}[name] }
	if got := State.Path(env); got != "/var/lib/a" {
		t.Errorf("state directory %q", got)
	}
	if got := Cache.Path(env); got != "" {
		t.Errorf("cache directory %q", got)
	}
}
