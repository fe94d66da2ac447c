package peer

import (
	"errors"
	"net/http"
	"path"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

const (
	writePiece = 64 << 10 // given to the connection at once, each with a deadline of its own
	batchBytes = 1 << 20  // encoded before it is written
	keepBytes  = 4 << 20  // a larger buffer is not kept
)

// stream answers a member that wants to read one of the two streams.
func (t *Transport) stream(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodGet) {
		return
	}
	w.Header()[headerVersion] = []string{serverVersion}
	w.Header()[headerCluster] = []string{t.o.Cluster.String()}
	if err := t.compatible(r); err != nil {
		http.Error(w, err.Error(), http.StatusPreconditionFailed)
		return
	}
	var k kind
	switch path.Dir(r.URL.Path) {
	case "/raft/stream/msgapp":
		k = appends
	case "/raft/stream/message":
		k = everything
	default:
		http.Error(w, "invalid path", http.StatusNotFound)
		return
	}
	from, err := member.ParseID(path.Base(r.URL.Path))
	if err != nil {
		http.Error(w, "invalid from", http.StatusNotFound)
		return
	}
	p := t.reader(w, r, from)
	if p == nil {
		return
	}
	if !t.work.enter() {
		stopping(w)
		return
	}
	defer t.work.leave()
	w.WriteHeader(http.StatusOK)
	p.write(k, w, r)
}

// reader finds who may read a stream, or answers that it may not.
func (t *Transport) reader(w http.ResponseWriter, r *http.Request, from member.ID) *peer {
	known := t.known.Load()
	if known.removed(from) {
		t.murmur.warn("refused a stream to a removed member", from.String(), "remote-peer-id", from.String())
		http.Error(w, "removed member", http.StatusGone)
		return nil
	}
	p := known.peers[from]
	if p == nil {
		h := r.Header.Clone()
		h.Set(headerFrom, from.String())
		t.addRemote(h)
		t.murmur.warn("refused a stream to who is not known as a member", from.String(), "remote-peer-id", from.String())
		http.Error(w, "error sender not found", http.StatusNotFound)
		return nil
	}
	if to := r.Header.Get(headerTo); to != t.o.Member.String() {
		t.murmur.warn("refused a stream that was meant for another member", from.String(), "remote-peer-id", from.String(), "to", to)
		http.Error(w, errNotForUs.Error(), http.StatusPreconditionFailed)
		return nil
	}
	p.kick()
	return p
}

// stopping answers what comes before Run or after it.
func stopping(w http.ResponseWriter) {
	http.Error(w, "the member is not running", http.StatusServiceUnavailable)
}

// writer is the writing end of a stream.
type writer struct {
	*peer
	kind   kind
	codec  encoder
	answer http.ResponseWriter
	out    *http.ResponseController
	batch  []*raftpb.Message
	buf    []byte
}

// errLeft says that the member has closed its stream.
var errLeft = errors.New("the other side has closed the connection")

// write serves a stream until it is replaced, fails, or the member is none any
// more. It runs in the request's goroutine.
func (p *peer) write(k kind, answer http.ResponseWriter, r *http.Request) {
	w := &writer{peer: p, kind: k, codec: k.encoder(), answer: answer, out: http.NewResponseController(answer)}
	o, lost := p.lanes[k].attach()
	p.lost(lost)
	if err := w.flush(); err != nil { // its reader waits for the headers
		w.failed(o, err, 0)
		return
	}
	p.status.up()
	p.log.Info("writing a stream to remote peer", "stream", k.String(), "remote-addr", r.RemoteAddr)
	tick := time.NewTicker(p.t.o.ReadTimeout / 3)
	defer tick.Stop()
	for {
		var err error
		sent := 0
		select {
		case <-o.wake:
			w.batch = p.lanes[k].take(o, w.batch[:0])
			sent = len(w.batch)
			err = w.messages()
			clear(w.batch)
		case <-tick.C:
			w.buf = w.codec.heartbeat(w.buf[:0])
			err = w.send()
		case <-o.replaced:
			p.log.Info("a stream to remote peer was replaced", "stream", k.String())
			return
		case <-r.Context().Done():
			err = errLeft
		case <-p.ctx.Done():
			p.lanes[k].detach(o)
			return
		case <-p.t.draining:
			_, lost := p.lanes[k].detach(o)
			p.lost(lost)
			return
		}
		if err != nil {
			w.failed(o, err, sent)
			return
		}
	}
}

// messages sends the batch.
func (w *writer) messages() error {
	w.buf = w.buf[:0]
	for _, m := range w.batch {
		b, err := w.codec.message(w.buf, m)
		if err != nil {
			return err
		}
		if w.buf = b; len(b) < batchBytes {
			continue
		}
		if err := w.put(); err != nil {
			return err
		}
		w.buf = w.buf[:0]
	}
	err := w.send()
	if cap(w.buf) > keepBytes {
		w.buf = nil
	}
	return err
}

// send writes the buffer, and all that was written before goes out.
func (w *writer) send() error {
	if err := w.put(); err != nil {
		return err
	}
	return w.flush()
}

func (w *writer) put() error {
	w.count.sentBytes.Add(float64(len(w.buf)))
	for rest := w.buf; len(rest) > 0; {
		piece := rest[:min(len(rest), writePiece)]
		if err := w.deadline(); err != nil {
			return err
		}
		if _, err := w.answer.Write(piece); err != nil {
			return err
		}
		rest = rest[len(piece):]
	}
	return nil
}

func (w *writer) flush() error {
	if err := w.deadline(); err != nil {
		return err
	}
	return w.out.Flush()
}

func (w *writer) deadline() error {
	return w.out.SetWriteDeadline(time.Now().Add(w.t.o.WriteTimeout))
}

// failed is the end of a stream that broke with n messages in hand.
func (w *writer) failed(o *opened, err error, n int) {
	open, lost := w.lanes[w.kind].detach(o)
	w.lost(lost + n)
	if !open {
		return // the stream that took its place is well
	}
	w.status.down("write the "+w.kind.String()+" stream", err)
	w.t.murmur.warn("lost a stream to remote peer", w.id.String()+" "+w.kind.String(), "remote-peer-id", w.id.String(),
		"stream", w.kind.String(), "error", err)
}
