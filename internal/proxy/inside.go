package proxy

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Local is the services as a connection within the process: what it calls goes the
// way of a client's call, with the metadata that it has.
func (p *Proxy) Local() grpc.ClientConnInterface { return local{p} }

type local struct{ proxy *Proxy }

// Invoke implements grpc.ClientConnInterface.
func (l local) Invoke(ctx context.Context, name string, args, reply any, opts ...grpc.CallOption) error {
	m := methods[name]
	if l.proxy.refuses(name, m) {
		return errReadOnly
	}
	if m.kind != unary {
		return direct(l).Invoke(ctx, name, args, reply, opts...)
	}
	data, err := codec{}.Marshal(args)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	request := frame{data: data}
	defer request.free()
	answer, err := l.proxy.one(asCaller(ctx), name, m, &request)
	if err != nil {
		return err
	}
	for _, o := range opts {
		if header, ok := o.(grpc.HeaderCallOption); ok {
			*header.HeaderAddr = plainHeader()
		}
	}
	data, err = codec{}.Marshal(answer)
	if err == nil {
		defer data.Free()
		err = codec{}.Unmarshal(data, reply)
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// plainHeader is what a member says before an answer.
func plainHeader() metadata.MD { return metadata.Pairs("content-type", "application/grpc") }

// asCaller makes the metadata that a caller sends those that it is heard with.
func asCaller(ctx context.Context) context.Context {
	out, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewIncomingContext(ctx, out)
}

// NewStream implements grpc.ClientConnInterface. The caller reads until there is an
// error, or ends ctx.
func (l local) NewStream(ctx context.Context, _ *grpc.StreamDesc, name string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if l.proxy.refuses(name, methods[name]) {
		return nil, errReadOnly
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &pipe{
		ctx: ctx, cancel: cancel, up: make(chan mem.BufferSlice), down: make(chan mem.BufferSlice),
		closed: make(chan struct{}), began: make(chan struct{}), over: make(chan struct{}),
	}
	go func() { // ends with the call
		defer cancel()
		err := l.proxy.handleStream(pipeIn{s}, name)
		if err == nil {
			err = io.EOF
		}
		s.err = err
		close(s.over)
	}()
	return pipeOut{s}, nil
}

// pipe is a stream within the process. A message is handed over when the other
// side takes it.
type pipe struct {
	ctx      context.Context
	cancel   context.CancelFunc
	up, down chan mem.BufferSlice
	closing  sync.Once
	closed   chan struct{} // the caller sends no more
	starting sync.Once
	began    chan struct{} // there is an answer
	over     chan struct{} // the call has ended, with err
	err      error

	mu      sync.Mutex
	header  metadata.MD
	trailer metadata.MD
}

// pipeOut is the caller's side of a pipe.
type pipeOut struct{ *pipe }

func (s pipeOut) Context() context.Context { return s.ctx }

func (s pipeOut) Header() (metadata.MD, error) {
	select {
	case <-s.began:
		s.mu.Lock()
		defer s.mu.Unlock()
		return metadata.Join(plainHeader(), s.header), nil
	case <-s.over: // without an answer
	case <-s.ctx.Done():
	}
	return nil, nil
}

func (s pipeOut) Trailer() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trailer
}

func (s pipeOut) CloseSend() error {
	s.closing.Do(func() { close(s.closed) })
	return nil
}

func (s pipeOut) SendMsg(m any) error {
	data, err := codec{}.Marshal(m)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	select {
	case s.up <- data:
		return nil
	case <-s.over:
		return io.EOF
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s pipeOut) RecvMsg(m any) error {
	select {
	case data := <-s.down:
		defer data.Free()
		if err := (codec{}).Unmarshal(data, m); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return nil
	case <-s.over:
		return s.ended()
	}
}

// ended is what the call has ended with, for the caller.
func (p *pipe) ended() error {
	if errors.Is(p.err, io.EOF) {
		return io.EOF
	}
	if _, ok := status.FromError(p.err); ok {
		return p.err
	}
	return status.FromContextError(p.err).Err()
}

// pipeIn is the side of who serves.
type pipeIn struct{ *pipe }

func (s pipeIn) Context() context.Context { return asCaller(s.ctx) }

func (s pipeIn) SetHeader(md metadata.MD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header = metadata.Join(s.header, md)
	return nil
}

func (s pipeIn) SendHeader(md metadata.MD) error {
	err := s.SetHeader(md)
	s.starting.Do(func() { close(s.began) })
	return err
}

func (s pipeIn) SetTrailer(md metadata.MD) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trailer = metadata.Join(s.trailer, md)
}

func (s pipeIn) SendMsg(m any) error {
	data, err := codec{}.Marshal(m)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	s.starting.Do(func() { close(s.began) })
	select {
	case s.down <- data:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

func (s pipeIn) RecvMsg(m any) error {
	select {
	case data := <-s.up:
		defer data.Free()
		if err := (codec{}).Unmarshal(data, m); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return nil
	case <-s.closed:
		return io.EOF
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}
