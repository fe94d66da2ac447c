package robust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

func TestSecondProcessSaysWhoHoldsTheDirectory(t *testing.T) {
	t.Parallel()
	first := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	second := oracle.Launch(t, judged(t), oracle.Options{DataDir: first.DataDir, Args: quick})
	exit, err := second.Wait(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if exit.Success() {
		t.Errorf("the second process ended with %s", exit)
	}
	for _, word := range []string{strconv.Itoa(first.Pid()), first.DataDir} {
		if !strings.Contains(second.Log(), word) {
			t.Errorf("the second process does not say %q", word)
		}
	}
	if _, err := pb.NewKVClient(first.Dial()).Put(context.Background(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Errorf("the first process: %v", err)
	}
}

// What was under way when SIGTERM came is finished: a large answer that the
// client reads slowly arrives whole.
func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	keys, value := pb.NewKVClient(m.Dial()), make([]byte, 50<<10)
	const n = 300
	for i := range n {
		if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: fillKey(i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := keys.RangeStream(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	refusedSoon(t, m)
	got := len(first.RangeResponse.Kvs)
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d of %d keys: %v", got, n, err)
		}
		got += len(part.RangeResponse.Kvs)
	}
	if got != n {
		t.Errorf("%d keys of %d", got, n)
	}
	if exit, err := m.Wait(20 * time.Second); err != nil || !exit.InOrder() {
		t.Errorf("ended with %s, %v", exit, err)
	}
}

// refusedSoon waits until a server that is stopping takes no new connection.
func refusedSoon(t *testing.T, m *oracle.Member) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", m.Address(), time.Second)
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Error("a stopping server takes new connections")
}

// Streams that have no end of their own do not hold up the stop, and every
// write that was acknowledged while it stopped is there after.
func TestStopUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	o := oracle.Options{DataDir: filepath.Join(t.TempDir(), "data"), Args: quick}
	m := oracle.Start(t, judged(t), o)
	stream, err := pb.NewWatchClient(m.Dial()).Watch(context.Background())
	if err == nil {
		err = stream.Send(watchFrom(0))
	}
	if err != nil {
		t.Fatal(err)
	}
	const callers = 8
	var acked [callers]int
	var all sync.WaitGroup
	for i := range callers {
		keys := pb.NewKVClient(m.Dial())
		all.Go(func() {
			for ; ; acked[i]++ {
				_, err := keys.Put(context.Background(), &pb.PutRequest{Key: fmt.Appendf(nil, "%d/%d", i, acked[i])})
				if code := status.Code(err); code == codes.Unavailable || code == codes.Canceled {
					return
				}
				if err != nil {
					t.Errorf("put while stopping: %v", err)
					return
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond) // some load, so that something is under way
	m.Stop()
	all.Wait()
	m = oracle.Start(t, judged(t), o)
	for i, n := range acked {
		r, err := pb.NewKVClient(m.Dial()).Range(context.Background(),
			&pb.RangeRequest{Key: fmt.Appendf(nil, "%d/", i), RangeEnd: fmt.Appendf(nil, "%d0", i), CountOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.Count < int64(n) || r.Count > int64(n)+1 {
			t.Errorf("caller %d: %d keys, %d were acknowledged", i, r.Count, n)
		}
	}
}

// SIGHUP reads the configuration again and ends nothing.
func TestHangupReloadsTheLogLevel(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kvd.toml")
	level := func(name string) {
		if err := os.WriteFile(file, []byte("log-level = \""+name+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	level("error")
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{Args: append([]string{"--config-file", file}, quick...)})
	stream, err := pb.NewWatchClient(m.Dial()).Watch(context.Background())
	if err == nil {
		err = stream.Send(watchFrom(0))
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	quiet := m.Log()
	if strings.Contains(quiet, "ready to serve client requests") {
		t.Errorf("at level error the log has:\n%s", quiet)
	}
	level("debug")
	if err := m.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); m.Log() == quiet; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is logged after the level was set to debug")
		}
	}
	if _, err := pb.NewKVClient(m.Dial()).Put(context.Background(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || len(r.Events) != 1 {
		t.Errorf("the watch from before: %v, %v", r, err)
	}
	m.Stop()
}

// systemd is told when the member has joined, and when it stops.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick, Env: []string{"NOTIFY_SOCKET=" + path}})
	hear(t, socket, "READY=1")
	if !strings.Contains(m.Log(), "ready to serve client requests") {
		t.Error("the log does not have the phrase that alerts read")
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear(t, socket, "STOPPING=1")
}

// hear waits for a message that has a line.
func hear(t *testing.T, socket *net.UnixConn, line string) {
	t.Helper()
	if err := socket.SetReadDeadline(time.Now().Add(answerIn)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 4096)
	for {
		n, err := socket.Read(message)
		if err != nil {
			t.Fatalf("%s was not sent: %v", line, err)
		}
		for one := range strings.Lines(string(message[:n])) {
			if strings.TrimSpace(one) == line {
				return
			}
		}
	}
}

// Listeners that systemd hands down are served in place of those that the
// options would open.
func TestInheritedListenersAreServed(t *testing.T) {
	t.Parallel()
	client, clientURL := inherited(t, "client")
	metrics, metricsURL := inherited(t, "metrics")
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{
		ClientURL: clientURL, Args: append([]string{"--listen-metrics-urls", metricsURL}, quick...),
		Sockets: []oracle.Socket{client, metrics},
	})
	if _, err := pb.NewKVClient(m.Dial()).Put(context.Background(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Error(err)
	}
	m.ClientURL = metricsURL
	if status, body, err := m.Get(context.Background(), "/metrics"); err != nil || !strings.Contains(body, "etcd_server_has_leader 1") {
		t.Errorf("metrics: %d, %v", status, err)
	}
	m.Stop()
}

// A socket that fits no option is a mistake in a unit, and named.
func TestInheritedListenerThatFitsNothingIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"client", "clyent"} {
		odd, url := inherited(t, name)
		m := oracle.Launch(t, oracle.Kvd(t), oracle.Options{Args: quick, Sockets: []oracle.Socket{odd}})
		exit, err := m.Wait(answerIn)
		if err != nil {
			t.Fatal(err)
		}
		told := m.Log()
		if exit.Success() || !strings.Contains(told, name) || name == "client" && !strings.Contains(told, strings.TrimPrefix(url, "http://")) {
			t.Errorf("%s: ended with %s, saying:\n%s", name, exit, lastLines(told, 3))
		}
		noTrace(t, m)
	}
}

// inherited is a listener to hand down, and its URL.
func inherited(t *testing.T, name string) (s oracle.Socket, url string) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return oracle.Socket{Name: name, File: f}, "http://" + l.Addr().String()
}
