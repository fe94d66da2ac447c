package robust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvd/test/oracle"
)

// A network is one network namespace for each member, joined by a bridge in
// one more, or by a wire. Nothing of it is in the namespace of this process:
// clients step into a member's own, so that what is cut between members does
// not touch them.
type network struct {
	t      testing.TB
	name   string // what the names of its namespaces begin with
	spaces []*space
	wire   *wire // nil: a bridge
	cuts   map[[2]int]bool
}

// A space is a member's namespace.
type space struct {
	name, address string
	handle        *os.File
}

const (
	spaceNames = "kvd-robust-" // then the process that made it
	spacesDir  = "/run/netns"
)

var networks atomic.Int64 // numbers those of this process

// newNetwork makes namespaces for so many members. They are gone with the
// test, or with the next that makes some if this process is killed.
func newNetwork(t testing.TB, members int) *network {
	t.Helper()
	return makeNetwork(t, members, nil)
}

func makeNetwork(t testing.TB, members int, w *wire) *network {
	t.Helper()
	for _, tool := range []string{"ip", "tc", "nft", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("network namespaces: %v (Debian: iproute2, nftables, util-linux)", err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces are for root to make")
	}
	sweep()
	n := &network{
		t: t, name: fmt.Sprintf("%s%d-%d", spaceNames, os.Getpid(), networks.Add(1)), wire: w, cuts: map[[2]int]bool{},
	}
	hub := n.name + "-hub"
	if out, err := exec.Command("ip", "netns", "add", hub).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", hub).Run() })
	n.ip("-n", hub, "link", "add", "bridge", "type", "bridge")
	n.ip("-n", hub, "link", "set", "bridge", "up")
	for i := range members {
		n.add(i, hub)
	}
	return n
}

// sweep removes what test processes left that are no more.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(spacesDir, spaceNames+"*"))
	for _, path := range left {
		var pid int
		name := filepath.Base(path)
		if _, err := fmt.Sscanf(name, spaceNames+"%d-", &pid); err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

// add makes a member's namespace and joins it to the others.
func (n *network) add(i int, hub string) {
	n.t.Helper()
	s := &space{name: fmt.Sprintf("%s-m%d", n.name, i+1), address: fmt.Sprintf("10.77.0.%d", i+1)}
	n.ip("netns", "add", s.name)
	n.t.Cleanup(func() {
		s.handle.Close()
		exec.Command("ip", "netns", "del", s.name).Run()
	})
	var err error
	if s.handle, err = os.Open(filepath.Join(spacesDir, s.name)); err != nil {
		n.t.Fatal(err)
	}
	n.spaces = append(n.spaces, s)
	n.ip("-n", s.name, "link", "set", "lo", "up")
	if n.wire != nil {
		n.wire.join(n.t, s)
	} else {
		port := fmt.Sprintf("port%d", i+1)
		n.ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", s.name)
		n.ip("-n", hub, "link", "set", port, "master", "bridge", "up")
	}
	n.ip("-n", s.name, "address", "add", s.address+"/24", "dev", "eth0")
	n.ip("-n", s.name, "link", "set", "eth0", "up")
	n.nft(s, "add table inet cut\nadd chain inet cut in { type filter hook input priority 0; }\n")
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// nft runs a script in a namespace, all of it or none.
func (n *network) nft(s *space, script string) {
	n.t.Helper()
	args := append(s.enter(), "nft", "-f", "-")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("nft %q: %v: %s", script, err, out)
	}
}

// enter is a command that runs another in the namespace.
func (s *space) enter() []string {
	return []string{"nsenter", "--net=" + filepath.Join(spacesDir, s.name), "--"}
}

// place says where a member lives.
func (n *network) place(i int, o *oracle.Options) {
	s := n.spaces[i]
	o.ClientURL, o.PeerURL = "http://"+s.address+":2379", "http://"+s.address+":2380"
	o.Under, o.Connect = s.enter(), s.connect
}

// connect opens a connection from inside the namespace.
func (s *space) connect(ctx context.Context, address string) (conn net.Conn, err error) {
	done := make(chan error, 1)
	go func() {
		done <- s.within(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
			return err
		})
	}()
	err = <-done
	return conn, err
}

// within calls a function on a thread that is in the namespace. It is not for
// the test's own goroutine: a thread that cannot come back ends with the
// goroutine.
func (s *space) within(do func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(s.handle.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", s.name, err)
	}
	err = do()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// cut drops what goes from one member to another, each pair one way.
func (n *network) cut(pairs ...[2]int) {
	n.t.Helper()
	for _, p := range pairs {
		n.cuts[p] = true
	}
	n.apply()
}

// split cuts all ways between the sides.
func (n *network) split(sides ...[]int) {
	n.t.Helper()
	for i, one := range sides {
		for j, other := range sides {
			if i == j {
				continue
			}
			for _, from := range one {
				for _, to := range other {
					n.cuts[[2]int{from, to}] = true
				}
			}
		}
	}
	n.apply()
}

// slow limits what reaches a member, as the rate of tc has it ("20mbit").
func (n *network) slow(i int, rate string) {
	n.t.Helper()
	n.tc(i, "replace", "root", "tbf", "rate", rate, "burst", "32kb", "limit", "512kb")
}

// fast takes the limit away.
func (n *network) fast(i int) {
	n.t.Helper()
	n.tc(i, "del", "root")
}

// tc sets the queue of the bridge's port to a member.
func (n *network) tc(i int, verb string, args ...string) {
	n.t.Helper()
	args = append([]string{"-n", n.name + "-hub", "qdisc", verb, "dev", fmt.Sprintf("port%d", i+1)}, args...)
	out, err := exec.Command("tc", args...).CombinedOutput()
	if bytes.Contains(out, []byte("qdisc kind is unknown")) {
		n.t.Skipf("this kernel has no tbf: %s", out)
	}
	if err != nil {
		n.t.Fatalf("tc %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// heal lets everything through again.
func (n *network) heal() {
	n.t.Helper()
	clear(n.cuts)
	n.apply()
}

// apply writes the rules of every member's namespace.
func (n *network) apply() {
	n.t.Helper()
	for to, s := range n.spaces {
		script := bytes.NewBufferString("flush chain inet cut in\n")
		for from, other := range n.spaces {
			if n.cuts[[2]int{from, to}] {
				fmt.Fprintf(script, "add rule inet cut in ip saddr %s drop\n", other.address)
			}
		}
		n.nft(s, script.String())
	}
}

func TestNetworkCutsOneWay(t *testing.T) {
	n := newNetwork(t, 2)
	listen := func(s *space) net.Listener {
		var l net.Listener
		done := make(chan error)
		go func() {
			done <- s.within(func() (err error) {
				l, err = net.Listen("tcp4", s.address+":7")
				return err
			})
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	second := listen(n.spaces[1])
	dial := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		conn, err := n.spaces[0].connect(ctx, second.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Fatalf("before: %v", err)
	}
	for _, pair := range [][2]int{{0, 1}, {1, 0}} { // a handshake needs both ways
		n.cut(pair)
		if dial() == nil {
			t.Errorf("connected while %v was cut", pair)
		}
		n.heal()
		if err := dial(); err != nil {
			t.Errorf("after %v was cut: %v", pair, err)
		}
	}
}
