package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Services is the connection that the JSON gateway calls RPCs over.
type Services = grpc.ClientConnInterface

// bodyTimeout is how long the body of a request for one answer may take to
// arrive. Streams may be silent for as long as they like.
const bodyTimeout = time.Minute

// translator serves RPCs as JSON over HTTP, under the paths and by the rules
// of etcd's gateway.
type translator struct {
	mux      *runtime.ServeMux
	direct   map[string]http.HandlerFunc // by path, for POST; the mux has them all, too
	marshal  *runtime.JSONPb
	services Services
	limit    int64                    // bytes of one request
	origin   func(*http.Request) bool // may the page that a request comes from open a socket
	log      *slog.Logger
}

// translate makes a translator. An error is one in the descriptions of the
// services.
func translate(to Services, limit int64, origin func(*http.Request) bool, log *slog.Logger) (*translator, error) {
	t := &translator{
		direct: map[string]http.HandlerFunc{}, services: to, limit: limit, origin: origin, log: log,
		marshal: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}
	t.mux = runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, t.marshal))
	all, err := routes()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		serve := t.unary(r)
		if r.many {
			serve = t.stream(r)
		}
		t.direct[r.path] = serve
		err := t.mux.HandlePath(http.MethodPost, r.path, func(w http.ResponseWriter, r *http.Request, _ map[string]string) { serve(w, r) })
		if err != nil {
			return nil, fmt.Errorf("path %s: %w", r.path, err)
		}
	}
	return t, nil
}

func (t *translator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if upgrades(r) {
		t.socket(w, r)
		return
	}
	t.answer(w, r)
}

func (t *translator) answer(w http.ResponseWriter, r *http.Request) {
	if serve, ok := t.direct[r.URL.Path]; ok && r.Method == http.MethodPost && r.Header.Get("X-HTTP-Method-Override") == "" {
		serve(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, t.limit) // forms are read for an override of the method
	t.mux.ServeHTTP(w, r)
}

// unary serves an RPC of one request and one answer.
func (t *translator) unary(to route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, err := t.context(r, to)
		if err != nil {
			runtime.HTTPError(r.Context(), t.mux, t.marshal, w, r, err)
			return
		}
		in, err := t.only(w, r, to)
		if err != nil {
			runtime.HTTPError(ctx, t.mux, t.marshal, w, r, err)
			return
		}
		var md runtime.ServerMetadata
		out := to.out.New().Interface()
		err = t.services.Invoke(ctx, to.method, in, out, grpc.Header(&md.HeaderMD), grpc.Trailer(&md.TrailerMD))
		ctx = runtime.NewServerMetadataContext(ctx, md)
		if err != nil {
			runtime.HTTPError(ctx, t.mux, t.marshal, w, r, err)
			return
		}
		runtime.ForwardResponseMessage(ctx, t.mux, t.marshal, w, r, out)
	}
}

// context is that of the call: it ends with the request, or at the deadline that
// the request has, and carries the metadata and the caller's address.
func (t *translator) context(r *http.Request, to route) (context.Context, error) {
	ctx := r.Context()
	if host, port, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: remote{host, port}})
	}
	return runtime.AnnotateContext(ctx, t.mux, r, to.method, runtime.WithHTTPPathPattern(to.path))
}

// remote is the address of an HTTP client.
type remote struct{ host, port string }

func (remote) Network() string  { return "tcp" }
func (a remote) String() string { return net.JoinHostPort(a.host, a.port) }

// only reads the one request of a call. What follows it is not looked at, as in
// etcd.
func (t *translator) only(w http.ResponseWriter, r *http.Request, to route) (proto.Message, error) {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(bodyTimeout)) //nolint:errcheck // a socket's writer has none, and bounds the body itself
	in := to.in.New().Interface()
	body := &allowance{from: r.Body, left: t.limit}
	err := t.marshal.NewDecoder(body).Decode(in)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, undecodable(err)
	}
	if _, socket := w.(*frameWriter); socket {
		return in, nil // it stays open for the answer
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, undecodable(err)
	}
	control.SetReadDeadline(time.Time{}) //nolint:errcheck // the same
	return in, nil
}

// undecodable puts what is wrong with a body into a status.
func undecodable(err error) error {
	if errors.Is(err, errTooLong) {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

var errTooLong = errors.New("the request's body is larger than what the largest request can need; max-request-bytes sets that")

// allowance reads no more than was allowed since it was last renewed.
type allowance struct {
	from io.Reader
	left int64
}

func (a *allowance) Read(p []byte) (int, error) {
	if a.left <= 0 {
		return 0, errTooLong
	}
	n, err := a.from.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	return n, err
}
