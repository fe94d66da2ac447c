package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// subject is a server to be measured: a binary and the name of its column.
type subject struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256,omitempty"`
	Version string `json:"version"`

	path  string
	args  func(p *process, profiling bool) []string
	pprof bool // it serves profiles
}

// process is a subject that runs, on loopback, with a data directory.
type process struct {
	subject *subject
	name    string // in its cluster
	role    string // in the names of profiles; empty for a single member
	dir     string // holds the data and the server's log
	addr    string // where clients connect
	secure  string // and over TLS, to gRPC and HTTP on one port; empty for members of clusters
	peer    string
	cluster string    // the initial cluster; empty for a single member
	joins   bool      // a cluster that exists
	started time.Time // just before it was executed
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it has been waited for
}

// etcdArgs is the command line for etcd and for all that take its flags.
func etcdArgs(p *process, profiling bool) []string {
	const quota = 8 << 30 // the default would end the fill of a million keys
	cluster, state := p.cluster, "new"
	if cluster == "" {
		cluster = p.entry()
	}
	if p.joins {
		state = "existing"
	}
	args := []string{
		"--name=" + p.name,
		"--data-dir=" + filepath.Join(p.dir, "data"),
		"--listen-client-urls=" + p.urls(),
		"--advertise-client-urls=http://" + p.addr,
		"--listen-peer-urls=http://" + p.peer,
		"--initial-advertise-peer-urls=http://" + p.peer,
		"--initial-cluster=" + cluster,
		"--initial-cluster-state=" + state,
		fmt.Sprintf("--quota-backend-bytes=%d", int64(quota)),
	}
	if p.secure != "" {
		args = append(args, "--auto-tls")
	}
	if profiling {
		args = append(args, "--enable-pprof")
	}
	return args
}

// urls are those that clients connect at.
func (p *process) urls() string {
	if p.secure == "" {
		return "http://" + p.addr
	}
	return "http://" + p.addr + ",https://" + p.secure
}

// entry is the process's part of an initial cluster.
func (p *process) entry() string { return p.name + "=http://" + p.peer }

// start executes the subject with its data under dir, which may hold data
// from an earlier start. It returns at once; see ready.
func (s *subject) start(dir string, profiling bool) (*process, error) {
	addrs, err := freeAddrs(3)
	if err != nil {
		return nil, err
	}
	p := &process{subject: s, name: "bench", dir: dir, addr: addrs[0], peer: addrs[1], secure: addrs[2]}
	if err := p.launch(profiling); err != nil {
		return nil, err
	}
	return p, nil
}

// launch executes the process's subject, for the first time or after it has
// ended.
func (p *process) launch(profiling bool) error {
	s := p.subject
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ended := make(chan struct{})
	p.cmd = exec.Command(s.path, s.args(p, profiling)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "ETCD_") || strings.HasPrefix(v, "KVD_")
	})
	// It must not outlive this process, however that ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	p.ended = ended
	go func(cmd *exec.Cmd) {
		defer close(ended)
		_ = cmd.Wait() // how it ended is only of interest while we need it
	}(p.cmd)
	return nil
}

func (p *process) pid() int        { return p.cmd.Process.Pid }
func (p *process) logFile() string { return filepath.Join(p.dir, p.subject.Name+".log") }

// ready waits until the process answers a linearizable Range of key, and
// returns the time since it was executed.
func (p *process) ready(ctx context.Context, key []byte) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	conn, err := dial(p.addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	get := request{appendRange(nil, key, nil, 0, false)}
	for {
		err := conn.Invoke(ctx, methodRange, &get, &reply{})
		if err == nil {
			return time.Since(p.started), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s is not ready: %w (last answer: %w)", p.subject.Name, ctx.Err(), err)
		case <-p.ended:
			return 0, fmt.Errorf("%s ended before it was ready; its log ends:\n%s", p.subject.Name, p.logTail())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// stop asks the process to end and waits; past the patience it is killed and
// that is an error.
func (p *process) stop() (time.Duration, error) {
	const patience = time.Minute
	at := time.Now()
	select {
	case <-p.ended:
		return 0, fmt.Errorf("%s ended by itself; its log ends:\n%s", p.subject.Name, p.logTail())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, fmt.Errorf("stop %s: %w", p.subject.Name, err)
	}
	select {
	case <-p.ended:
		return time.Since(at), nil
	case <-time.After(patience):
		p.kill()
		return patience, fmt.Errorf("%s did not stop within %v and was killed", p.subject.Name, patience)
	}
}

// kill ends the process at once; harmless when it has ended.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// logTail returns the last lines of the server's log, for a message.
func (p *process) logTail() string {
	const lines = 15
	text, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// freeAddrs finds loopback addresses on which nothing listens now.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all held until all are found, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
