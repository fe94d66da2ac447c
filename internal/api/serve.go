package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Sizes of gRPC's buffers. Windows that are set turn off gRPC's estimation of
// them, which pings the client after every few requests.
const (
	// streamWorkers are goroutines that keep their stacks from call to call. A
	// stream holds one for as long as it lives, so there are more than a
	// Kubernetes API server has watch streams; calls that find none get a
	// goroutine of their own.
	streamWorkers = 128
	writeBuffer   = 64 << 10 // bytes written to a connection at once
	readBuffer    = 32 << 10 // the same for reading
	streamWindow  = 1 << 20  // bytes a client may send on a stream ahead of us
	connWindow    = 4 << 20  // the same on a connection
	headerBytes   = 1 << 20  // of a request's headers, unpacked; as on the HTTP side
)

func (a *API) options() []grpc.ServerOption {
	o := []grpc.ServerOption{
		grpc.Creds(handshake{}),
		grpc.ForceServerCodecV2(codec{a.metrics}),
		grpc.MaxRecvMsgSize(a.maxMessage()),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(headerBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.WriteBufferSize(writeBuffer),
		grpc.ReadBufferSize(readBuffer),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: a.o.KeepAliveMin}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: a.o.KeepAlive, Timeout: a.o.KeepAliveTimeout}),
		grpc.WaitForHandlers(true),
	}
	if a.o.MaxStreams > 0 {
		o = append(o, grpc.MaxConcurrentStreams(a.o.MaxStreams))
	}
	return o
}

// Run serves the listeners until ctx ends, then lets calls finish for the time
// of grace. It closes the listeners. An error is one of accepting.
func (a *API) Run(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	running.Go(func() { a.watchMember(ctx) })
	for _, l := range listeners {
		running.Go(func() {
			if err := a.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
				cancel(fmt.Errorf("serve clients on %s: %w", l.Addr(), err))
			}
		})
	}
	<-ctx.Done()
	a.stop()
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// stop ends what would go on for ever, lets the rest finish and closes what
// has not by the end of the grace time.
func (a *API) stop() {
	a.health.Shutdown()
	a.locals.refuse()
	a.streams.end(errStopped)
	late := time.AfterFunc(a.o.Grace, func() {
		close(a.locals.late)
		a.server.Stop()
	})
	a.server.GracefulStop()
	a.locals.running.Wait() // those that wait for their clients end when it is late
	late.Stop()
}

// maxMessage is how long a request may be, in bytes.
func (a *API) maxMessage() int { return a.o.MaxRequestBytes + overhead }

// watchMember ends the streams that asked to need a leader once there has been
// none for three election timeouts, and those that read once this member is
// known to be corrupt.
func (a *API) watchMember(ctx context.Context) {
	tick := time.NewTicker(a.o.Election)
	defer tick.Stop()
	without, users := 0, a.member.View().Users
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if a.leaderless() {
			without++
		} else {
			without = 0
		}
		if without >= 3 {
			a.streams.cancel(errNoLeader, func(s *openStream) bool { return s.led })
		}
		v := a.member.View()
		if v.Users != users {
			users = v.Users
			a.watching.wake() // the quiet ones, too, hear that they are not allowed any more
		}
		if a.corrupt(v) {
			a.streams.cancel(errCorrupt, func(s *openStream) bool { return s.reads })
		}
	}
}

func (a *API) leaderless() bool { return a.member.Status().Leader == 0 }

// awaitLeader returns once a leader is known; without one it fails after an
// election timeout. etcd fails at once. But where leadership is handed over there
// is none for some milliseconds, just when the clients of a member that stops turn
// to the others, and etcd's client ends a watch for ever when it hears this.
func (a *API) awaitLeader(ctx context.Context) error {
	for waited, pause := time.Duration(0), time.Millisecond; a.leaderless(); pause = min(2*pause, 100*time.Millisecond) {
		if waited >= a.o.Election {
			return errNoLeader
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(pause):
			waited += pause
		}
	}
	return nil
}

// streams are the calls that the server may have to end itself. The zero value
// is ready.
type streams struct {
	mu    sync.Mutex
	open  map[*openStream]struct{}
	ended error // all of them, those to come included
}

type openStream struct {
	cancel context.CancelCauseFunc
	led    bool // ends when there is no leader
	reads  bool // ends when the member is corrupt
}

// add returns a context that is cancelled when the stream must end, with the
// error to end it with as the cause, and what to call when it has ended.
func (s *streams) add(ctx context.Context, one openStream) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one.cancel = cancel
	call := &one
	done := func() {
		s.mu.Lock()
		delete(s.open, call)
		s.mu.Unlock()
		cancel(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		cancel(s.ended)
	}
	if s.open == nil {
		s.open = map[*openStream]struct{}{}
	}
	s.open[call] = struct{}{}
	return ctx, done
}

func (s *streams) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = err
	for one := range s.open {
		one.cancel(err)
	}
}

// cancel ends some of those that are open.
func (s *streams) cancel(err error, these func(*openStream) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		if these(one) {
			one.cancel(err)
		}
	}
}
