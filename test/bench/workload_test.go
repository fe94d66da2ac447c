package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// selfSigned makes a certificate that nobody verifies.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve runs l inside the test and returns a stage on it.
func serve(t *testing.T, l *limit) *stage {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	server := l.register()
	var serving sync.WaitGroup
	for _, on := range []net.Listener{listener, secure} {
		serving.Go(func() { _ = server.Serve(on) })
	}
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &stage{
		process: &process{
			subject: &subject{Name: floorName}, addr: listener.Addr().String(), secure: secure.Addr().String(), cmd: &exec.Cmd{Process: self},
		},
		duration: 200 * time.Millisecond, // of paced events enough for one sample
		warm:     40 * time.Millisecond,
		limit:    1000,
		seed:     1,
	}
}

func TestEveryWorkloadRunsOnTheLimit(t *testing.T) {
	st := serve(t, newLimit())
	for _, w := range workloads() {
		if beyondLimit(w) {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			m, err := w.run(t.Context(), st)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{cpuPerOp, opsPerSecond, latencyMedian, latencyTail, residentAfter} {
				if strings.HasPrefix(w.name, "keepalive") && (name == latencyMedian || name == latencyTail) {
					continue // see keep
				}
				if m[name] <= 0 {
					t.Errorf("%s is %v", name, m[name])
				}
			}
		})
	}
}

func TestEveryProxyWorkloadRunsOnTheLimit(t *testing.T) {
	told := 7
	member := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE etcd_debugging_mvcc_watcher_total gauge\netcd_debugging_mvcc_watcher_total %d\n", told)
		told++
	}))
	defer member.Close()
	st := serve(t, newLimit())
	ps := &proxyStage{stage: *st, member: st.process.addr, metrics: member.URL}
	for _, w := range proxyWorkloads() {
		t.Run(w.name, func(t *testing.T) {
			m, err := w.run(t.Context(), ps)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{cpuPerOp, opsPerSecond, latencyMedian, latencyTail, residentAfter}
			switch w.name {
			case "proxyadds":
				want = append(want, directMedian)
			case "proxywatch":
				if m[watchesBehind] != 1 || m["ops"] != proxyWatchers*float64(int64(proxyPuts*st.duration.Seconds())) {
					t.Errorf("%v watches at the member, %v events", m[watchesBehind], m["ops"])
				}
			}
			for _, name := range want {
				if m[name] <= 0 {
					t.Errorf("%s is %v", name, m[name])
				}
			}
		})
	}
}

func TestEveryWatcherCountsEveryEvent(t *testing.T) {
	st := serve(t, newLimit())
	m, err := watchFlood(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	if want := floodPerS * st.duration.Seconds() * watchers; m["ops"] != want {
		t.Errorf("%v events, want %v", m["ops"], want)
	}
}

// named finds a workload.
func named(t *testing.T, name string) workload {
	t.Helper()
	all := workloads()
	i := slices.IndexFunc(all, func(w workload) bool { return w.name == name })
	if i < 0 {
		t.Fatalf("no workload %s", name)
	}
	return all[i]
}

func TestGarbageOfTheRightLengthIsFound(t *testing.T) {
	l := newLimit()
	var r pb.RangeResponse
	if err := proto.Unmarshal(l.listing, &r); err != nil {
		t.Fatal(err)
	}
	r.Kvs[1].Value = r.Kvs[2].Value
	listing, err := proto.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	l.listing = listing
	st := serve(t, l)
	for _, name := range []string{"range", "stream"} {
		if m, err := named(t, name).run(t.Context(), st); err == nil {
			t.Errorf("%s was measured: %v", name, m)
		}
	}
}

func TestShortAnswerIsFound(t *testing.T) {
	l := newLimit()
	l.listing = l.listing[:1000]
	st := serve(t, l)
	if m, err := named(t, "range").run(t.Context(), st); err == nil {
		t.Errorf("measured: %v", m)
	}
}

func TestWrongKeyIsFound(t *testing.T) {
	body := newLimit().get(appendRange(nil, small.key(7), nil, 0, false))
	if err := checkGet(body, small, 7); err != nil {
		t.Errorf("the right key: %v", err)
	}
	if checkGet(body, small, 8) == nil {
		t.Error("the answer for key 7 was taken for key 8")
	}
}

func TestDriveEndsAtItsLimit(t *testing.T) {
	calls := op(func(context.Context) error { return nil })
	tally, err := drive(t.Context(), []op{calls, calls}, time.Minute, 100)
	if err != nil || tally.ops != 100 {
		t.Errorf("%d operations, %v; want 100", tally.ops, err)
	}
}

func TestDriveStopsAtTheFirstError(t *testing.T) {
	broken := op(func(context.Context) error { return os.ErrInvalid })
	fine := op(func(ctx context.Context) error { return ctx.Err() })
	if _, err := drive(t.Context(), []op{fine, broken}, time.Minute, 1<<40); err == nil {
		t.Error("no error")
	}
}
