package api

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/internal/state"
)

// trace is what is known of a unary call while it runs: its context, and what
// there is to tell if it turns out to be slow. One goroutine owns it.
type trace struct {
	context.Context
	began   time.Time
	caller  caller
	request any // as it was decoded; nil before
	in      int // bytes of it
	// Of the time that the call took: waiting to hear that this member is up to
	// date, and from proposing a command until it was applied. The rest is
	// reading, checking and encoding.
	barrier, log time.Duration
}

type traceKey struct{}

// Value makes the trace, and who calls, known to those who only have the context.
func (t *trace) Value(key any) any {
	switch key {
	case traceKey{}:
		return t
	case callerKey{}:
		return &t.caller
	}
	return t.Context.Value(key)
}

func traceOf(ctx context.Context) (*trace, bool) {
	t, ok := ctx.Value(traceKey{}).(*trace)
	return t, ok
}

// timed is a member whose waits are measured.
type timed struct {
	Member
	tracer oteltrace.Tracer // may be nil
}

// begin begins a span of a call, if calls are traced.
func (m timed) begin(ctx context.Context, name string) (context.Context, func(error)) {
	if m.tracer == nil {
		return ctx, func(error) {}
	}
	ctx, span := m.tracer.Start(ctx, name)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(otelcodes.Error, err.Error())
		}
		span.End()
	}
}

// annotate puts what the log would say of a slow call into its span.
func (m *method) annotate(t *trace, reply any, err error) {
	if !m.api.traced {
		return
	}
	span := oteltrace.SpanFromContext(t)
	if !span.IsRecording() {
		return
	}
	for _, a := range m.told(t, t.request, err) {
		span.SetAttributes(attribute.String("kvd."+a.Key, a.Value.String()))
	}
	span.SetAttributes(attribute.Int("kvd.request-bytes", t.in), attribute.Int("kvd.reply-bytes", bytesOf(reply)))
}

func (m timed) Propose(ctx context.Context, req *state.Request, raw []byte) (any, error) {
	began := time.Now()
	ctx, end := m.begin(ctx, "log: propose and apply")
	reply, err := m.Member.Propose(ctx, req, raw)
	end(err)
	if t, ok := traceOf(ctx); ok {
		t.log += time.Since(began)
	}
	return reply, err
}

func (m timed) Barrier(ctx context.Context) error {
	began := time.Now()
	ctx, end := m.begin(ctx, "read index")
	err := m.Member.Barrier(ctx)
	end(err)
	if t, ok := traceOf(ctx); ok {
		t.barrier += time.Since(began)
	}
	return err
}

// told is what the log says of a call, slow or audited.
func (m *method) told(ctx context.Context, request any, err error) []slog.Attr {
	who, remote := callerName(ctx)
	all := []slog.Attr{
		slog.String("method", m.name), slog.String("user", who), slog.String("remote", remote),
	}
	if s := spans(request); s != "" {
		all = append(all, slog.String("span", s))
	}
	return append(all, slog.String("code", status.Code(err).String()))
}

// slow tells of a call that took long, with what it takes to find out why.
func (m *method) slow(t *trace, took time.Duration, reply any, err error) {
	rest := max(took-t.barrier-t.log, 0)
	attrs := append(m.told(t, t.request, err),
		slog.Duration("took", took), slog.Duration("expected", m.api.o.SlowRequest),
		slog.Duration("read-index", t.barrier), slog.Duration("log", t.log), slog.Duration("rest", rest),
		slog.Int("request-bytes", t.in), slog.Int("reply-bytes", bytesOf(reply)))
	m.api.metrics.slow.Inc()
	m.api.log.LogAttrs(t, slog.LevelWarn, "a request took long", attrs...)
}

func bytesOf(reply any) int {
	switch r := reply.(type) {
	case encoded:
		return mem.BufferSlice(r).Len()
	case proto.Message:
		return proto.Size(r)
	}
	return 0
}

// callerName is who calls, by user or by certificate, and from where.
func callerName(ctx context.Context) (who, remote string) {
	who, remote = callerOf(ctx).name, "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok && who == "" && len(t.State.PeerCertificates) > 0 {
			who = "certificate " + strconv.Quote(t.State.PeerCertificates[0].Subject.CommonName)
		}
	}
	return who, remote
}

const (
	spansMost    = 8   // of a request are written down
	spanKeyBytes = 128 // of a key are
)

// spans writes down what a request is about: keys, ranges, leases. Never values.
func spans(request any) string {
	var all []string
	more := 0
	eachSpan(request, func(s string) {
		if len(all) == spansMost {
			more++
			return
		}
		all = append(all, s)
	})
	if more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}

// eachSpan visits what a request is about.
func eachSpan(request any, visit func(string)) {
	switch r := request.(type) {
	case *pb.RangeRequest:
		visit(span(r.Key, r.RangeEnd))
	case *pb.PutRequest:
		visit(span(r.Key, nil))
	case *pb.DeleteRangeRequest:
		visit(span(r.Key, r.RangeEnd))
	case *pb.TxnRequest:
		for _, c := range r.Compare {
			visit("if " + span(c.Key, c.RangeEnd))
		}
		eachOp("then ", r.Success, visit)
		eachOp("else ", r.Failure, visit)
	case *pb.WatchCreateRequest:
		visit(span(r.Key, r.RangeEnd))
	case *pb.CompactionRequest:
		visit(fmt.Sprintf("revision %d", r.Revision))
	case interface{ GetMemberID() uint64 }: // an alarm, whose kind matters
		visit(fmt.Sprint(request))
	case interface{ GetID() int64 }: // of a lease
		visit(fmt.Sprintf("lease %x", r.GetID()))
	case interface{ GetID() uint64 }: // of a member
		visit(fmt.Sprintf("member %x", r.GetID()))
	case interface {
		GetUser() string
		GetRole() string
	}:
		visit(fmt.Sprintf("user %q, role %q", r.GetUser(), r.GetRole()))
	case interface{ GetName() string }: // of a user or a role
		visit(strconv.Quote(r.GetName()))
	}
}

func eachOp(branch string, ops []*pb.RequestOp, visit func(string)) {
	for _, op := range ops {
		var inner any
		verb := ""
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			verb, inner = "range ", o.RequestRange
		case *pb.RequestOp_RequestPut:
			verb, inner = "put ", o.RequestPut
		case *pb.RequestOp_RequestDeleteRange:
			verb, inner = "delete ", o.RequestDeleteRange
		case *pb.RequestOp_RequestTxn:
			inner = o.RequestTxn
		}
		eachSpan(inner, func(s string) { visit(branch + verb + s) })
	}
}

// span writes a range: one key, [from, to), or all from a key on.
func span(key, end []byte) string {
	switch {
	case len(end) == 0:
		return quote(key)
	case len(end) == 1 && end[0] == 0:
		return "[" + quote(key) + ", …)"
	}
	return "[" + quote(key) + ", " + quote(end) + ")"
}

func quote(key []byte) string {
	if len(key) > spanKeyBytes {
		return strconv.Quote(string(key[:spanKeyBytes])) + fmt.Sprintf("… (%d bytes)", len(key))
	}
	return strconv.Quote(string(key))
}
