package compat

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/test/oracle"
)

// answerWithin bounds every call; the servers' own limit is seven seconds.
const answerWithin = 15 * time.Second

// A side is one of the two servers, with what the session holds open on it.
type side struct {
	name    string
	member  *oracle.Member
	conn    *grpc.ClientConn
	self    identity
	alive   pb.Lease_LeaseKeepAliveClient
	streams map[int]*watchStream
	history *watchStream // one watcher of everything, from the first revision
	ctx     context.Context
	cancel  context.CancelFunc // ends all streams
}

// identity is what one server writes in every header.
type identity struct{ cluster, member uint64 }

// newSide connects to a server and learns its identity.
func newSide(t testing.TB, m *oracle.Member) *side {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s := &side{
		name: m.Binary.Name, member: m, conn: m.Dial(),
		streams: map[int]*watchStream{}, ctx: ctx, cancel: cancel,
	}
	resp, err := pb.NewMaintenanceClient(s.conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		t.Fatalf("%s: status: %v", s.name, err)
	}
	s.self = identity{resp.Header.ClusterId, resp.Header.MemberId}
	return s
}

// An answer is what a server said to one request: a message, or an error.
type answer struct {
	msg  proto.Message
	code codes.Code
	text string
}

func failed(err error) answer {
	st := status.Convert(err)
	return answer{code: st.Code(), text: st.Message()}
}

// call sends a unary request.
func (s *side) call(md metadata.MD, method string, req, resp proto.Message) answer {
	ctx, cancel := context.WithTimeout(s.ctx, answerWithin)
	defer cancel()
	if md != nil {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	if err := s.conn.Invoke(ctx, method, req, resp); err != nil {
		return failed(err)
	}
	return answer{msg: resp}
}

// raw sends bytes as they are to a unary method and wants an error back.
func (s *side) raw(method string, body []byte) answer {
	ctx, cancel := context.WithTimeout(s.ctx, answerWithin)
	defer cancel()
	var resp []byte
	err := s.conn.Invoke(ctx, method, &body, &resp, grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		return failed(err)
	}
	return answer{}
}

// rangeStream reads a whole RangeStream and joins its messages: the answer is
// the one that Range would give, if the parts were well formed.
func (s *side) rangeStream(md metadata.MD, req *pb.RangeRequest) answer {
	ctx, cancel := context.WithTimeout(s.ctx, answerWithin)
	defer cancel()
	if md != nil {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	stream, err := pb.NewKVClient(s.conn).RangeStream(ctx, req)
	if err != nil {
		return failed(err)
	}
	whole := &pb.RangeResponse{}
	for last := false; ; {
		part, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && !last:
			return answer{code: codes.Internal, text: "stream without a last message"}
		case errors.Is(err, io.EOF):
			return answer{msg: whole}
		case err != nil:
			return failed(err)
		case last:
			return answer{code: codes.Internal, text: "message after the one with the header"}
		}
		r := part.RangeResponse
		last = r.Header != nil
		if !last && (r.More || r.Count != 0) {
			return answer{code: codes.Internal, text: "more or count before the last message"}
		}
		whole.Header, whole.More, whole.Count = r.Header, r.More, r.Count
		whole.Kvs = append(whole.Kvs, r.Kvs...)
	}
}

// keepAlive sends one request on the side's stream of keep-alives.
func (s *side) keepAlive(req *pb.LeaseKeepAliveRequest) answer {
	if s.alive == nil {
		stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(s.ctx)
		if err != nil {
			return failed(err)
		}
		s.alive = stream
	}
	if err := s.alive.Send(req); err != nil && !errors.Is(err, io.EOF) { // which says only that Recv tells the reason
		s.alive = nil
		return failed(err)
	}
	resp, err := within(func() (*pb.LeaseKeepAliveResponse, error) { return s.alive.Recv() })
	if err != nil {
		s.alive = nil
		return failed(err)
	}
	return answer{msg: resp}
}

// within bounds a call that takes no context of its own.
func within[T any](do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := do()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(answerWithin):
		var none T
		return none, status.Error(codes.DeadlineExceeded, "no answer")
	}
}

// bytesCodec passes bytes through, so that malformed messages can be sent.
type bytesCodec struct{}

var _ encoding.CodecV2 = bytesCodec{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// A watchStream is one Watch RPC. A goroutine takes what the server sends and
// files it; the session reads the files.
type watchStream struct {
	stream pb.Watch_WatchClient

	mu      sync.Mutex
	moved   chan struct{}       // closed and replaced whenever something was filed
	control []*pb.WatchResponse // created, cancelled and progress answers, in order
	events  map[int64][]*pb.WatchResponse
	ended   error // set when the stream is over
}

// open starts a Watch RPC; it ends with the session.
func (s *side) open(md metadata.MD) (*watchStream, error) {
	ctx := s.ctx
	if md != nil {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	w := &watchStream{stream: stream, moved: make(chan struct{}), events: map[int64][]*pb.WatchResponse{}}
	go w.receive()
	return w, nil
}

func (w *watchStream) receive() {
	for {
		resp, err := w.stream.Recv()
		w.mu.Lock()
		switch {
		case err != nil:
			w.ended = err
		case len(resp.Events) > 0 && !resp.Created && !resp.Canceled:
			w.events[resp.WatchId] = append(w.events[resp.WatchId], resp)
		default:
			w.control = append(w.control, resp)
		}
		close(w.moved)
		w.moved = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// until waits for a condition on what was filed; done runs under the lock.
func (w *watchStream) until(limit time.Duration, done func() bool) bool {
	timeout := time.After(limit)
	for {
		w.mu.Lock()
		ok, moved, ended := done(), w.moved, w.ended
		w.mu.Unlock()
		if ok {
			return true
		}
		if ended != nil {
			return false
		}
		select {
		case <-moved:
		case <-timeout:
			return false
		}
	}
}

// controlAt waits for the nth control message of the stream.
func (w *watchStream) controlAt(n int) answer {
	if !w.until(answerWithin, func() bool { return len(w.control) > n }) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ended != nil {
			return failed(w.ended)
		}
		return answer{code: codes.DeadlineExceeded, text: "no answer on the watch stream"}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return answer{msg: proto.Clone(w.control[n])}
}

// flatten returns the events of a watcher as one list and checks how they were
// grouped: all events of a revision in one message, revisions rising, and the
// header neither behind them nor ahead of the store, which is at a revision.
// Only who reads history may find the header ahead of events still to come.
func (w *watchStream) flatten(id, revision int64, live bool) (events []event, fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, header := int64(0), int64(0)
	for _, resp := range w.events[id] {
		first := resp.Events[0].Kv.ModRevision
		switch {
		case first <= last:
			fault = "a message begins with a revision that was delivered before"
		case live && first <= header:
			fault = "the header of a message covers events of the next"
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision < last {
				fault = "revisions go backwards"
			}
			last = e.Kv.ModRevision
			events = append(events, e)
		}
		header = resp.Header.GetRevision()
		switch {
		case header < last:
			fault = "the header is behind the events"
		case header > revision:
			fault = "the header is ahead of the store"
		}
	}
	return events, fault
}

// oneLine keeps only single spaces: Go's protobuf varies its own on purpose.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\u00a0", " ")), " ")
}
