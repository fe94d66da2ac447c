package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// limit is a server without a store: it answers each call of the generator
// with as little work as gRPC allows. What it costs is the floor under every
// server that speaks this API with this gRPC library.
type limit struct {
	revision atomic.Int64
	listing  []byte // a RangeResponse with the large space
	hub      hub
}

const limitCommand = "limit-server"

// limitSubject runs the limit in a process of its own, from this program.
func limitSubject() (*subject, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &subject{
		Name:    floorName,
		Version: "empty handlers, grpc-go " + grpc.Version,
		path:    path,
		args:    func(p *process, _ bool) []string { return []string{limitCommand, "-addr", p.addr} },
	}, nil
}

// serveLimit is that process.
func serveLimit(args []string) error {
	flags := flag.NewFlagSet(limitCommand, flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:0", "where to listen")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := newLimit().register()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		server.Stop()
		return <-served // nil after Stop
	}
}

func newLimit() *limit {
	l := &limit{}
	l.revision.Store(1)
	l.listing = l.header()
	for n := range large.n {
		l.listing = appendBytes(l.listing, 2, keyValue(large.key(n), large.value(n), 1))
	}
	l.listing = appendInt(l.listing, 4, int64(large.n))
	return l
}

// register makes a gRPC server with the default options.
func (l *limit) register() *grpc.Server {
	unary := func(name string, answer func(in []byte) []byte) grpc.MethodDesc {
		handler := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := reply{keep: true}
			if err := decode(&in); err != nil {
				return nil, err
			}
			return &request{answer(in.body)}, nil
		}
		return grpc.MethodDesc{MethodName: name, Handler: handler}
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "etcdserverpb.KV",
		Methods:     []grpc.MethodDesc{unary("Range", l.get), unary("Put", l.put), unary("Txn", l.txn)},
		Streams:     []grpc.StreamDesc{{StreamName: "RangeStream", Handler: l.stream, ServerStreams: true}},
	}, nil)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "etcdserverpb.Lease",
		Methods:     []grpc.MethodDesc{unary("LeaseGrant", l.grant)},
		Streams:     []grpc.StreamDesc{{StreamName: "LeaseKeepAlive", Handler: l.keep, ServerStreams: true, ClientStreams: true}},
	}, nil)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "etcdserverpb.Watch",
		Streams:     []grpc.StreamDesc{{StreamName: "Watch", Handler: l.watch, ServerStreams: true, ClientStreams: true}},
	}, nil)
	return server
}

// header returns a response that so far has only its header.
func (l *limit) header() []byte {
	return appendBytes(make([]byte, 0, 64), 1, appendInt(make([]byte, 0, 11), 3, l.revision.Load()))
}

// written is header with the next revision.
func (l *limit) written() []byte {
	return appendBytes(make([]byte, 0, 64), 1, appendInt(make([]byte, 0, 11), 3, l.revision.Add(1)))
}

// get answers with the key asked for and the value that it would have. A
// range with an end is the listing.
func (l *limit) get(in []byte) []byte {
	key, end := keyAndNext(in)
	if end != nil {
		return l.listing
	}
	number := 0
	for _, digit := range key[max(0, len(key)-digits):] {
		number = number*10 + int(digit-'0')
	}
	out := appendBytes(l.header(), 2, keyValue(key, small.value(number), 1))
	return appendInt(out, 4, 1)
}

func (l *limit) put(in []byte) []byte {
	if l.hub.watched.Load() {
		key, value := keyAndNext(in)
		l.hub.publish(func() []byte {
			header := l.written()
			event := appendBytes(nil, 2, keyValue(key, value, l.revision.Load()))
			return appendBytes(header, 11, event)
		})
	}
	return l.written()
}

func (l *limit) txn([]byte) []byte {
	out := appendInt(l.written(), 2, 1)
	return appendBytes(out, 3, appendBytes(nil, 2, nil))
}

func (l *limit) grant([]byte) []byte {
	out := appendInt(l.header(), 2, l.revision.Add(1))
	return appendInt(out, 3, leaseSeconds)
}

// keep answers each keep-alive with the lease that it asks for.
func (l *limit) keep(_ any, stream grpc.ServerStream) error {
	for {
		in := reply{keep: true}
		if err := stream.RecvMsg(&in); err != nil {
			return nil // the client has said all
		}
		out := append(l.header(), protowire.AppendTag(nil, 2, protowire.VarintType)...)
		out = append(out, in.body[1:]...) // behind the tag is the ID
		if err := stream.SendMsg(&request{appendInt(out, 3, leaseSeconds)}); err != nil {
			return err
		}
	}
}

// stream sends the listing in one message.
func (l *limit) stream(_ any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(&reply{}); err != nil {
		return err
	}
	return stream.SendMsg(&request{appendBytes(nil, 1, l.listing)})
}

// watch sends every event that is published, whatever was asked for.
func (l *limit) watch(_ any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(&reply{}); err != nil {
		return err
	}
	events := l.hub.join()
	defer l.hub.leave(events)
	if err := stream.SendMsg(&request{appendInt(l.header(), 3, 1)}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case event := <-events:
			if err := stream.SendMsg(&request{event}); err != nil {
				return err
			}
		}
	}
}

// hub hands every event to every watcher.
type hub struct {
	watched atomic.Bool
	mu      sync.Mutex
	members map[chan []byte]struct{}
}

// join returns the events from now on; a member must leave.
func (h *hub) join() chan []byte {
	events := make(chan []byte, 1024) // full: publish waits, and the puts with it
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members == nil {
		h.members = map[chan []byte]struct{}{}
	}
	h.members[events] = struct{}{}
	h.watched.Store(true)
	return events
}

// leave ends what join began.
func (h *hub) leave(events chan []byte) {
	drained := make(chan struct{})
	defer close(drained)
	go func() { // a publish may be waiting for room, with the lock held
		for {
			select {
			case <-events:
			case <-drained:
				return
			}
		}
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.members, events)
	h.watched.Store(len(h.members) > 0)
}

// publish hands on what event returns. It is called with the lock held, so
// that events go out in the order of their revisions.
func (h *hub) publish(event func() []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := event()
	for events := range h.members {
		events <- e
	}
}

// keyValue encodes a KeyValue of version 1.
func keyValue(key, value []byte, revision int64) []byte {
	kv := appendBytes(make([]byte, 0, len(key)+len(value)+24), 1, key)
	kv = appendInt(kv, 2, revision)
	kv = appendInt(kv, 3, revision)
	kv = appendInt(kv, 4, 1)
	return appendBytes(kv, 5, value)
}

// keyAndNext returns the fields 1 and 2 of a request: the key, and its value
// or the range's end.
func keyAndNext(in []byte) (key, next []byte) {
	// A request that cannot be read counts as one without fields.
	_ = eachField(in, func(field protowire.Number, _ uint64, body []byte) {
		switch field {
		case 1:
			key = body
		case 2:
			next = body
		}
	})
	return key, next
}
