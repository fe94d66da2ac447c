package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// snapshotHead is the largest message that may go before an image: it carries
// the membership.
const snapshotHead = 64 << 20

// method refuses every method but the one, in etcd's words.
func method(w http.ResponseWriter, r *http.Request, want string) bool {
	if r.Method == want {
		return true
	}
	w.Header().Set("Allow", want)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// pausing is a request's body of which no read may take longer than a time, and
// that ends with Run. An error is for good.
type pausing struct {
	body    io.Reader
	control *http.ResponseController
	limit   time.Duration
	read    int64
	err     error

	mu  sync.Mutex
	cut bool // by the end of Run
}

// body is the body of a request, until done.
func (t *Transport) body(w http.ResponseWriter, r *http.Request) (b *pausing, done func() bool) {
	b = &pausing{body: r.Body, control: http.NewResponseController(w), limit: t.o.ReadTimeout}
	return b, context.AfterFunc(t.ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cut = true
		b.control.SetReadDeadline(time.Now()) //nolint:errcheck // then it ends by itself
	})
}

// Read implements io.Reader.
func (b *pausing) Read(p []byte) (int, error) {
	if b.err == nil {
		b.err = b.deadline(time.Now().Add(b.limit))
	}
	if b.err != nil {
		return 0, b.err
	}
	var n int
	n, b.err = b.body.Read(p)
	b.read += int64(n)
	if errors.Is(b.err, io.EOF) {
		// The server goes on listening for the end of the connection, which is
		// not to come while the request is worked on.
		if err := b.deadline(time.Time{}); err != nil {
			b.err = err
		}
	}
	return n, b.err
}

func (b *pausing) deadline(at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return context.Canceled
	}
	return b.control.SetReadDeadline(at)
}

// message takes one message of another member.
func (t *Transport) message(w http.ResponseWriter, r *http.Request) {
	if !t.greet(w, r) {
		return
	}
	defer t.work.leave()
	known := t.known.Load()
	sender, _ := member.ParseID(r.Header.Get(headerFrom)) // 0 is nobody
	failures := t.metrics.receivedFailures.WithLabelValues(known.label(sender))
	body, done := t.body(w, r)
	defer done()
	var all bytes.Buffer // grows with what comes, whatever Content-Length says
	if n, err := all.ReadFrom(io.LimitReader(body, int64(t.o.MaxMessageBytes)+1)); err != nil || n > int64(t.o.MaxMessageBytes) {
		t.murmur.warn("could not read a posted message", asker(r), "remote-addr", r.RemoteAddr, "bytes", n, "error", err)
		failures.Inc()
		http.Error(w, "error reading raft message", http.StatusBadRequest)
		return
	}
	m, err := parseMessage(all.Bytes())
	if err != nil {
		t.murmur.warn("a posted message is none", asker(r), "remote-addr", r.RemoteAddr, "bytes", body.read, "error", err)
		failures.Inc()
		http.Error(w, "error unmarshalling raft message", http.StatusBadRequest)
		return
	}
	t.metrics.receivedBytes.WithLabelValues(known.label(member.ID(m.GetFrom()))).Add(float64(body.read))
	if !t.let(w, m) {
		return
	}
	t.raft.Deliver(m)
	w.WriteHeader(http.StatusNoContent)
}

// greet checks who posts, before anything is read. If it may go on, it has
// entered the crew.
func (t *Transport) greet(w http.ResponseWriter, r *http.Request) bool {
	if !method(w, r, http.MethodPost) {
		return false
	}
	w.Header()[headerCluster] = []string{t.o.Cluster.String()}
	if err := t.compatible(r); err != nil {
		http.Error(w, err.Error(), http.StatusPreconditionFailed)
		return false
	}
	if !t.work.enter() {
		stopping(w)
		return false
	}
	t.addRemote(r.Header)
	return true
}

// let admits a posted message, or answers why not. A removed member is to learn
// of it. That the message is for somebody else is no such news, and etcd would
// take the same status for it.
func (t *Transport) let(w http.ResponseWriter, m *raftpb.Message) bool {
	switch err := t.admit(m); {
	case err == nil:
		return true
	case errors.Is(err, errFromRemoved):
		complain(w, http.StatusForbidden, err.Error())
	default:
		http.Error(w, err.Error(), http.StatusPreconditionFailed)
	}
	return false
}

// complain answers with an error as JSON.
func complain(w http.ResponseWriter, status int, text string) {
	b, err := json.Marshal(struct {
		Message string `json:"message"`
	}{text})
	if err != nil {
		panic("peer: a string has no JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b) //nolint:errcheck // the asker has gone
}

// image takes a snapshot of another member: a message, and the database.
func (t *Transport) image(w http.ResponseWriter, r *http.Request) {
	began, of := time.Now(), t.metrics.receiving
	if !t.greet(w, r) {
		of.failed.WithLabelValues(unknownSender).Inc()
		return
	}
	defer t.work.leave()
	known := t.known.Load()
	sender, _ := member.ParseID(r.Header.Get(headerFrom)) // 0 is nobody
	from := known.label(sender)
	refuse := func(status int, text string) {
		of.failed.WithLabelValues(from).Inc()
		http.Error(w, text, status)
	}
	body, done := t.body(w, r)
	defer done()
	m, err := readHead(body)
	if err != nil {
		t.murmur.warn("a posted snapshot has no message", asker(r), "remote-addr", r.RemoteAddr, "error", err)
		t.metrics.receivedFailures.WithLabelValues(from).Inc()
		refuse(http.StatusBadRequest, fmt.Sprintf("failed to decode raft message (%v)", err))
		return
	}
	if m.GetType() != raftpb.MsgSnap {
		t.murmur.warn("a posted snapshot has a message of another type", asker(r), "remote-addr", r.RemoteAddr, "message-type", m.GetType().String())
		refuse(http.StatusBadRequest, "wrong raft message type")
		return
	}
	if !t.let(w, m) {
		of.failed.WithLabelValues(from).Inc()
		return
	}
	of.inflight.WithLabelValues(from).Inc()
	defer of.inflight.WithLabelValues(from).Dec()
	log := t.log.With("from", member.ID(m.GetFrom()).String(), "snapshot-index", m.GetSnapshot().GetMetadata().GetIndex())
	log.Info("receiving database snapshot", "remote-addr", r.RemoteAddr)
	err = t.receive(r.Context(), m, body)
	t.metrics.receivedBytes.WithLabelValues(from).Add(float64(body.read))
	if err != nil {
		log.Warn("database snapshot not received", "bytes", body.read, "error", err)
		refuse(http.StatusInternalServerError, fmt.Sprintf("failed to save KV snapshot (%v)", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
	of.done.WithLabelValues(from).Inc()
	of.seconds.WithLabelValues(from).Observe(time.Since(began).Seconds())
}

// receive hands a snapshot over. It ends with the request, and with Run.
func (t *Transport) receive(ctx context.Context, m *raftpb.Message, body io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	return t.raft.Receive(ctx, m, body)
}

// readHead reads the message before an image, and not a byte more.
func readHead(body io.Reader) (*raftpb.Message, error) {
	s := &source{limit: snapshotHead, r: body}
	m, err := s.frame()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}
