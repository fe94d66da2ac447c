package robust

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kvd/test/oracle"
)

// Clients vanish in the middle of their streams. Nothing of them may stay
// behind, and nobody else may notice.
func TestBrokenStreamsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	keys := pb.NewKVClient(m.Dial())
	for i := range 200 {
		if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: fillKey(i), Value: make([]byte, 20<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	baseline := gauge(t, m, "go_goroutines")
	for range 40 {
		leave(t, m)
	}
	const slack = 30 // of the idle connection that asks, and of the runtime
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		watchers, goroutines := gauge(t, m, "etcd_debugging_mvcc_watcher_total"), gauge(t, m, "go_goroutines")
		if watchers == 0 && goroutines <= baseline+slack {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v watchers and %v goroutines are left; %v goroutines before", watchers, goroutines, baseline)
		}
	}
	if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: []byte("after")}); err != nil {
		t.Error(err)
	}
}

// leave opens streams of every kind on one connection and cuts it off while
// answers are on their way.
func leave(t *testing.T, m *oracle.Member) {
	t.Helper()
	var socket net.Conn
	conn := m.Dial(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		var err error
		socket, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return socket, err
	}))
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := watch.Send(watchFrom(2)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	alive, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err == nil {
		err = alive.Send(&pb.LeaseKeepAliveRequest{ID: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err == nil {
		_, err = list.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{}); err != nil {
		t.Fatal(err)
	}
	socket.(*net.TCPConn).SetLinger(0) // a reset instead of an orderly end
	socket.Close()
}

// gauge reads one number of the metrics.
func gauge(t *testing.T, m *oracle.Member, name string) float64 {
	t.Helper()
	_, text, err := m.Get(context.Background(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// What is no protocol at all, on the port for clients and on that for peers,
// is turned away.
func TestGarbageOnThePortsHarmsNobody(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, judged(t), oracle.Options{Args: quick})
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	noise := make([]byte, 64<<10)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, address := range []string{m.Address(), strings.TrimPrefix(m.PeerURL, "http://")} {
		for name, said := range map[string][]byte{
			"nothing":               nil,
			"half a preface":        []byte(preface[:10]),
			"a preface, then noise": append([]byte(preface), noise...),
			"noise":                 noise,
			"a TLS hello":           {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc},
			"half a request":        []byte("GET /health HTTP/1.1\r\nHost: x\r\n"),
			"a bad request":         []byte("GET /health\x00 HTTP/9.9\r\n\r\n"),
			"endless headers":       append([]byte("GET /health HTTP/1.1\r\nX: "), bytes.Repeat([]byte{'a'}, 2<<20)...),
			"a body without an end": []byte("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{"),
		} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			t.Cleanup(func() { conn.Close() })                     // kept open: others must be served meanwhile
			conn.SetWriteDeadline(time.Now().Add(2 * time.Second)) // the server may have hung up
			conn.Write(said)
		}
	}
	for i := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), answerIn)
		if _, err := pb.NewKVClient(m.Dial()).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%d", i)}); err != nil {
			t.Errorf("put beside garbage: %v", err)
		}
		cancel()
	}
	m.Stop()
}
