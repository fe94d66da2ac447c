package api

import (
	"context"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// method is one RPC: its rule, its counters, and what every call of it passes.
type method struct {
	api   *API
	name  string // /package.Service/Method
	rule  rule
	class class
	count
}

func (a *API) method(service, name, kind string) *method {
	full := "/" + service + "/" + name
	r, ok := rules[full]
	if !ok {
		panic("api: no rule for " + full) // found by any test that makes an API
	}
	return &method{api: a, name: full, rule: r, class: classOfMethod(full), count: a.metrics.method(kind, service, name)}
}

// Metadata that clients send.
const (
	versionKey = "client-api-version"
	leaderKey  = "hasleader"
)

// admit is what a call passes before anything else: may it be made, is its
// metadata sound, and does it get the leader it asks for. The request is nil for
// a stream.
func (m *method) admit(ctx context.Context, kind string, request any) (led bool, err error) {
	if err := m.rule.served(m.api, request); err != nil {
		return false, err
	}
	version := "unknown"
	if v := metadata.ValueFromIncomingContext(ctx, versionKey); len(v) > 0 {
		version = v[0]
	}
	if !utf8.ValidString(version) {
		return false, errClientVersion
	}
	m.api.metrics.client(kind, version)
	if v := metadata.ValueFromIncomingContext(ctx, leaderKey); len(v) > 0 && v[0] == "true" {
		if err := m.api.awaitLeader(ctx); err != nil {
			return true, err
		}
		led = true
	}
	return led, nil
}

// unary makes a method of one request and one reply. Decode reads the request
// from the bytes that came, which it may alias; serve gets both. Formed is
// what must be right about a request before it matters who sent it; it is asked
// while authentication is on, beside what serve checks.
func unary[R any](a *API, service, name string, decode func([]byte) (R, error), serve func(ctx context.Context, r R, raw []byte) (any, error), formed ...func(R) error) grpc.MethodDesc {
	m := a.method(service, name, kindUnary)
	handle := func(ctx context.Context, t *trace, read func(any) error) (any, error) {
		var in payload
		if err := read(&in); err != nil {
			return nil, err
		}
		r, err := decode(in)
		if err != nil {
			return nil, malformed(err)
		}
		m.received.Inc()
		t.request, t.in = r, len(in)
		leave, err := m.enter(r)
		if err != nil {
			return nil, err
		}
		defer leave()
		if _, err := m.admit(ctx, "unary", r); err != nil {
			return nil, err
		}
		if ctx, err = m.rule.authorize(ctx, a, r, func() error {
			for _, check := range formed {
				if err := check(r); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, m.rule.refusal(err)
		}
		reply, err := serve(ctx, r, in)
		if err != nil {
			return nil, wire(err)
		}
		m.sent.Inc()
		return reply, nil
	}
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			t := &trace{Context: ctx, began: time.Now()}
			m.started.Inc()
			reply, err := handle(t, t, read)
			m.done(err, t.began)
			m.annotate(t, reply, err)
			m.audit(t, t.request, err)
			if took := time.Since(t.began); took > a.o.SlowRequest && m.rule.marks&waits == 0 {
				m.slow(t, took, reply, err)
			}
			return reply, err
		},
	}
}

// malformed is what gRPC itself says of a request that does not decode.
func malformed(err error) error {
	return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
}

// decoded reads a request the ordinary way.
func decoded[M any, P interface {
	*M
	proto.Message
}](raw []byte) (P, error) {
	m := P(new(M))
	return m, proto.Unmarshal(raw, m)
}

// stream makes a method with a stream on either side or both.
func stream(a *API, service string, desc grpc.StreamDesc, serve func(*call) error) grpc.StreamDesc {
	kind := kindServerStream
	if desc.ClientStreams {
		kind = kindBidiStream
	}
	m := a.method(service, desc.StreamName, kind)
	desc.Handler = func(_ any, s grpc.ServerStream) error {
		began := time.Now()
		m.started.Inc()
		err := m.stream(s, serve)
		m.done(err, began)
		return err
	}
	return desc
}

func (m *method) stream(s grpc.ServerStream, serve func(*call) error) (err error) {
	c := &call{ctx: s.Context(), stream: s, method: m}
	defer func() {
		if m.class == last || err != nil { // of others each message is written down by itself
			m.audit(c.ctx, c.about, err)
		}
	}()
	if m.class == last {
		leave, err := m.enter(nil)
		if err != nil {
			return err
		}
		defer leave()
	}
	led, err := m.admit(s.Context(), "stream", nil)
	if err != nil {
		return err
	}
	ctx, done := m.api.streams.add(s.Context(), openStream{led: led, reads: m.rule.marks&reads != 0})
	defer done()
	if m.rule.marks&severally == 0 {
		if ctx, err = m.rule.authorize(ctx, m.api, nil, sure); err != nil {
			return m.rule.refusal(err)
		}
	}
	c.ctx = ctx
	return wire(serve(c))
}

// call is one call of a streaming method.
type call struct {
	ctx    context.Context // ends with the stream, the server, or the leader if one was asked for
	stream grpc.ServerStream
	about  any // what it asks for, once that is known
	*method
}

// authorize checks the caller again, for one message of a stream: a token may
// have ended since the last one.
func (c *call) authorize() (context.Context, error) {
	return c.rule.authorize(c.ctx, c.api, nil, sure)
}

// sure is for messages whose form was looked at.
func sure() error { return nil }

func (c *call) receive() (payload, error) {
	var in payload
	err := c.stream.RecvMsg(&in)
	if err == nil {
		c.received.Inc()
	}
	return in, err
}

func (c *call) send(m any) error {
	err := c.stream.SendMsg(m)
	if err == nil {
		c.sent.Inc()
	}
	return err
}

// failed counts a stream that broke through no wish of its client.
func (c *call) failed(err error, doing, name string) {
	switch code := status.Code(err); {
	case c.ctx.Err() != nil, code == codes.Canceled, code == codes.DeadlineExceeded:
	default:
		c.api.metrics.streamFailures.WithLabelValues(doing, name).Inc()
		c.api.log.Warn("a stream has failed", "method", c.name, "doing", doing, "error", err)
	}
}
