package listen

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAddressOfEachKindOfURL(t *testing.T) {
	for text, want := range map[string][2]string{
		"http://127.0.0.1:2379":   {"tcp", "127.0.0.1:2379"},
		"https://[::1]:2379":      {"tcp", "[::1]:2379"},
		"unix:///run/kvd/s":       {"unix", "/run/kvd/s"},
		"unix:relative":           {"unix", "relative"},
		"unixs://localhost:31280": {"unix", "localhost:31280"},
	} {
		network, address := Address(parseURL(t, text))
		if network != want[0] || address != want[1] {
			t.Errorf("%s is %s %s, want %v", text, network, address, want)
		}
	}
}

// exchange writes to one end of a new connection and reads from the other.
func exchange(t *testing.T, l net.Listener) {
	t.Helper()
	client, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(server, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q, %v", buf, err)
	}
}

func TestPlainPortsAcceptConnections(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	ports := openRole(t, Role{
		Name: "client", Option: "listen-client-urls",
		URLs:    []url.URL{parseURL(t, "http://127.0.0.1:0"), parseURL(t, "unix://"+sock)},
		Options: Options{ReuseAddress: true, ReusePort: true},
	})
	for _, port := range ports {
		if port.Secure() || port.Inherited {
			t.Errorf("%s: secure %v, inherited %v", port.URL.String(), port.Secure(), port.Inherited)
		}
		exchange(t, port)
	}
}

func TestAnAddressInUseIsNamedAndNothingStaysOpen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	sock := filepath.Join(t.TempDir(), "s")
	_, err = Open(t.Context(), Role{
		Name: "client", Option: "listen-client-urls",
		URLs: []url.URL{parseURL(t, "unix://"+sock), parseURL(t, "http://"+taken.Addr().String())},
	}, nil)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen-client-urls") ||
		!strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first port is still there: %v", err)
	}
}

func TestReusePortSharesAnAddress(t *testing.T) {
	role := Role{URLs: []url.URL{parseURL(t, "http://127.0.0.1:0")}, Options: Options{ReusePort: true}}
	first := openRole(t, role)
	role.URLs = []url.URL{parseURL(t, "http://"+first[0].Addr().String())}
	openRole(t, role)
}

func TestAStaleUnixSocketIsReplaced(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	role := Role{URLs: []url.URL{parseURL(t, "unix://"+sock)}}
	ports := openRole(t, role)
	exchange(t, ports[0])
	if _, err := Open(t.Context(), role, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("took over a socket that answers: %v", err)
	}
	if err := ports.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestAFileThatIsNoSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Role{URLs: []url.URL{parseURL(t, "unix://"+path)}}, nil); err == nil {
		t.Error("opened over a file")
	}
	if data, err := os.ReadFile(path); string(data) != "data" {
		t.Errorf("the file is gone: %q, %v", data, err)
	}
}

func TestConnectionsBeyondTheBoundWait(t *testing.T) {
	ports := openRole(t, Role{
		URLs:    []url.URL{parseURL(t, "http://127.0.0.1:0")},
		Options: Options{MaxConnections: 1},
	})
	for range 2 {
		client, err := net.Dial("tcp", ports[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
	}
	first, err := ports[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := ports[0].Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- conn
	}()
	select {
	case <-accepted:
		t.Fatal("accepted beyond the bound")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // a second close must not free a second slot
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Fatal("the free slot was not used")
	}
}

func TestCloseEndsAnAcceptThatWaitsForRoom(t *testing.T) {
	ports := openRole(t, Role{
		URLs:    []url.URL{parseURL(t, "http://127.0.0.1:0")},
		Options: Options{MaxConnections: 1},
	})
	client, err := net.Dial("tcp", ports[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ports[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := ports[0].Accept()
		failed <- err
	}()
	ports.Close()
	select {
	case err := <-failed:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

// scarce fails a few times for want of descriptors.
type scarce struct {
	net.Listener
	fails int
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.fails > 0 {
		s.fails--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.Listener.Accept()
}

func TestAcceptOutlivesALackOfDescriptors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bound(&scarce{Listener: l, fails: 3}, Options{})
	defer b.Close()
	exchange(t, b)
}

func TestTheDescriptorLimitLeavesRoom(t *testing.T) {
	limit, err := ConnectionLimit()
	if err != nil || limit <= 0 {
		t.Errorf("%d, %v", limit, err)
	}
}
