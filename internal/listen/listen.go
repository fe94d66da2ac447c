// Package listen turns addresses into listeners: opened here or inherited
// from systemd, with TLS ended and the number of connections bounded, and the
// connections of one port split into gRPC and HTTP/1. It knows nothing of
// what is served behind a connection.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive is how long a TCP connection may be silent before it is probed.
const keepAlive = 30 * time.Second

// reservedFiles is how many descriptors are kept back from connections, for
// the log, the store and the connections to other members.
const reservedFiles = 150

// Protocol is what is spoken on a port.
type Protocol int

// The protocols of a port.
const (
	Both Protocol = iota // HTTP/1 and gRPC, told apart by a Split
	GRPC
	HTTP // HTTP/1 only
)

// Options say how the ports of one role are opened. The zero value opens
// plain ports without a bound on their connections.
type Options struct {
	Protocol       Protocol
	ReusePort      bool // SO_REUSEPORT
	ReuseAddress   bool // SO_REUSEADDR; Go sets it anyway
	MaxConnections int  // of one port, further ones wait in the backlog; 0: no bound

	// TLS, used by the URLs whose scheme asks for it.
	Credentials      *Credentials
	CheckRemote      bool          // a certificate must name the address that it comes from
	HandshakeTimeout time.Duration // 10 s
	MaxHandshakes    int           // at once; further connections wait, or take the place of who says nothing for a second; 1024
	Rejected         func()        // told of each connection that failed its handshake; may be nil

	Log *slog.Logger // nil: silent
}

// Role is a set of ports that serve the same, and where they come from.
type Role struct {
	Name       string // client, peer or metrics: names the sockets of systemd
	Option     string // the option that holds the URLs, for error texts
	URLs       []url.URL
	Configured bool // the URLs were written by the operator; no default
	Options    Options
}

// Port is one address that is listened on. Its connections have passed the
// TLS handshake where the URL asks for TLS.
type Port struct {
	net.Listener
	URL       url.URL // as configured; for an inherited socket made from its address
	Mixed     bool    // a second URL names the same address: TLS and plain text are told apart by their first byte
	Inherited bool
}

// Secure says whether TLS is spoken on the port.
func (p *Port) Secure() bool { return secure(p.URL) }

// Plain says whether connections of the port may be plain.
func (p *Port) Plain() bool { return p.Mixed || !p.Secure() }

// Ports are the ports of one role.
type Ports []*Port

// Close closes all ports.
func (p Ports) Close() error {
	var errs []error
	for _, port := range p {
		if err := port.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Open returns the ports of a role: made of the inherited sockets if there
// are any, else opened at the URLs. All of them or none; the files are closed
// either way. Connections are accepted by the kernel from now on, and wait.
func Open(ctx context.Context, role Role, inherited []*os.File) (Ports, error) {
	end, err := newEnd(role)
	if err != nil {
		closeFiles(inherited)
		return nil, fmt.Errorf("%s: %w", role.Option, err)
	}
	var ports Ports
	if len(inherited) > 0 {
		ports, err = adopt(role, inherited)
	} else {
		ports, err = open(ctx, role)
	}
	if err != nil {
		return nil, errors.Join(err, ports.Close())
	}
	for _, port := range ports {
		port.Listener = bound(port.Listener, role.Options)
		if port.Secure() {
			port.Listener = end.begin(port.Listener, port.Mixed)
		}
	}
	return ports, nil
}

// open listens at every URL of the role. On an error it returns the ports
// opened so far.
func open(ctx context.Context, role Role) (Ports, error) {
	var ports Ports
	for _, u := range role.URLs {
		if slices.ContainsFunc(ports, func(p *Port) bool { return p.shared(u) }) {
			continue
		}
		l, err := openOne(ctx, u, role.Options)
		if err != nil {
			return ports, fmt.Errorf("%s: listen on %s: %w", role.Option, u.String(), err)
		}
		ports = append(ports, &Port{Listener: l, URL: u})
	}
	return ports, nil
}

// shared says whether the port serves another URL, too: that of the same address
// with the other scheme. The port's own URL is the secure one then.
func (p *Port) shared(u url.URL) bool {
	if !sameSocket(p.URL, u) {
		return false
	}
	if secure(u) != secure(p.URL) {
		p.Mixed = true
		if secure(u) {
			p.URL = u
		}
	}
	return true
}

// sameSocket says whether two URLs name one address, whatever is spoken there.
func sameSocket(a, b url.URL) bool {
	network, address := Address(a)
	otherNetwork, other := Address(b)
	return network == otherNetwork && address == other && (network == "unix" || a.Port() != "0")
}

func openOne(ctx context.Context, u url.URL, o Options) (net.Listener, error) {
	network, address := Address(u)
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive},
		Control:         func(_, _ string, c syscall.RawConn) error { return setOptions(c, o) },
	}
	if network == "unix" {
		config.Control = nil
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	return config.Listen(ctx, network, address)
}

// Address is the network and the address that a URL names, as package net
// writes them.
func Address(u url.URL) (network, address string) {
	if u.Scheme != "unix" && u.Scheme != "unixs" {
		return "tcp", u.Host
	}
	if u.Opaque != "" { // unix:relative/path
		return "unix", u.Opaque
	}
	return "unix", u.Host + u.Path
}

// secure says whether a URL asks for TLS.
func secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// setOptions sets the socket options before the socket is bound.
func setOptions(c syscall.RawConn, o Options) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		if o.ReuseAddress {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if o.ReusePort && failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	return errors.Join(err, failed)
}

// removeStale removes a socket that an earlier process left behind. A socket
// that still answers, and a file that is no socket, stay.
func removeStale(path string) error {
	if path == "" || path[0] == '@' {
		return nil // in the abstract namespace nothing stays behind
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and is no socket; remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close() // it only asked whether somebody answers
		return fmt.Errorf("%s: %w: another process answers there", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// ConnectionLimit returns how many connections the limit on open files leaves
// room for.
func ConnectionLimit() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Cur <= reservedFiles {
		return 0, fmt.Errorf("limit of open files: %d is too low, more than %d are needed (LimitNOFILE= in the unit)",
			limit.Cur, reservedFiles)
	}
	return int(min(limit.Cur-reservedFiles, 1<<30)), nil
}

func closeFiles(files []*os.File) {
	for _, file := range files {
		file.Close() // closing twice is the only failure
	}
}
