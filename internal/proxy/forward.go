package proxy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ErrNoEndpoint is that no member can be reached.
var ErrNoEndpoint = errors.New("kvd proxy: no member of the cluster can be reached")

// errReadOnly refuses what writes.
var errReadOnly = status.Error(codes.PermissionDenied, "kvd proxy: this proxy is read-only; send what writes to a member, or to a proxy without proxy = \"readonly\"")

// errStopping ends calls whose proxy stops.
var errStopping = status.Error(codes.Unavailable, "kvd proxy: the proxy is stopping")

// declare has the calls of one message and one answer served as what they are,
// which costs less than to serve them as streams.
func (p *Proxy) declare() {
	services := map[string]*grpc.ServiceDesc{}
	for name, m := range methods {
		if m.kind != unary {
			continue
		}
		service, short, _ := strings.Cut(name[1:], "/")
		if services[service] == nil {
			services[service] = &grpc.ServiceDesc{ServiceName: service}
		}
		services[service].Methods = append(services[service].Methods, grpc.MethodDesc{
			MethodName: short,
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return p.unary(ctx, name, m, decode)
			},
		})
	}
	for _, s := range services {
		p.server.RegisterService(s, nil)
	}
}

// refuses reports whether a read-only proxy need not even look at a request.
func (p *Proxy) refuses(name string, m method) bool {
	return p.o.ReadOnly && (m.writes || m.kind == foreign) && name != txn && name != alarm
}

// handle is gRPC's handler of every call that is not registered.
func (p *Proxy) handle(_ any, in grpc.ServerStream) error {
	name, ok := grpc.MethodFromServerStream(in)
	if !ok {
		return status.Error(codes.Internal, "kvd proxy: a call without a method")
	}
	return p.handleStream(in, name)
}

// handleStream serves a call that is not of one message and one answer.
func (p *Proxy) handleStream(in grpc.ServerStream, name string) error {
	m := methods[name]
	if p.refuses(name, m) {
		return errReadOnly
	}
	c := call{proxy: p, in: in, name: name, method: m, ctx: outgoing(in.Context())}
	switch m.kind {
	case answers:
		return c.answers()
	case shared:
		if name == "/etcdserverpb.Watch/Watch" {
			return p.watch(in)
		}
		return p.keepAlive(in)
	default:
		return c.both()
	}
}

const (
	txn   = "/etcdserverpb.KV/Txn"
	alarm = "/etcdserverpb.Maintenance/Alarm"
)

// connectionHeaders are of the caller's connection and not of the call.
var connectionHeaders = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "te", "connection", "keep-alive"}

