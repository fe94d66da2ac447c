package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestCallsFromWithinAnswerAsThoseFromOutside(t *testing.T) {
	s := newSolo(t)
	conn, a := serving(t, s, Options{MaxRequestBytes: 1 << 10})
	put(t, pb.NewKVClient(conn), "a", "1")
	big := &pb.PutRequest{Key: []byte("b"), Value: make([]byte, 1<<10+overhead)}
	leaderless := func(ctx context.Context) context.Context {
		s.leader.Store(0)
		return metadata.AppendToOutgoingContext(ctx, leaderKey, "true")
	}
	late := func(ctx context.Context) context.Context {
		ctx, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
		t.Cleanup(cancel)
		return ctx
	}
	for _, c := range []struct {
		method  string
		in      proto.Message
		out     func() proto.Message
		context func(context.Context) context.Context
		code    codes.Code
	}{
		{"/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("a")}, func() proto.Message { return &pb.RangeResponse{} }, nil, codes.OK},
		{"/etcdserverpb.KV/Range", &pb.RangeRequest{}, func() proto.Message { return &pb.RangeResponse{} }, nil, codes.InvalidArgument},
		{"/etcdserverpb.KV/Put", big, func() proto.Message { return &pb.PutResponse{} }, nil, codes.ResourceExhausted},
		{"/etcdserverpb.KV/None", &pb.PutRequest{}, func() proto.Message { return &pb.PutResponse{} }, nil, codes.Unimplemented},
		{"/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("a")}, func() proto.Message { return &pb.RangeResponse{} }, leaderless, codes.Unavailable},
		{"/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("a")}, func() proto.Message { return &pb.RangeResponse{} }, late, codes.DeadlineExceeded},
	} {
		ctx := t.Context()
		if c.context != nil {
			ctx = c.context(ctx)
		}
		var header metadata.MD
		outside, within := c.out(), c.out()
		errOutside := conn.Invoke(ctx, c.method, c.in, outside)
		errWithin := a.Local().Invoke(ctx, c.method, c.in, within, grpc.Header(&header))
		s.leader.Store(soloID)
		if status.Code(errWithin) != c.code || status.Code(errOutside) != c.code {
			t.Errorf("%s: %v within, %v outside, want %s", c.method, errWithin, errOutside, c.code)
			continue
		}
		if got, want := status.Convert(errWithin).Message(), status.Convert(errOutside).Message(); got != want && c.code != codes.Unimplemented {
			t.Errorf("%s: %q within, %q outside", c.method, got, want)
		}
		if !proto.Equal(outside, within) {
			t.Errorf("%s: %v within, %v outside", c.method, within, outside)
		}
		if sent := header.Get("content-type"); (c.code == codes.OK) != (len(sent) == 1 && sent[0] == "application/grpc") {
			t.Errorf("%s: header %v", c.method, header)
		}
	}
}

func TestStreamsFromWithinCarryBothWays(t *testing.T) {
	s := newSolo(t)
	_, a := serving(t, s, Options{})
	kv := pb.NewKVClient(a.Local())
	w, err := pb.NewWatchClient(a.Local()).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("a")}
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if header, err := w.Header(); err != nil || len(header) == 0 {
		t.Errorf("header %v, %v", header, err)
	}
	if r, err := w.Recv(); err != nil || !r.Created {
		t.Fatalf("got %v, %v", r, err)
	}
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	put(t, kv, "a", "1") // a watcher stays when its client has said all
	if r, err := w.Recv(); err != nil || len(r.Events) != 1 {
		t.Fatalf("got %v, %v", r, err)
	}

	value := bytes.Repeat([]byte("x"), 1<<20)
	put(t, kv, "long", string(value))
	read, err := kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("long")})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := read.Recv(); err != nil || !bytes.Equal(r.RangeResponse.Kvs[0].Value, value) {
		t.Fatalf("the value does not arrive: %v", err)
	}
	if _, err := read.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
	refused, err := kv.RangeStream(t.Context(), &pb.RangeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = refused.Recv()
	refuses(t, err, codes.InvalidArgument, "etcdserver: key is not provided")
}

func TestAStreamFromWithinEndsWithItsContext(t *testing.T) {
	s := newSolo(t)
	_, a := serving(t, s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	w, err := pb.NewWatchClient(a.Local()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	a.locals.running.Wait()
}

func TestNobodyIsKnownByACertificateWithin(t *testing.T) {
	who := &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7}, AuthInfo: certificate{}}
	ctx := inside(peer.NewContext(metadata.AppendToOutgoingContext(t.Context(), "authorization", "x"), who))
	got, _ := peer.FromContext(ctx)
	if got.AuthInfo != nil || got.Addr.String() != "10.0.0.1:7" {
		t.Errorf("the peer is %v", got)
	}
	if token := metadata.ValueFromIncomingContext(ctx, "authorization"); len(token) != 1 || token[0] != "x" {
		t.Errorf("the token is %q", token)
	}
	if got, _ := peer.FromContext(inside(t.Context())); got.Addr.String() == "" {
		t.Error("a peer without an address has no text for one")
	}
}

type certificate struct{}

func (certificate) AuthType() string { return "tls" }

func TestNoCallBeginsWithinAfterTheEnd(t *testing.T) {
	s := newSolo(t)
	_, a := serving(t, s, Options{})
	w, err := pb.NewWatchClient(a.Local()).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream ends with %v", err)
	}
	_, err = pb.NewKVClient(a.Local()).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	refuses(t, err, codes.Unavailable, "etcdserver: server stopped")
}
