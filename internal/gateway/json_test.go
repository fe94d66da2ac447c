package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// services answers every call with an empty message, or with err; a stream
// answers each request once.
type services struct {
	mu   sync.Mutex
	err  error
	last struct {
		method string
		in     proto.Message
		md     metadata.MD
		peer   string
	}
}

func (s *services) Invoke(ctx context.Context, method string, in, _ any, _ ...grpc.CallOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.method, s.last.in = method, in.(proto.Message)
	s.last.md, _ = metadata.FromOutgoingContext(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		s.last.peer = p.Addr.String()
	}
	return s.err
}

func (s *services) NewStream(ctx context.Context, desc *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &echo{ctx: ctx, lasts: desc.ClientStreams, asked: make(chan struct{}, 1<<10)}, nil
}

type echo struct {
	grpc.ClientStream
	ctx   context.Context
	lasts bool
	asked chan struct{}
}

func (e *echo) SendMsg(any) error            { e.asked <- struct{}{}; return nil }
func (e *echo) CloseSend() error             { close(e.asked); return nil }
func (e *echo) Header() (metadata.MD, error) { return nil, nil }

func (e *echo) RecvMsg(any) error {
	select {
	case _, ok := <-e.asked:
		if !ok {
			return io.EOF
		}
		return nil
	case <-e.ctx.Done():
		return status.FromContextError(e.ctx.Err()).Err()
	}
}

func translated(t testing.TB, to Services) http.Handler {
	t.Helper()
	g := (&member{}).gateway(Options{MaxRequestBytes: 1 << 10})
	h, err := g.Client(to)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func post(h http.Handler, path, body string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.RemoteAddr = "10.1.2.3:77"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestEveryRPCButOneHasItsPath(t *testing.T) {
	all, err := routes()
	if err != nil {
		t.Fatal(err)
	}
	methods, paths := map[string]bool{}, map[string]bool{}
	for _, r := range all {
		if paths[r.path] {
			t.Errorf("%s stands for two RPCs", r.path)
		}
		methods[r.method], paths[r.path] = true, true
	}
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			name := fmt.Sprintf("/%s/%s", services.Get(i).FullName(), m.Name())
			if !methods[name] && m.Name() != "RangeStream" {
				t.Errorf("%s has no path", name)
			}
		}
	}
	if len(paths) != 51 {
		t.Errorf("%d paths, and etcd has 51", len(paths))
	}
}

func TestARequestGoesOutAsItCame(t *testing.T) {
	s := &services{}
	r := post(translated(t, s), "/v3beta/kv/put", `{"key":"a2V5", "value":"dg", "lease":"7", "prevKv":true, "unknown":1}`,
		"Authorization", "tok", "Grpc-Metadata-hasleader", "true", "Cookie", "x=1")
	if got := body(t, r); r.StatusCode != 200 || got != "{}" {
		t.Fatalf("%d %q", r.StatusCode, got)
	}
	want := &pb.PutRequest{Key: []byte("key"), Value: []byte("v"), Lease: 7, PrevKv: true}
	if s.last.method != "/etcdserverpb.KV/Put" || !proto.Equal(s.last.in, want) {
		t.Errorf("%s of %v", s.last.method, s.last.in)
	}
	for key, value := range map[string]string{
		"authorization": "tok", "grpcgateway-authorization": "tok", "hasleader": "true",
		"grpcgateway-cookie": "x=1", "x-forwarded-for": "10.1.2.3",
	} {
		if got := s.last.md.Get(key); len(got) != 1 || got[0] != value {
			t.Errorf("%s is %q, want %q", key, got, value)
		}
	}
	if s.last.peer != "10.1.2.3:77" {
		t.Errorf("the caller is %q", s.last.peer)
	}
}

