package main

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// request is a message that is already encoded. Its bytes may change only
// when no call that carries it is under way.
type request struct{ bytes []byte }

// reply takes a message as it came. Unless keep is set only its length is
// looked at, so that a large answer costs the generator nothing.
type reply struct {
	keep bool
	n    int    // the message's length
	body []byte // the message, if keep; overwritten by the next one
}

// rawCodec sends and takes bytes under the name of protobuf: the generator
// shares the machine with what it measures, so it must stay small.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*request)
	if !ok {
		return nil, fmt.Errorf("raw codec: cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(r.bytes)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*reply)
	if !ok {
		return fmt.Errorf("raw codec: cannot receive a %T", v)
	}
	r.n = data.Len()
	if r.keep {
		if cap(r.body) < r.n {
			r.body = make([]byte, r.n)
		}
		r.body = r.body[:r.n]
		data.CopyTo(r.body)
	}
	return nil
}

// Name is what content-type says; servers know only this one.
func (rawCodec) Name() string { return "proto" }

// dial makes one connection that sends and receives raw messages. It tries
// again quickly, since the restart trial waits for it.
func dial(addr string) (*grpc.ClientConn, error) { return dialWith(addr, insecure.NewCredentials()) }

// dialTLS is dial over TLS. The server's certificate is its own work, and nobody's
// to verify.
func dialTLS(addr string) (*grpc.ClientConn, error) {
	return dialWith(addr, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})) //nolint:gosec // on loopback, for a measurement
}

func dialWith(addr string, how credentials.TransportCredentials) (*grpc.ClientConn, error) {
	const receiveLimit = 1 << 30
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(how),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(rawCodec{}),
			grpc.MaxCallRecvMsgSize(receiveLimit),
		),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.2, MaxDelay: 10 * time.Millisecond},
			MinConnectTimeout: time.Minute,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return conn, nil
}

// dialMany makes n connections; close closes them all.
func dialMany(addr string, n int) (conns []*grpc.ClientConn, closeAll func(), err error) {
	return many(n, func() (*grpc.ClientConn, error) { return dial(addr) })
}

func many(n int, dial func() (*grpc.ClientConn, error)) (conns []*grpc.ClientConn, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	for range n {
		c, err := dial()
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		conns = append(conns, c)
	}
	return conns, closeAll, nil
}
