package robust

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A wire joins namespaces through this process: each has a TUN device of
// which we hold the other end, and so every packet between members is ours to
// lose, delay, put in another order or send twice. (netem does the same in
// the kernel, but is not in every kernel.)
type wire struct {
	mu      sync.Mutex
	random  *rand.Rand
	weather weather
	ends    map[[4]byte]*end // by address
	sum     struct{ passed, lost, delayed, overtaken, twice atomic.Int64 }
}

// weather is what happens to packets.
type weather struct {
	lose, twice float64       // how many of them, 0 to 1
	late        float64       // how many are delayed by more than base
	base        time.Duration // the delay of all
	spread      time.Duration // and of the late ones, up to so much more: they come in another order
}

// An end is a member's device.
type end struct {
	file *os.File
	mu   sync.Mutex
	due  packets
	last time.Time     // the latest that one is due, of all there were
	wake chan struct{} // one place: something came in
}

// inFlight bounds what is on its way to a member; more is lost, as in a switch.
const inFlight = 2000

func newWire() *wire { return &wire{random: rand.New(rand.NewPCG(0, 0)), ends: map[[4]byte]*end{}} }

// seed makes the wire's choices those of a seed. Which packets they meet is
// for the kernel's timing to say.
func (w *wire) seed(seed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.random = rand.New(rand.NewPCG(seed, 1))
}

// set changes the weather.
func (w *wire) set(now weather) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.weather = now
}

// join makes the device eth0 in a namespace.
func (w *wire) join(t testing.TB, s *space) {
	t.Helper()
	var file *os.File
	made := make(chan error)
	go func() {
		made <- s.within(func() error {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
			}
			request, err := unix.NewIfreq("eth0")
			if err != nil {
				return err
			}
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
				unix.Close(fd)
				return os.NewSyscallError("TUNSETIFF", err)
			}
			file = os.NewFile(uintptr(fd), "tun of "+s.name)
			return nil
		})
	}()
	if err := <-made; errors.Is(err, os.ErrNotExist) {
		t.Skipf("no TUN device: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	e := &end{file: file, wake: make(chan struct{}, 1)}
	var address [4]byte
	copy(address[:], net.ParseIP(s.address).To4())
	w.mu.Lock()
	w.ends[address] = e
	w.mu.Unlock()
	stop := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { w.carry(e) })
	both.Go(func() { e.deliver(stop) })
	t.Cleanup(func() {
		close(stop)
		file.Close()
		both.Wait()
	})
}

// carry takes what a member sends until its device is closed.
func (w *wire) carry(from *end) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.file.Read(buffer)
		if err != nil {
			return
		}
		if n < 20 || buffer[0]>>4 != 4 {
			continue // not IPv4
		}
		w.pass([4]byte(buffer[16:20]), buffer[:n])
	}
}

// pass decides about a packet.
func (w *wire) pass(address [4]byte, packet []byte) {
	w.mu.Lock()
	to, now := w.ends[address], w.weather
	lost, late, twice := w.random.Float64() < now.lose, w.random.Float64() < now.late, w.random.Float64() < now.twice
	delay := now.base
	if late && now.spread > 0 {
		delay += time.Duration(w.random.Int64N(int64(now.spread)))
	}
	w.mu.Unlock()
	if to == nil {
		return
	}
	if lost {
		w.sum.lost.Add(1)
		return
	}
	if delay > 0 {
		w.sum.delayed.Add(1)
	}
	w.sum.passed.Add(1)
	if to.send(packet, time.Now().Add(delay)) {
		w.sum.overtaken.Add(1)
	}
	if twice {
		w.sum.twice.Add(1)
		to.send(packet, time.Now().Add(2*delay))
	}
}

// send lays a packet ready for its time, and returns whether it will overtake
// another.
func (e *end) send(content []byte, at time.Time) (overtakes bool) {
	e.mu.Lock()
	overtakes = at.Before(e.last)
	if !overtakes {
		e.last = at
	}
	if len(e.due) < inFlight {
		heap.Push(&e.due, packet{at, append([]byte(nil), content...)})
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return overtakes
}

// deliver writes packets to the device when they are due.
func (e *end) deliver(stop <-chan struct{}) {
	for {
		e.mu.Lock()
		pause := time.Hour
		var ready []packet
		for len(e.due) > 0 {
			if pause = time.Until(e.due[0].at); pause > 0 {
				break
			}
			ready = append(ready, heap.Pop(&e.due).(packet))
			pause = time.Hour
		}
		e.mu.Unlock()
		for _, p := range ready {
			e.file.Write(p.content) // one that the kernel does not want is lost
		}
		timer := time.NewTimer(pause)
		select {
		case <-stop:
			timer.Stop()
			return
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// packets are a heap by the time that they are due.
type packets []packet

type packet struct {
	at      time.Time
	content []byte
}

func (p packets) Len() int           { return len(p) }
func (p packets) Less(i, j int) bool { return p[i].at.Before(p[j].at) }
func (p packets) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(one any)      { *p = append(*p, one.(packet)) }
func (p *packets) Pop() any {
	last := len(*p) - 1
	one := (*p)[last]
	(*p)[last] = packet{}
	*p = (*p)[:last]
	return one
}