func TestErrorsHaveTheirStatus(t *testing.T) {
	for code, want := range map[codes.Code]int{
		codes.Canceled: 499, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504, codes.NotFound: 404,
		codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400,
		codes.Aborted: 409, codes.OutOfRange: 400, codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503,
		codes.DataLoss: 500, codes.Unauthenticated: 401,
	} {
		r := post(translated(t, &services{err: status.Error(code, "why")}), "/v3/kv/put", "")
		var got struct {
			Code    codes.Code
			Message string
		}
		if err := json.Unmarshal([]byte(body(t, r)), &got); err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != want || got.Code != code || got.Message != "why" {
			t.Errorf("%s: %d %+v", code, r.StatusCode, got)
		}
		if (code == codes.Unauthenticated) != (r.Header.Get("WWW-Authenticate") == "why") {
			t.Errorf("%s: WWW-Authenticate is %q", code, r.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestALargeBodyIsRefused(t *testing.T) {
	h := translated(t, &services{})
	long := `{"key":"` + strings.Repeat("A", int(jsonBytes(1<<10))) + `"}`
	for _, path := range []string{"/v3/kv/put", "/v3/maintenance/snapshot", "/v3/watch"} {
		if r := post(h, path, long); r.StatusCode != 429 || !strings.Contains(body(t, r), "max-request-bytes") {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	if r := post(h, "/v3/kv/put", `{}`+strings.Repeat(" ", int(jsonBytes(1<<10)))); r.StatusCode != 429 {
		t.Errorf("behind the request: %d", r.StatusCode)
	}
}

func TestAStreamTakesMoreThanOneRequestMay(t *testing.T) {
	one := `{"create_request":{"key":"` + strings.Repeat("A", 4000) + `"}}`
	n := int(jsonBytes(1<<10))/len(one) + 2
	r := post(translated(t, &services{}), "/v3/watch", strings.Repeat(one, n))
	if got := strings.Count(body(t, r), `{"result":{}}`+"\n"); r.StatusCode != 200 || got != n {
		t.Errorf("%d, %d of %d are answered", r.StatusCode, got, n)
	}
}

func TestAMalformedRequestEndsItsStream(t *testing.T) {
	r := post(translated(t, &services{}), "/v3/watch", `{"create_request":{"key":"@"}}`)
	if got := body(t, r); r.StatusCode != 400 || !strings.Contains(got, `"error"`) || !strings.Contains(got, "invalid value for bytes field key") {
		t.Errorf("%d %s", r.StatusCode, got)
	}
}

// TestASocketIsAStream opens a websocket as a page's script does.
func TestASocketIsAStream(t *testing.T) {
	server := httptest.NewServer(translated(t, &services{}))
	defer server.Close()
	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/v3/watch"
	conn, r, err := websocket.DefaultDialer.Dial(url, http.Header{"Sec-WebSocket-Protocol": {"Bearer, tok"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer r.Body.Close()
	if got := r.Header.Get("Sec-WebSocket-Protocol"); got != "Bearer" {
		t.Errorf("the protocol is %q", got)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range 3 {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"progress_request":{}}`)); err != nil {
			t.Fatal(err)
		}
		if _, frame, err := conn.ReadMessage(); err != nil || string(frame) != `{"result":{}}` {
			t.Fatalf("%q, %v", frame, err)
		}
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"x`)); err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`}`)); err != nil {
		t.Fatal(err)
	}
	if _, frame, err := conn.ReadMessage(); err != nil || !strings.Contains(string(frame), `"error":{"code":3`) {
		t.Errorf("%q, %v", frame, err)
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("the end is %v", err)
	}
}

func TestAUnaryCallOverASocketIsAnswered(t *testing.T) {
	server := httptest.NewServer(translated(t, &services{}))
	defer server.Close()
	conn, r, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/v3/kv/put", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer r.Body.Close()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if _, frame, err := conn.ReadMessage(); err != nil || string(frame) != `{}` {
		t.Errorf("%q, %v", frame, err)
	}
}

func TestAFrameHasABound(t *testing.T) {
	server := httptest.NewServer(translated(t, &services{}))
	defer server.Close()
	conn, r, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer r.Body.Close()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	// The server may close the connection before it has read it all.
	conn.WriteMessage(websocket.TextMessage, make([]byte, jsonBytes(1<<10)+1))
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("it is answered")
	}
}

func TestSocketsObeyCORS(t *testing.T) {
	g := (&member{}).gateway(Options{CORS: []string{"http://good.example:80"}})
	h, err := g.Client(&services{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	for origin, want := range map[string]int{"": 101, "http://good.example:80": 101, "http://bad.example:80": 403} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		conn, r, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/v3/watch", header)
		if r == nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if err == nil {
			conn.Close()
		}
		if r.StatusCode != want {
			t.Errorf("from %q: %d, want %d", origin, r.StatusCode, want)
		}
	}
}

func FuzzAnyBodyIsAnswered(f *testing.F) {
	all, err := routes()
	if err != nil {
		f.Fatal(err)
	}
	for i, text := range []string{
		"", "{}", "null", "[]", `{"key":"Zm9v"}`, `{"key":1}`, `{"key":"@"}`, `{"a`, `{"compare":[{"target":"VALUE"}]}`,
		`{"create_request":{"key":"Zg=="}}{"cancel_request":{"watch_id":1}}`, `{"ID":"-1"}`, "\xff\xfe", `{"key":"\ud800"}`,
		`{"leader":{"rev":1e400}}`, strings.Repeat(`{"compare":[`, 100),
	} {
		f.Add(uint8(i), text, "Bearer x")
	}
	h, err := (&Gateway{o: Options{MaxRequestBytes: 1 << 10}, log: slog.New(slog.DiscardHandler)}).json(&services{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path uint8, text, token string) {
		to := all[int(path)%len(all)]
		r := httptest.NewRequest(http.MethodPost, to.path, strings.NewReader(text))
		r.Header["Authorization"] = []string{token}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 && w.Code != 429 {
			t.Errorf("%s answers %d", to.path, w.Code)
		}
		for _, line := range strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n") {
			if line != "" && !json.Valid([]byte(line)) {
				t.Errorf("%s answers %q", to.path, line)
			}
		}
	})
}
