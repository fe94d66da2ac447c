package listen

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// socketFile is a listening socket as systemd would pass it.
func socketFile(t *testing.T, network, address string) (*os.File, net.Addr) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	defer l.Close()
	file, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file, l.Addr()
}

func clients(t *testing.T, urls ...string) Role {
	role := Role{Name: "client", Option: "listen-client-urls", Configured: true}
	for _, u := range urls {
		role.URLs = append(role.URLs, parseURL(t, u))
	}
	return role
}

func TestInheritedSocketsReplaceTheDefault(t *testing.T) {
	file, addr := socketFile(t, "tcp", "127.0.0.1:0")
	role := clients(t, "http://localhost:2379")
	role.Configured = false
	ports := openRole(t, role, file)
	if len(ports) != 1 || !ports[0].Inherited || ports[0].URL.Host != addr.String() {
		t.Fatalf("got %+v", ports[0])
	}
	exchange(t, ports[0])
}

func TestInheritedSocketsTakeTheConfiguredScheme(t *testing.T) {
	ca := newAuthority(t)
	ca.server(t)
	file, addr := socketFile(t, "tcp", "127.0.0.1:0")
	role := clients(t, "https://"+addr.String())
	role.Options.Credentials = ca.credentials(t, Files{}, Terms{})
	ports := openRole(t, role, file)
	if !ports[0].Secure() {
		t.Error("the port is not secure")
	}
}

func TestAnInheritedUnixSocketKeepsItsPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	file, _ := socketFile(t, "unix", path)
	ports, err := Open(t.Context(), clients(t, "unix://"+path), []*os.File{file})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, ports[0])
	ports.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("systemd's socket was removed: %v", err)
	}
}

func TestMismatchesOfInheritedSocketsAreRefused(t *testing.T) {
	tcp, addr := socketFile(t, "tcp", "127.0.0.1:0")
	second, _ := socketFile(t, "tcp", "127.0.0.1:0")
	unixFile, _ := socketFile(t, "unix", filepath.Join(t.TempDir(), "s"))
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	udp, err := packets.File()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Dial("unix", func() string {
		path := filepath.Join(t.TempDir(), "d")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return path
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	connection, err := inner.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	here := "http://" + addr.String()
	for _, c := range []struct {
		name string
		role Role
		file *os.File
		want string
	}{
		{"another port", clients(t, "http://127.0.0.1:1"), tcp, "listen-client-urls = http://127.0.0.1:1"},
		{"another family", clients(t, here), unixFile, "ListenStream="},
		{"one too few", clients(t, here, "http://127.0.0.1:1"), second, "listen-client-urls"},
		{"datagrams", clients(t, here), udp, "not a stream socket"},
		{"no socket", clients(t, here), plain, "not a socket"},
		{"a connection", clients(t, here), connection, "Accept=no"},
	} {
		ports, err := Open(t.Context(), c.role, []*os.File{c.file})
		if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(ports) > 0 {
			t.Errorf("%s: got ports", c.name)
		}
		if err := c.file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file was left open", c.name)
		}
	}
}

func TestEachConfiguredAddressMustBeInherited(t *testing.T) {
	file, addr := socketFile(t, "tcp", "127.0.0.1:0")
	_, err := Open(t.Context(), clients(t, "http://"+addr.String(), "unix:///run/other"), []*os.File{file})
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "unix:///run/other") {
		t.Errorf("got %v", err)
	}
}

func TestWaysToWriteAnAddressAreEqual(t *testing.T) {
	for _, c := range []struct {
		url    string
		socket net.TCPAddr
		same   bool
	}{
		{"http://localhost:1", net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, true},
		{"http://localhost:1", net.TCPAddr{IP: net.IPv6loopback, Port: 1}, true},
		{"http://localhost:1", net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, false},
		{"http://0.0.0.0:1", net.TCPAddr{IP: net.IPv6zero, Port: 1}, true},
		{"http://[::]:1", net.TCPAddr{Port: 1}, true},
		{"http://:1", net.TCPAddr{IP: net.IPv6zero, Port: 1}, true},
		{"http://0.0.0.0:1", net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, false},
		{"http://127.0.0.1:2", net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, false},
	} {
		_, same := match([]url.URL{parseURL(t, c.url)}, &c.socket)
		if same != c.same {
			t.Errorf("%s and %v: %v", c.url, c.socket.String(), same)
		}
	}
}
