// Package freeport gives tests loopback addresses for servers that they start as
// processes, which cannot be handed a listener of port 0.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Ports are handed out from below those that the kernel gives to outgoing
// connections, and each only once in a process. A process takes them from
// blocks that it holds locked to its end, so that test processes beside it do
// not get a port whose server is just being restarted.
const (
	firstPort  = 10_000
	lastPort   = 32_000
	blockPorts = 200
)

var ports struct {
	sync.Mutex
	next, end int
	held      []*os.File // the locks of our blocks
}

// Address returns a loopback address that nobody else will be given.
func Address(t testing.TB) string {
	t.Helper()
	address, err := Next()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Next is Address for who has no test at hand.
func Next() (string, error) {
	ports.Lock()
	defer ports.Unlock()
	for {
		if ports.next == ports.end {
			if err := takeBlock(); err != nil {
				return "", err
			}
		}
		address := fmt.Sprintf("127.0.0.1:%d", ports.next)
		ports.next++
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", address) // name services take both
		if err != nil {
			l.Close()
			continue
		}
		return address, errors.Join(l.Close(), u.Close())
	}
}

// takeBlock locks a block that no other process has.
func takeBlock() error {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("kvd-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	const blocks = (lastPort - firstPort) / blockPorts
	for i, start := 0, rand.IntN(blocks); i < blocks; i++ {
		from := firstPort + (start+i)%blocks*blockPorts
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(from)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			f.Close()
			continue
		}
		ports.held = append(ports.held, f)
		ports.next, ports.end = from, from+blockPorts
		return nil
	}
	return fmt.Errorf("no ports are left between %d and %d", firstPort, lastPort)
}
