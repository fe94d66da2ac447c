package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Local is a connection to the services from within the process, for the JSON
// gateway. Calls pass what calls over the network pass: the rule of their
// method, its counters, the limit of a request's size, and the metadata that
// they bring. No frame is written and no socket is crossed, which is most of
// what a loopback connection costs.
//
// Nobody is known here by a certificate: of the peer that a context names, only
// the address is kept. Calls end with their contexts.
func (a *API) Local() grpc.ClientConnInterface { return local{a} }

type local struct{ api *API }

// Invoke makes a unary call.
func (c local) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := c.api.locals.unary[method]
	if !ok {
		return unknownMethod(method)
	}
	done, err := c.api.locals.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	raw, err := c.request(args)
	if err != nil {
		return err
	}
	answer, err := m.Handler(nil, inside(ctx), func(to any) error {
		c.api.metrics.receivedBytes.Add(float64(len(raw)))
		*to.(*payload) = raw
		return nil
	}, nil)
	if err != nil {
		return outside(err)
	}
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = responseHeader()
		}
	}
	return c.deliver(answer, reply)
}

// request encodes what a handler decodes again; the bytes become the entry in
// the log.
func (c local) request(m any) (payload, error) {
	raw, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	if limit := c.api.maxMessage(); len(raw) > limit {
		return nil, status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", len(raw), limit)
	}
	return raw, nil
}

// deliver decodes what a handler has answered.
func (c local) deliver(answer, to any) error {
	data, err := codec{c.api.metrics}.Marshal(answer)
	if err != nil {
		return status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	defer data.Free()
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if err := proto.Unmarshal(buf.ReadOnlyData(), to.(proto.Message)); err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

// NewStream makes a streaming call. Its messages are handed over one at a time:
// a client that does not read holds up the handler, as a full window does.
func (c local) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	m, ok := c.api.locals.streams[method]
	if !ok {
		return nil, unknownMethod(method)
	}
	done, err := c.api.locals.begin()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(inside(ctx))
	s := &localStream{
		conn: c, ctx: ctx, oneRequest: !desc.ClientStreams,
		requests: make(chan payload, 1), answers: make(chan any),
		began: make(chan struct{}), ended: make(chan struct{}),
	}
	// It ends with its context, and stop waits for it.
	go func() {
		defer done()
		defer cancel()
		s.err = io.EOF
		if err := m.Handler(nil, serverSide{s}); err != nil {
			s.err = outside(err)
		}
		close(s.ended)
	}()
	return clientSide{s}, nil
}

// localStream is a streaming call between two goroutines.
type localStream struct {
	conn       local
	ctx        context.Context
	oneRequest bool // the client says one thing and no more
	requests   chan payload
	answers    chan any
	start      sync.Once
	began      chan struct{} // closed when the first answer is there
	ended      chan struct{} // closed when the handler has returned err
	err        error
}

// clientSide is a stream as its caller sees it.
type clientSide struct{ *localStream }

// Header waits for the first answer, with which headers come over the network.
func (s clientSide) Header() (metadata.MD, error) {
	select {
	case <-s.began:
		return responseHeader(), nil
	case <-s.ended:
	case <-s.ctx.Done():
	}
	return nil, nil // what it has ended with is for RecvMsg to say
}

func (s clientSide) Trailer() metadata.MD     { return nil }
func (s clientSide) Context() context.Context { return s.ctx }

func (s clientSide) CloseSend() error {
	close(s.requests)
	return nil
}

func (s clientSide) SendMsg(m any) error {
	raw, err := s.conn.request(m)
	if err != nil {
		return err
	}
	select {
	case s.requests <- raw:
		return nil
	case <-s.ended:
	case <-s.ctx.Done():
	}
	if s.oneRequest {
		return nil // RecvMsg says what has happened
	}
	return io.EOF
}

func (s clientSide) RecvMsg(m any) error {
	select {
	case answer := <-s.answers:
		return s.conn.deliver(answer, m)
	case <-s.ended: // and no answer is left: the handler waits for each to be taken
		return s.err
	case <-s.ctx.Done():
		select {
		case <-s.ended: // which is why the context has ended
			return s.err
		default:
			return status.FromContextError(s.ctx.Err()).Err()
		}
	}
}

// serverSide is a stream as its handler sees it.
type serverSide struct{ *localStream }

func (s serverSide) SetHeader(metadata.MD) error  { return nil }
func (s serverSide) SendHeader(metadata.MD) error { return nil }
func (s serverSide) SetTrailer(metadata.MD)       {}
func (s serverSide) Context() context.Context     { return s.ctx }

func (s serverSide) SendMsg(m any) error {
	s.start.Do(func() { close(s.began) })
	select {
	case s.answers <- m:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	case <-s.conn.api.locals.late:
		return errStopped
	}
}

func (s serverSide) RecvMsg(to any) error {
	select {
	case raw, more := <-s.requests:
		if !more {
			return io.EOF
		}
		s.conn.api.metrics.receivedBytes.Add(float64(len(raw)))
		*to.(*payload) = raw
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// locals are the methods by their full names, and who calls them from within.
type locals struct {
	unary   map[string]grpc.MethodDesc
	streams map[string]grpc.StreamDesc

	mu      sync.Mutex
	closed  bool // no call begins any more
	running sync.WaitGroup
	late    chan struct{} // closed when no stream may wait for its client any more
}

func newLocals(services []*grpc.ServiceDesc) *locals {
	l := &locals{unary: map[string]grpc.MethodDesc{}, streams: map[string]grpc.StreamDesc{}, late: make(chan struct{})}
	for _, s := range services {
		for _, m := range s.Methods {
			l.unary["/"+s.ServiceName+"/"+m.MethodName] = m
		}
		for _, m := range s.Streams {
			l.streams["/"+s.ServiceName+"/"+m.StreamName] = m
		}
	}
	return l
}

// begin counts a call in, and returns what to call when it has ended.
func (l *locals) begin() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errStopped
	}
	l.running.Add(1)
	return l.running.Done, nil
}

// refuse lets no call begin.
func (l *locals) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// inside turns a caller's context into a handler's.
func inside(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	who := &peer.Peer{Addr: within{}}
	if known, ok := peer.FromContext(ctx); ok && known.Addr != nil {
		who.Addr = known.Addr
	}
	return peer.NewContext(metadata.NewIncomingContext(ctx, md), who)
}

// within is the address of a caller that has none.
type within struct{}

func (within) Network() string { return "local" }
func (within) String() string  { return "local" }

// outside turns a handler's error into what its caller sees, as gRPC does.
func outside(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unknown, err.Error())
}

func unknownMethod(name string) error {
	return status.Error(codes.Unimplemented, fmt.Sprintf("unknown method %s", name))
}

// responseHeader is the metadata that comes with every answer over the network.
func responseHeader() metadata.MD { return metadata.Pairs("content-type", "application/grpc") }
