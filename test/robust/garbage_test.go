package robust

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	strangers = 60       // connections at a time
	mayGrow   = 96 << 20 // bytes of memory; their headers alone are more if nobody stops them
)

// Strangers on every peer port send headers without an end, bodies without an
// end and messages that are none, some of them under a member's name. The
// cluster must not notice, and nothing of them may stay.
func TestGarbageFromStrangersHarmsNoCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	l.moves(0, 1, 2)
	term := c.term()
	before := c.footprints()
	status, err := c.status(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	crowd := throng(c, fmt.Sprintf("%x", status.Header.ClusterId), fmt.Sprintf("%x", status.Header.MemberId))
	for range 4 * rounds(t) {
		l.lasts(time.Second)
		c.bounded(before, strangers)
	}
	l.moves(0, 1, 2)
	sent := crowd()
	c.eventually("strangers are forgotten", func(context.Context) error {
		for i, now := range c.footprints() {
			if now.files > before[i].files+20 { // clients and peers come and go
				return fmt.Errorf("member %d has %d files open, had %d", i, now.files, before[i].files)
			}
		}
		return nil
	})
	l.moves(0, 1, 2)
	if after := c.term(); after != term {
		t.Errorf("term %d, before the strangers came %d", after, term)
	}
	l.finish()
	t.Logf("strangers sent %d MB and were hung up on %d times", sent.bytes.Load()>>20, sent.ends.Load())
}

// A footprint is what a process takes.
type footprint struct{ bytes, files int64 }

func (c *cluster) footprints() (all []footprint) {
	c.t.Helper()
	for _, i := range c.running() {
		proc := filepath.Join("/proc", strconv.Itoa(c.members[i].Pid()))
		files, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			c.t.Fatal(err)
		}
		statm, err := os.ReadFile(filepath.Join(proc, "statm"))
		if err != nil {
			c.t.Fatal(err)
		}
		resident, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, footprint{bytes: resident * int64(os.Getpagesize()), files: int64(len(files))})
	}
	return all
}

// bounded checks that members take little more than before.
func (c *cluster) bounded(before []footprint, more int) {
	c.t.Helper()
	all := c.footprints()
	for i, now := range all {
		if now.bytes > before[i].bytes+mayGrow {
			c.t.Errorf("member %d takes %d MB, took %d", i, now.bytes>>20, before[i].bytes>>20)
		}
		if now.files > before[i].files+int64(more)+50 {
			c.t.Errorf("member %d has %d files open, had %d", i, now.files, before[i].files)
		}
	}
	c.t.Logf("bytes and files before %v, now %v", before, all)
}

// A tally is what strangers got rid of.
type tally struct{ bytes, ends atomic.Int64 }

// throng lets strangers at all members, until they are told to go.
func throng(c *cluster, clusterID, memberID string) (end func() *tally) {
	ctx, cancel := context.WithCancel(context.Background())
	sum := &tally{}
	var all sync.WaitGroup
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(c.Uint32())
	}
	as := func(version string) string {
		return "Host: x\r\nX-Server-From: " + memberID + "\r\nX-Etcd-Cluster-ID: " + clusterID +
			"\r\nX-Server-Version: " + version + "\r\nX-Min-Cluster-Version: 3.0.0\r\n"
	}
	length := func(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
	lines := []byte(strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 60))
	acts := []struct {
		once string
		then []byte // again and again
	}{
		{"GET /raft/probing HTTP/1.1\r\n", lines},
		{"GET /raft/stream/message/" + memberID + " HTTP/1.1\r\nX: ", bytes.Repeat([]byte("a"), 64<<10)},
		{"GET /members HTTP/1.1\r\nHost: x\r\n", nil}, // and no more
		{"", noise},
		{"", nil},
		{"POST /raft HTTP/1.1\r\n" + as("3.7.3") + "Content-Length: 999999999999\r\n\r\n", nil},
		{"POST /raft HTTP/1.1\r\n" + as("3.7.3") + "Content-Length: 1000\r\n\r\n", noise[:1000]},
		{"POST /raft HTTP/1.1\r\n" + as("nonsense") + "Content-Length: 1\r\n\r\nx", nil},
		{"POST /raft/snapshot HTTP/1.1\r\n" + as("3.7.3") + "Content-Length: 99999999\r\n\r\n" + length(1<<62), noise},
		{"POST /raft/snapshot HTTP/1.1\r\n" + as("3.7.3") + "Content-Length: 99999999\r\n\r\n" + length(400<<20), nil},
		{"POST /leases HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", noise},
		{"POST /members/promote/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", []byte("10000\r\n" + strings.Repeat("a", 0x10000) + "\r\n")},
	}
	for i := range strangers {
		act := acts[i%len(acts)]
		for _, s := range c.members {
			address := strings.TrimPrefix(s.options.PeerURL, "http://")
			all.Go(func() {
				for ctx.Err() == nil {
					pester(ctx, address, act.once, act.then, sum)
				}
			})
		}
	}
	return func() *tally {
		cancel()
		all.Wait()
		return sum
	}
}

