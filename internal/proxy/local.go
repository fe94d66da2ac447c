package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// direct is a connection for the proxy's own calls: to a member, past all that is
// shared or kept.
func (p *Proxy) direct() grpc.ClientConnInterface { return direct{p} }

type direct struct{ proxy *Proxy }

// Invoke implements grpc.ClientConnInterface.
func (l direct) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	e, err := l.proxy.endpoints.choose(ctx, nil, l.proxy.o.DialTimeout)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if n := l.proxy.o.Namespace; len(n) > 0 {
		if m, ok := args.(proto.Message); ok {
			inside := proto.Clone(m)
			n.into(inside)
			args = inside
		}
	}
	if err := e.conn.Invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	l.proxy.o.Namespace.outOf(reply)
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (l direct) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	e, err := l.proxy.endpoints.choose(ctx, nil, l.proxy.o.DialTimeout)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	out, err := e.conn.NewStream(ctx, desc, method, opts...)
	if err != nil || len(l.proxy.o.Namespace) == 0 {
		return out, err
	}
	return renamed{out, l.proxy.o.Namespace}, nil
}

// Probe makes a small read at some member.
func (p *Proxy) Probe(ctx context.Context, serializable bool) error {
	request := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable}
	err := p.direct().Invoke(ctx, "/etcdserverpb.KV/Range", request, &pb.RangeResponse{})
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return nil // a member has answered that it does not know who asks
	}
	return err
}

// Alarms are the names of the alarms that are raised in the cluster; none, if no
// member tells soon.
func (p *Proxy) Alarms() []string {
	ctx, cancel := context.WithTimeout(context.Background(), alarmLimit)
	defer cancel()
	var r pb.AlarmResponse
	if err := p.direct().Invoke(ctx, alarm, &pb.AlarmRequest{}, &r); err != nil {
		return nil
	}
	var names []string
	for _, a := range r.Alarms {
		if !slices.Contains(names, a.Alarm.String()) {
			names = append(names, a.Alarm.String())
		}
	}
	return names
}

// Pulse returns when everything that calls have to pass has moved.
func (p *Proxy) Pulse(ctx context.Context) error {
	moved := make(chan struct{})
	go func() { // outlives a caller that gives up; then the process is about to be killed
		defer close(moved)
		p.watches.mu.Lock()
		p.watches.mu.Unlock() //nolint:staticcheck // that it can be had is all that is asked
		p.endpoints.healthy()
	}()
	select {
	case <-moved:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pages are what a proxy says of itself over HTTP, by path: whether a member
// answers, and how it sees the members. They let nobody in who is not let in to
// all of HTTP.
func (p *Proxy) Pages() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{"/proxy/health": p.health, "/proxy/endpoints": p.insight}
}

func (p *Proxy) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeLimit)
	defer cancel()
	answer := struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{"true", ""}
	code := http.StatusOK
	if err := p.Probe(ctx, false); err != nil {
		code, answer.Health, answer.Reason = http.StatusServiceUnavailable, "false", "GET ERROR:"+err.Error()
	}
	write(w, code, answer)
}

func (p *Proxy) insight(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, struct {
		ReadOnly  bool       `json:"readOnly"`
		Endpoints []Endpoint `json:"endpoints"`
	}{p.o.ReadOnly, p.Endpoints()})
}

const (
	probeLimit = 3 * time.Second // for a member to answer /proxy/health
	alarmLimit = time.Second     // for one to list alarms
)

func write(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // to who is still there
}
