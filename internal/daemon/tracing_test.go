package daemon

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// spansOf collects spans by name.
type spansOf struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*otlp.Span
	about map[string]string
}

func (s *spansOf) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, a := range rs.GetResource().GetAttributes() {
			s.about[a.Key] = a.GetValue().GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.spans[span.Name] = span
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestCallsAreTraced(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	got := &spansOf{spans: map[string]*otlp.Span{}, about: map[string]string{}}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		must(t, <-served)
	}()

	d := start(t, flags(t.TempDir(), "--enable-distributed-tracing", "--distributed-tracing-address="+l.Addr().String(),
		"--distributed-tracing-service-name=keys", "--distributed-tracing-instance-id=one", "--distributed-tracing-sampling-rate=1000000")...)
	kv := pb.NewKVClient(d.dial(t).ActiveConnection())
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("traced"), Value: []byte("secret")})
	must(t, err)
	must(t, d.stop(t)) // the last spans are sent before it ends

	got.mu.Lock()
	defer got.mu.Unlock()
	call, inside := got.spans["etcdserverpb.KV/Put"], got.spans["log: propose and apply"]
	if call == nil || inside == nil {
		t.Fatalf("spans are %v", got.spans)
	}
	if string(inside.TraceId) == "" || inside.EndTimeUnixNano < inside.StartTimeUnixNano || time.Duration(call.EndTimeUnixNano-call.StartTimeUnixNano) > time.Minute {
		t.Errorf("times of %v, %v", call, inside)
	}
	attributes := map[string]string{}
	for _, a := range call.Attributes {
		attributes[a.Key] = a.GetValue().GetStringValue()
	}
	if attributes["kvd.span"] != `"traced"` || attributes["kvd.code"] != "OK" {
		t.Errorf("the call says %v", attributes)
	}
	if got.about["service.name"] != "keys" || got.about["service.instance.id"] != "one" {
		t.Errorf("the member says %v", got.about)
	}
}