// pester is one connection of a stranger: it ends when the server hangs up.
func pester(ctx context.Context, address, once string, then []byte, sum *tally) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		rest(ctx, 100*time.Millisecond)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	gone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, conn)
		close(gone)
	}()
	defer func() {
		conn.Close()
		<-gone
		sum.ends.Add(1)
		rest(ctx, 50*time.Millisecond)
	}()
	io.WriteString(conn, once)
	for len(then) > 0 && ctx.Err() == nil {
		n, err := conn.Write(then)
		sum.bytes.Add(int64(n))
		if err != nil {
			return
		}
		rest(ctx, 50*time.Millisecond) // the machine is not what is tested
	}
	select {
	case <-ctx.Done():
	case <-gone:
	}
}

func rest(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// One of the members speaks garbage where it is asked: it is added as a
// learner, so that no quorum needs it. The others must go on, and get rid of
// it.
func TestMemberThatAnswersGarbageHarmsNoCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, plan{size: 3})
	l := c.load()
	l.moves(0, 1, 2)
	term := c.term()
	before := c.footprints()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rogue{listener: listener, random: rand.New(rand.NewPCG(c.Uint64(), 0))}
	served := make(chan struct{})
	go func() {
		r.run(c.bin.Name != "etcd" && c.bin.Name != "target")
		close(served)
	}()
	t.Cleanup(func() {
		listener.Close()
		<-served
	})
	members := pb.NewClusterClient(c.dial(c.leader()))
	var id uint64
	c.eventually("the rogue is added", func(ctx context.Context) error {
		added, err := members.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://" + listener.Addr().String()}, IsLearner: true})
		if err == nil {
			id = added.Member.ID
		}
		return err
	})
	for range 6 * rounds(t) {
		l.lasts(time.Second)
		c.bounded(before, strangers)
	}
	l.moves(0, 1, 2)
	c.eventually("the rogue is removed", func(ctx context.Context) error {
		return done(members.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id}))
	})
	l.moves(0, 1, 2)
	if after := c.term(); after != term {
		t.Errorf("term %d, before the rogue came %d", after, term)
	}
	l.finish()
	if r.answers.Load() < 10 {
		t.Errorf("the rogue was asked %d times only", r.answers.Load())
	}
	t.Logf("the rogue gave %d answers", r.answers.Load())
}

// A rogue answers each request with one of its kinds of garbage.
type rogue struct {
	listener net.Listener
	random   *rand.Rand // of the accepting goroutine
	answers  atomic.Int64
}

// run serves until the listener is closed. A version that is no version ends
// the process of etcd 3.7.3, and so is left out for it.
func (r *rogue) run(badVersions bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		which, seed := r.random.IntN(9), r.random.Uint64()
		if !badVersions && which == 0 {
			which = 1
		}
		all.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			request, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			r.answers.Add(1)
			answer(ctx, conn, request, which, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

// answer writes one kind of garbage.
func answer(ctx context.Context, conn net.Conn, request *http.Request, kind int, random *rand.Rand) {
	version := "3.7.3"
	if kind == 0 {
		version = "3.7" // and no third number
	}
	begin := "HTTP/1.1 200 OK\r\nX-Server-Version: " + version + "\r\nX-Etcd-Cluster-ID: " +
		request.Header.Get("X-Etcd-Cluster-ID") + "\r\nTransfer-Encoding: chunked\r\n\r\n"
	chunk := func(text string) { fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text) }
	switch kind {
	case 0, 1: // noise as a stream
		io.WriteString(conn, begin)
		for range 10 {
			chunk(fmt.Sprintf("%x", random.Uint64()))
		}
	case 2: // a message of a length that cannot be
		io.WriteString(conn, begin)
		chunk("\x7f\xff\xff\xff\xff\xff\xff\xff")
	case 3: // one that could be, and never comes
		io.WriteString(conn, begin)
		chunk("\x00\x00\x00\x00\x1f\xff\xff\xff")
		rest(ctx, 3*time.Second)
	case 4: // so many entries
		io.WriteString(conn, begin)
		chunk("\x01\x00\x00\x00\x00\x7f\xff\xff\xff")
		rest(ctx, 3*time.Second)
	case 5: // headers without an end
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		for line := "X-A: " + strings.Repeat("a", 4000) + "\r\n"; ctx.Err() == nil; rest(ctx, time.Millisecond) {
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
		}
	case 6: // no HTTP
		io.WriteString(conn, "\x16\x03\x01 what?\r\n\r\n")
	case 7: // nothing
		rest(ctx, 3*time.Second)
	default: // an end in the middle
		io.WriteString(conn, begin[:len(begin)/2])
	}
}