// outgoing passes the caller's metadata on: its token, and whether it wants a
// leader, among others.
func outgoing(ctx context.Context) context.Context {
	out, _ := metadata.FromIncomingContext(ctx) // a copy, which may be changed
	for key := range out {
		if slices.Contains(connectionHeaders, key) || strings.HasPrefix(key, "grpc-") {
			delete(out, key)
		}
	}
	if len(out) == 0 {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// call is one call on its way.
type call struct {
	proxy  *Proxy
	in     grpc.ServerStream
	name   string
	method method
	ctx    context.Context // with the metadata for the member
}

// unary passes one message on and one answer back. Members say nothing beside
// them, so no header and no trailer is looked for.
func (p *Proxy) unary(ctx context.Context, name string, m method, decode func(any) error) (any, error) {
	if p.refuses(name, m) {
		return nil, errReadOnly
	}
	var request frame
	if err := decode(&request); err != nil {
		return nil, err
	}
	defer request.free()
	return p.one(ctx, name, m, &request)
}

// one serves a call of one message. Its answer is the caller's.
func (p *Proxy) one(ctx context.Context, name string, m method, request *frame) (any, error) {
	c := call{proxy: p, name: name, method: m, ctx: outgoing(ctx)}
	if name == memberListMethod && p.o.Registration.Prefix != "" {
		return p.registered(c.ctx)
	}
	if answer, served, err := p.leasing.serve(ctx, &c, request); served {
		return answer, err
	}
	answer, err := p.pass(ctx, &c, request)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// pass has a member answer, or the cache.
func (p *Proxy) pass(ctx context.Context, c *call, request *frame) (*last, error) {
	if err := c.prepare(request); err != nil {
		return nil, err
	}
	asked, key := p.cache.concerns(ctx, c.name, request)
	if asked != nil {
		if known, ok := p.cache.get(key); ok && !p.order.older(c.name, &frame{data: known}) {
			return p.answer(c.name, &last{frame{known}})
		}
	}
	answer := &last{}
	if err := c.ask(request, &answer.frame); err != nil {
		return nil, err
	}
	if asked != nil {
		p.cache.put(asked, key, answer.data.Materialize())
	}
	return p.answer(c.name, answer)
}

// invoke makes a call of the proxy's own, or one in the name of whose metadata ctx
// has, of a member.
func (p *Proxy) invoke(ctx context.Context, name string, in, out proto.Message) error {
	data, err := proto.Marshal(in)
	if err != nil {
		return status.Errorf(codes.Internal, "kvd proxy: %v", err)
	}
	request := frame{data: mem.BufferSlice{mem.SliceBuffer(data)}}
	defer request.free()
	c := call{proxy: p, name: name, method: methods[name], ctx: ctx}
	if err := c.prepare(&request); err != nil {
		return err
	}
	var answer frame
	if err := c.ask(&request, &answer); err != nil {
		return err
	}
	defer answer.free()
	if err := p.o.Namespace.answer(name, &answer); err != nil {
		return err
	}
	return codec{}.Unmarshal(answer.data, out)
}

// answer makes an answer what the caller is to get.
func (p *Proxy) answer(name string, a *last) (*last, error) {
	if err := p.o.Namespace.answer(name, &a.frame); err != nil {
		return nil, err
	}
	return a, nil
}

// ask asks a member, and another where that is harmless.
func (c *call) ask(request, answer *frame) error {
	var tried []*endpoint
	for {
		e, err := c.proxy.endpoints.choose(c.ctx, tried, c.patience(tried))
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		err = e.conn.Invoke(c.ctx, c.name, request, answer)
		if c.retry(e, err) {
			tried = append(tried, e)
			if c.proxy.endpoints.pick(tried) != nil {
				continue
			}
		}
		if err == nil && c.proxy.order.older(c.name, answer) {
			answer.free()
			if tried = append(tried, e); c.proxy.endpoints.pick(tried) != nil {
				continue
			}
			err = errOlder
		}
		return err
	}
}

// prepare makes a request what a member is to get, or refuses it.
func (c *call) prepare(request *frame) error {
	if c.proxy.o.ReadOnly && c.method.writes && mayWrite(c.name, request) {
		return errReadOnly
	}
	if c.name == rangeMethod {
		if err := c.proxy.order.begin(c.ctx, c.proxy); err != nil {
			return err
		}
	}
	return c.proxy.o.Namespace.request(c.name, request)
}

// passHeader passes on what a member says before its answer, beyond what every
// answer has.
func (c *call) passHeader(header metadata.MD) {
	delete(header, "content-type")
	if len(header) > 0 {
		_ = c.in.SetHeader(header) // fails only once the call is over
	}
}

// retry reports whether another member may be asked after err, and sets the one
// aside that did not answer. Etcd's own refusals are answers.
func (c *call) retry(e *endpoint, err error) bool {
	if status.Code(err) != codes.Unavailable || c.ctx.Err() != nil {
		return false
	}
	if strings.HasPrefix(status.Convert(err).Message(), "etcdserver: ") {
		return c.method.again
	}
	c.proxy.endpoints.setAside(e, status.Convert(err).Message())
	return c.method.again
}

// patience is how long to wait for a connection: not at all once a member has
// been asked.
func (c *call) patience(tried []*endpoint) time.Duration {
	if len(tried) > 0 {
		return 0
	}
	return c.proxy.o.DialTimeout
}

// answers passes one message on and a stream of answers back, each as it comes.
func (c *call) answers() error {
	var request frame
	if err := c.in.RecvMsg(&request); err != nil {
		return err
	}
	defer request.free()
	if err := c.proxy.o.Namespace.request(c.name, &request); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	out, _, err := c.proxy.stream(ctx, c.name)
	if err != nil {
		return err
	}
	if err := out.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_ = out.CloseSend() // what is wrong with the stream is told by RecvMsg
	return c.back(out)
}

// stream opens a stream at a member.
func (p *Proxy) stream(ctx context.Context, name string) (grpc.ClientStream, *endpoint, error) {
	var tried []*endpoint
	for {
		e, err := p.endpoints.choose(ctx, tried, p.o.DialTimeout)
		if err != nil {
			return nil, nil, status.Error(codes.Unavailable, err.Error())
		}
		out, err := e.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
		if err == nil {
			return out, e, nil
		}
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return nil, nil, err
		}
		p.endpoints.setAside(e, status.Convert(err).Message())
		tried = append(tried, e)
		if p.endpoints.pick(tried) == nil {
			return nil, nil, err
		}
	}
}

// back passes a member's answers to the caller until they end.
func (c *call) back(out grpc.ClientStream) error {
	if header, err := out.Header(); err == nil {
		c.passHeader(header)
	}
	for {
		var answer frame
		err := out.RecvMsg(&answer)
		if err == nil {
			err = c.proxy.o.Namespace.answer(c.name, &answer)
		}
		if err == nil {
			err = c.in.SendMsg(&answer)
			answer.free()
			if err != nil {
				return err
			}
			continue
		}
		c.in.SetTrailer(out.Trailer())
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

// both passes messages on in both directions.
func (c *call) both() error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	out, _, err := c.proxy.stream(ctx, c.name)
	if err != nil {
		return err
	}
	forth := make(chan struct{})
	go func() { // ends with the call: its context ends RecvMsg
		defer close(forth)
		for {
			var request frame
			if err := c.in.RecvMsg(&request); err != nil {
				if errors.Is(err, io.EOF) {
					_ = out.CloseSend() // RecvMsg tells what is wrong
				} else {
					cancel()
				}
				return
			}
			err := out.SendMsg(&request)
			request.free()
			if err != nil {
				return
			}
		}
	}()
	return c.back(out)
}

// mayWrite reports whether a request that a read-only proxy gets would change
// something, or cannot be read.
func mayWrite(name string, request *frame) bool {
	data := request.data.Materialize()
	switch name {
	case txn:
		var r pb.TxnRequest
		return proto.Unmarshal(data, &r) != nil || writesIn(r.Success) || writesIn(r.Failure)
	case alarm:
		var r pb.AlarmRequest
		return proto.Unmarshal(data, &r) != nil || r.Action != pb.AlarmRequest_GET
	}
	return true
}

func writesIn(ops []*pb.RequestOp) bool {
	return slices.ContainsFunc(ops, func(op *pb.RequestOp) bool {
		switch {
		case op.GetRequestRange() != nil:
			return false
		case op.GetRequestTxn() != nil:
			t := op.GetRequestTxn()
			return writesIn(t.Success) || writesIn(t.Failure)
		}
		return true
	})
}
