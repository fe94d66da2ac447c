package compat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// TestAProxyHoldsNoBigRange streams far more than the proxy may have in memory,
// to a client that does not read for a while.
func TestAProxyHoldsNoBigRange(t *testing.T) {
	t.Parallel()
	const values, mostMiB = 160, 64
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	p := proxyBefore(t, m, oracle.Options{Name: "proxy"})
	kv := pb.NewKVClient(m.Dial())
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range values {
		if _, err := kv.Put(bounded(t), &pb.PutRequest{Key: fmt.Appendf(nil, "big/%03d", i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	before := mostMemory(t, p)
	s, err := pb.NewKVClient(p.Dial()).RangeStream(bounded(t), &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for first := true; ; first = false {
		part, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if first { // what the member would push into the proxy meanwhile is there by then
			if _, err := kv.Range(bounded(t), &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0"), Limit: 100}); err != nil {
				t.Fatal(err)
			}
		}
		got += len(part.RangeResponse.Kvs)
	}
	if got != values {
		t.Errorf("%d of %d values came", got, values)
	}
	if after := mostMemory(t, p); after-before > mostMiB<<10 {
		t.Errorf("the proxy grew from %d to %d MiB for a range of %d MiB", before>>10, after>>10, values)
	}
}

// mostMemory is the most that a process had in memory so far, in KiB.
func mostMemory(t *testing.T, m *oracle.Member) (kib int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("VmHWM:"))
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
