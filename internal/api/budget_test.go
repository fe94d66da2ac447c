package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// everythingIs is a range of all keys.
var everythingIs = &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}

func TestARangeThatDoesNotFitIsRefusedAndNothingIsKept(t *testing.T) {
	s := newSolo(t)
	conn, a := serving(t, s, Options{RangeBytes: 1 << 20})
	kv := pb.NewKVClient(conn)
	value := strings.Repeat("v", 100<<10)
	for i := range 9 {
		put(t, kv, fmt.Sprint("k", i), value)
	}
	released := func() {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); a.budget.used.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes are still held", a.budget.used.Load())
			}
		}
	}
	for range 20 { // 0.9 MB each, one after the other
		if r := must(kv.Range(t.Context(), everythingIs))(t); r.Count != 9 {
			t.Fatalf("%d keys", r.Count)
		}
	}
	released()
	for i := range 9 {
		put(t, kv, fmt.Sprint("l", i), value)
	}
	for range 20 {
		_, err := kv.Range(t.Context(), everythingIs)
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "range-memory-bytes (1048576)") {
			t.Fatalf("1.8 MB: %v", err)
		}
		_, err = kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: everythingIs}}}})
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("1.8 MB in a transaction: %v", err)
		}
	}
	released()
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: 5}))(t)
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, CountOnly: true}))(t)
	stream := must(kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("l")}))(t)
	for n := 0; ; {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if n != 9 {
				t.Errorf("%d keys streamed", n)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(r.RangeResponse.Kvs)
	}
	released()
	if a.budget.refused.Load() != 40 {
		t.Errorf("%d refused", a.budget.refused.Load())
	}
}

// Answers that nobody takes are not forgotten: what they hold is missing to
// others until they are taken, or their call ends.
func TestAnswersOnTheirWayCount(t *testing.T) {
	s := newSolo(t)
	conn, a := serving(t, s, Options{RangeBytes: 2 << 20}, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(8<<20))
	kv := pb.NewKVClient(conn)
	put(t, kv, "k", strings.Repeat("v", 1<<20))
	put(t, kv, "l", strings.Repeat("v", 400<<10))
	held := func(least, most int64) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			used := a.budget.used.Load()
			if used >= least && used <= most {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d bytes are held, want %d to %d", used, least, most)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, ends := range []string{"by taking it", "by hanging up"} {
		call, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb.KV/Range")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(call.SendMsg(everythingIs), call.CloseSend()); err != nil {
			t.Fatal(err)
		}
		held(1400<<10, 2<<20)
		if _, err := kv.Range(t.Context(), everythingIs); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: another one gets %v", ends, err)
		}
		if ends == "by hanging up" {
			cancel()
		} else if r := (&pb.RangeResponse{}); call.RecvMsg(r) != nil || r.Count != 2 {
			t.Errorf("the answer is %d keys", r.Count)
		}
		held(0, 0)
	}
}
