package proxy

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	keepAliveMethod = "/etcdserverpb.Lease/LeaseKeepAlive"
	maxRenewals     = 1024 // of one client's stream, not answered; it is not read while there are more
	renewalTries    = 3    // streams that a renewal is sent on before its caller is told
)

// renewals joins renewals: at any time one of a lease is on its way for one
// identity, and who comes meanwhile shares the next. None outlives its callers:
// a lease whose holder has gone is not kept.
type renewals struct {
	proxy *Proxy
	mu    sync.Mutex
	lines map[identity]*line
}

func newRenewals(p *Proxy) *renewals { return &renewals{proxy: p, lines: map[identity]*line{}} }

// line is the stream of renewals of one identity at a member.
type line struct {
	set    *renewals
	id     identity
	users  int // client streams; guarded by set.mu
	cancel context.CancelFunc

	mu     sync.Mutex
	leases map[int64]*renewal
	queue  []int64       // leases to send a renewal for
	wake   chan struct{} // one signal
}

type renewal struct {
	sent, next []*renewer
	tries      int
}

// renewer is a client's stream.
type renewer struct {
	answers chan *pb.LeaseKeepAliveResponse // holds maxRenewals
	room    chan struct{}                   // a token for each that is not answered
	failed  chan error                      // holds one
}

func (r *renewer) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

func (rs *renewals) line(id identity) *line {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	l := rs.lines[id]
	if l == nil {
		ctx, cancel := context.WithCancel(id.context(context.Background()))
		l = &line{set: rs, id: id, cancel: cancel, leases: map[int64]*renewal{}, wake: make(chan struct{}, 1)}
		rs.lines[id] = l
		rs.proxy.work.Go(func() { l.run(ctx) })
	}
	l.users++
	return l
}

func (rs *renewals) leave(l *line) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(rs.lines, l.id)
		l.cancel()
	}
}

func (rs *renewals) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id, l := range rs.lines {
		delete(rs.lines, id)
		l.cancel()
	}
}

// keepAlive serves a client's stream of renewals.
func (p *Proxy) keepAlive(in grpc.ServerStream) error {
	l := p.leases.line(identityOf(in.Context()))
	defer p.leases.leave(l)
	r := &renewer{
		answers: make(chan *pb.LeaseKeepAliveResponse, maxRenewals), room: make(chan struct{}, maxRenewals), failed: make(chan error, 1),
	}
	ended := make(chan error, 1)
	go func() { ended <- l.read(in, r) }() // ends with the call
	done := false
	for {
		select {
		case answer := <-r.answers:
			<-r.room
			if err := in.SendMsg(answer); err != nil {
				return err
			}
			if done && len(r.room) == 0 {
				return nil
			}
		case err := <-r.failed:
			return err
		case err := <-ended:
			if err != nil {
				return err
			}
			done, ended = true, nil
			if len(r.room) == 0 {
				return nil
			}
		case <-p.stopping:
			return errStopping
		}
	}
}

// read takes a client's requests until there are no more.
func (l *line) read(in grpc.ServerStream, r *renewer) error {
	for {
		var request pb.LeaseKeepAliveRequest
		if err := in.RecvMsg(&request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		select {
		case r.room <- struct{}{}:
		case <-in.Context().Done():
			return in.Context().Err()
		}
		l.renew(request.ID, r)
	}
}

func (l *line) renew(lease int64, who *renewer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.leases[lease]
	if r == nil {
		r = &renewal{}
		l.leases[lease] = r
	}
	r.next = append(r.next, who)
	if len(r.sent) == 0 && len(r.next) == 1 {
		l.queueLocked(lease)
	}
}

func (l *line) queueLocked(lease int64) {
	l.queue = append(l.queue, lease)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends renewals while the line has users.
func (l *line) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		err := l.converse(ctx)
		if ctx.Err() != nil {
			return
		}
		l.broken(err)
	}
}

// converse sends and receives on one stream until it breaks.
func (l *line) converse(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, e, err := l.set.proxy.stream(ctx, keepAliveMethod)
	if err != nil {
		return err
	}
	heard := make(chan error, 1)
	go func() { heard <- l.hear(out) }()
	defer func() { cancel(); <-heard }()
	for {
		for _, lease := range l.take() {
			if err := out.SendMsg(&pb.LeaseKeepAliveRequest{ID: lease}); err != nil {
				break // the receiver tells why
			}
		}
		select {
		case <-l.wake:
		case err := <-heard:
			heard <- err // for the deferred wait
			if status.Code(err) == codes.Unavailable {
				l.set.proxy.endpoints.setAside(e, status.Convert(err).Message())
			}
			return err
		}
	}
}

// take returns the leases to send renewals for.
func (l *line) take() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.queue
	l.queue = nil
	for _, lease := range queue {
		r := l.leases[lease]
		r.sent, r.next = append(r.sent, r.next...), nil
	}
	return queue
}

func (l *line) hear(out grpc.ClientStream) error {
	for {
		var answer pb.LeaseKeepAliveResponse
		if err := out.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "kvd proxy: the member has ended the stream of renewals")
			}
			return err
		}
		l.answer(&answer)
	}
}

func (l *line) answer(a *pb.LeaseKeepAliveResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.leases[a.ID]
	if r == nil {
		return
	}
	for _, who := range r.sent {
		who.answers <- a // it has room: there is a token for it
	}
	r.sent, r.tries = nil, 0
	if len(r.next) == 0 {
		delete(l.leases, a.ID)
		return
	}
	l.queueLocked(a.ID)
}

// broken sends what was not answered once more, on another stream, or tells the
// callers.
func (l *line) broken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = nil
	for lease, r := range l.leases {
		if r.tries++; status.Code(err) == codes.Unavailable && r.tries < renewalTries {
			l.queueLocked(lease)
			continue
		}
		for _, who := range append(r.sent, r.next...) {
			who.fail(err)
		}
		delete(l.leases, lease)
	}
}
