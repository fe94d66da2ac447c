package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// The pauses between attempts to open a stream. A stream that has lived is
// opened again without one: if its server's process has ended, that is found out
// at once.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
	livedFor   = time.Second // a stream that held so long was not refused after all
)

// errOld says that the other side has no such streams.
var errOld = errors.New("unsupported stream type")

// reader reads one of the two streams from a member.
type reader struct {
	*peer
	kind   kind
	nobody int // attempts in a row that found nobody on the port
}

// run opens the stream again and again until the member is none any more.
func (r *reader) run() {
	pause := time.Duration(0)
	for r.ctx.Err() == nil {
		began := time.Now()
		err := r.once()
		if r.ctx.Err() != nil {
			return
		}
		if time.Since(began) >= livedFor && err == nil {
			pause = 0
			continue
		}
		pause = min(max(2*pause, firstPause), lastPause)
		r.rest(pause)
	}
}

// rest waits for the pause, more or less, or until the member has shown itself.
func (r *reader) rest(pause time.Duration) {
	timer := time.NewTimer(pause - pause/8 + rand.N(pause/4))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.kicks[r.kind]:
		// Not at once: it may be about to refuse, and be kicked again by that.
		again := time.NewTimer(min(pause, firstPause))
		defer again.Stop()
		select {
		case <-again.C:
		case <-r.ctx.Done():
		}
	case <-r.ctx.Done():
	}
}

// once opens the stream and reads it to its end. There is no error if it was
// opened.
func (r *reader) once() error {
	body, err := r.dial()
	if err != nil {
		if !errors.Is(err, errOld) {
			r.status.down("open the "+r.kind.String()+" stream", err)
		}
		r.noticeRefusal(err)
		return err
	}
	defer body.Close()
	r.nobody = 0
	r.status.up()
	r.log.Info("reading a stream of remote peer", "stream", r.kind.String())
	err = r.read(body)
	if r.ctx.Err() != nil {
		return nil
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		r.status.down("read the "+r.kind.String()+" stream", err)
	}
	r.t.murmur.warn("lost a stream of remote peer", r.id.String()+" "+r.kind.String(), "remote-peer-id", r.id.String(),
		"stream", r.kind.String(), "error", err)
	return nil
}

// noticeRefusal tells raft of a member that nobody listens for at any URL.
func (r *reader) noticeRefusal(err error) {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		r.nobody = 0
		return
	}
	if r.nobody++; r.nobody >= len(r.urls.all()) {
		r.t.raft.Refused(r.id)
	}
}

// read delivers what comes, until the stream ends. It returns an error always.
func (r *reader) read(body io.Reader) error {
	from := newSource(body, r.t.o.MaxMessageBytes)
	messages := r.kind.decoder(from, r.id, r.t.o.Member)
	for {
		m, err := messages.next()
		r.count.receivedBytes.Add(float64(from.read))
		from.read = 0
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.count.receivedFailures.Inc()
			}
			return err
		}
		if m != nil && r.t.admit(m) == nil {
			r.t.raft.Deliver(m)
		}
	}
}

// What is not delivered to raft.
var (
	errFromRemoved = errors.New("cannot process message from removed member")
	errNotForUs    = errors.New("to field mismatch")
)

// admit says whether a message is one for this member.
func (t *Transport) admit(m *raftpb.Message) error {
	from, to := member.ID(m.GetFrom()), member.ID(m.GetTo())
	if t.known.Load().removed(from) {
		t.murmur.warn("refused a message of a removed member", from.String(), "from", from.String())
		return errFromRemoved
	}
	if to != t.o.Member {
		t.murmur.warn("refused a message for another member", from.String(), "from", from.String(), "to", to.String())
		return errNotForUs
	}
	return nil
}

// dial asks the member for its stream.
func (r *reader) dial() (io.ReadCloser, error) {
	u := r.urls.pick()
	body, err := r.dialTo(u)
	if err != nil {
		r.urls.failed(u)
	}
	if errors.Is(err, ErrRemoved) {
		r.t.expelled(r.id)
	}
	return body, err
}

func (r *reader) dialTo(u string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(r.ctx) // ends with the body
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		u+"/raft/stream/"+r.kind.String()+"/"+r.t.o.Member.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r.t.introduce(request.Header)
	request.Header.Set(headerTo, r.id.String())
	answer, err := r.t.streams.RoundTrip(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if err = r.judgeStream(answer); err != nil {
		cancel()
		answer.Body.Close()
		return nil, err
	}
	return stream{answer.Body, cancel}, nil
}

// stream is the body of an answer that does not end by itself.
type stream struct {
	io.Reader
	cancel context.CancelFunc
}

// Close cuts the connection: what is still to come must not be waited for.
func (s stream) Close() error { s.cancel(); return nil }

func (r *reader) judgeStream(answer *http.Response) error {
	if !hasStreams(answer.Header.Get(headerVersion)) {
		r.t.murmur.warn("a member sends no streams", r.id.String(), "remote-peer-id", r.id.String(),
			"its-version", answer.Header.Get(headerVersion))
		return errOld
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusGone:
		return ErrRemoved
	case http.StatusNotFound:
		return fmt.Errorf("it does not know member %s", r.t.o.Member)
	case http.StatusPreconditionFailed:
		text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes))
		if err != nil {
			return err
		}
		return r.refused(answer, strings.TrimSuffix(string(text), "\n"))
	default:
		return fmt.Errorf("unexpected status %d", answer.StatusCode)
	}
}
