// Package oracle builds the programs that the tests compare — etcd 3.7.3 with
// its tools as the judge, kvd and kvctl as the judged — and runs either server
// as a process of its own on loopback.
//
// It knows nothing of what the servers should answer: that is for the tests.
// Only tests may use it.
package oracle

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvd/internal/freeport"
)

// Version of etcd that is the judge.
const Version = "3.7.3"

// ReadyWithin bounds the wait of Start for a server to become ready.
const ReadyWithin = 30 * time.Second

// Options say how a server is started. A zero field takes the default named
// beside it.
type Options struct {
	Name      string   // m1
	DataDir   string   // a directory of its own, removed with the test
	ClientURL string   // http://127.0.0.1:<free>
	PeerURL   string   // http://127.0.0.1:<free>
	Token     string   // kvd-test; the cluster token
	Cluster   string   // the member alone; name=peerURL,… of all initial members
	Existing  bool     // it joins a cluster that runs
	Learner   bool     // it joins without a vote; such a member is never ready, only live
	Args      []string // more flags, after the ones above
	Env       []string // more variables, NAME=value

	// Under is a command that runs the server given to it as arguments, in
	// another network namespace for one; none. It must become the server's process.
	Under []string

	// Connect opens a connection to the client port where this process cannot
	// by itself; a plain dial.
	Connect func(ctx context.Context, address string) (net.Conn, error)

	// Sockets are handed down as systemd does, under these names.
	Sockets []Socket

	// Proxy makes the server a proxy of the cluster, which Cluster or flags name:
	// on, readonly, or ByFile; not a proxy. It has no peer URL.
	Proxy string

	listen string // where the server itself listens for clients; ClientURL
}

// ByFile is the Proxy of Options whose Args name a configuration file that says
// all the rest.
const ByFile = "by the file"

// A Socket is a listener that a server inherits.
type Socket struct {
	Name string
	File *os.File
}

// complete fills in what the caller left to us.
func (o *Options) complete(t testing.TB) error {
	t.Helper()
	if o.Name == "" {
		o.Name = "m1"
	}
	if o.Token == "" {
		o.Token = "kvd-test"
	}
	if o.DataDir == "" {
		o.DataDir = filepath.Join(t.TempDir(), "data")
	}
	if o.Connect == nil {
		o.Connect = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	for _, url := range []*string{&o.ClientURL, &o.PeerURL} {
		if *url == "" {
			address, err := freeport.Next()
			if err != nil {
				return err
			}
			*url = "http://" + address
		}
	}
	o.listen = o.ClientURL
	if o.Cluster == "" && o.Proxy == "" {
		o.Cluster = o.Name + "=" + o.PeerURL
	}
	return nil
}

// flags is the one list that serves both servers: kvd accepts etcd's flags.
func (o *Options) flags() []string {
	if o.Proxy == ByFile {
		return o.Args
	}
	if o.Proxy != "" {
		flags := []string{"--proxy", o.Proxy, "--data-dir", o.DataDir, "--listen-client-urls", o.ClientURL}
		if o.Cluster != "" {
			flags = append(flags, "--initial-cluster", o.Cluster)
		}
		return append(flags, o.Args...)
	}
	state := "new"
	if o.Existing {
		state = "existing"
	}
	return append([]string{
		"--name", o.Name,
		"--data-dir", o.DataDir,
		"--listen-client-urls", o.listen,
		"--advertise-client-urls", o.ClientURL,
		"--listen-peer-urls", o.PeerURL,
		"--initial-advertise-peer-urls", o.PeerURL,
		"--initial-cluster", o.Cluster,
		"--initial-cluster-state", state,
		"--initial-cluster-token", o.Token,
	}, o.Args...)
}

// Start runs a server and returns when it is ready to serve. It is killed
// with the test; its log is printed if the test fails.
func Start(t testing.TB, bin Binary, o Options) *Member {
	t.Helper()
	m, err := TryStart(t, bin, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TryStart is Start for other goroutines than the test's own. It tries once
// more, at other addresses if they were left to us, when one was taken.
func TryStart(t testing.TB, bin Binary, o Options) (*Member, error) {
	t.Helper()
	for again := true; ; again = false {
		m, err := launch(t, bin, o)
		if err != nil {
			return nil, err
		}
		if err = m.Ready(ReadyWithin); err == nil {
			return m, nil
		}
		if !again || !strings.Contains(m.Log(), syscall.EADDRINUSE.Error()) {
			return nil, err
		}
		m.Kill()
		o.DataDir = m.DataDir
	}
}

// root returns the directory of the test module.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the test module: no go.mod above the working directory")
		}
	}
}
