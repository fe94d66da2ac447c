package listen

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrMismatch means that a socket passed by systemd and the configuration do
// not fit together.
var ErrMismatch = errors.New("inherited sockets do not match the configuration")

// adopt makes ports of inherited sockets. If the operator wrote URLs for the
// role, each socket must be one of them and each of them must be there:
// serving an address that was not asked for, or not serving one that was, is
// worse than not starting. On an error it returns the ports made so far.
func adopt(role Role, files []*os.File) (Ports, error) {
	defer closeFiles(files) // FileListener duplicates the descriptor
	var ports Ports
	found := map[string]bool{}
	for _, file := range files {
		if err := checkSocket(file); err != nil {
			return ports, fmt.Errorf("%w: %s socket %s: %w", ErrMismatch, role.Name, file.Name(), err)
		}
		l, err := net.FileListener(file)
		if err != nil {
			return ports, fmt.Errorf("%w: %s socket: %w", ErrMismatch, role.Name, err)
		}
		port := &Port{Listener: l, Inherited: true, URL: urlOf(l.Addr())}
		ports = append(ports, port)
		if !role.Configured {
			continue
		}
		u, ok := match(role.URLs, l.Addr())
		if !ok {
			return ports, fmt.Errorf("%w: systemd passed the %s socket %s, but %s = %s; "+
				"let ListenStream= and the option agree, or leave the option out",
				ErrMismatch, role.Name, l.Addr(), role.Option, list(role.URLs))
		}
		port.URL = u
		for _, other := range role.URLs {
			if other == u || port.shared(other) {
				found[other.String()] = true
			}
		}
	}
	if !role.Configured {
		return ports, nil
	}
	for _, u := range role.URLs {
		if !found[u.String()] {
			return ports, fmt.Errorf("%w: %s names %s, but systemd passed no such %s socket; "+
				"add it to the socket unit, or leave the option out",
				ErrMismatch, role.Option, u.String(), role.Name)
		}
	}
	return ports, nil
}

// checkSocket refuses what cannot be listened on: datagram sockets, accepted
// connections (Accept=yes), FIFOs and other families.
func checkSocket(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var family, kind, listening int
	var failed error
	err = raw.Control(func(fd uintptr) {
		for option, value := range map[int]*int{
			unix.SO_DOMAIN: &family, unix.SO_TYPE: &kind, unix.SO_ACCEPTCONN: &listening,
		} {
			if *value, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); failed != nil {
				return
			}
		}
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return fmt.Errorf("not a socket (%w)", failed)
	case family != unix.AF_INET && family != unix.AF_INET6 && family != unix.AF_UNIX:
		return fmt.Errorf("address family %d; want TCP or unix", family)
	case kind != unix.SOCK_STREAM:
		return errors.New("not a stream socket; use ListenStream= in the socket unit")
	case listening == 0:
		return errors.New("a connection, not a listening socket; use Accept=no in the socket unit")
	}
	return nil
}

// urlOf makes the plain URL of an address.
func urlOf(addr net.Addr) url.URL {
	if addr.Network() == "unix" {
		return url.URL{Scheme: "unix", Path: addr.String()}
	}
	return url.URL{Scheme: "http", Host: addr.String()}
}

// match finds the URL that names the address of a socket.
func match(urls []url.URL, addr net.Addr) (url.URL, bool) {
	for _, u := range urls {
		network, address := Address(u)
		switch socket := addr.(type) {
		case *net.UnixAddr:
			if network == "unix" && address == socket.Name {
				return u, true
			}
		case *net.TCPAddr:
			if network == "tcp" && sameTCP(address, socket) {
				return u, true
			}
		}
	}
	return url.URL{}, false
}

// sameTCP compares a configured host:port with a socket's address. All ways
// to write "every address" are one, and localhost is any loopback address.
func sameTCP(address string, socket *net.TCPAddr) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != fmt.Sprint(socket.Port) {
		return false
	}
	if host == "localhost" {
		return socket.IP.IsLoopback()
	}
	ip := net.ParseIP(host)
	if host == "" || ip.IsUnspecified() {
		return socket.IP == nil || socket.IP.IsUnspecified()
	}
	return ip.Equal(socket.IP)
}

func list(urls []url.URL) string {
	texts := make([]string, len(urls))
	for i, u := range urls {
		texts[i] = u.String()
	}
	return strings.Join(texts, ",")
}
