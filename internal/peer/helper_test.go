package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

const testCluster member.ClusterID = 0xc1

// testTimeout is short, so that what is lost is lost soon.
const testTimeout = 600 * time.Millisecond

// eventually waits until a claim holds.
func eventually(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", claim)
		}
	}
}

// ear is a raft that notes what it is told.
type ear struct {
	mu        sync.Mutex
	delivered []*raftpb.Message
	lost      map[member.ID]int
	refusals  map[member.ID]int
	sent      []bool
	receive   func(context.Context, *raftpb.Message, io.Reader) error
}

func (e *ear) Deliver(m *raftpb.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.delivered = append(e.delivered, m)
}

func (e *ear) Unreachable(id member.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost[id]++
}

func (e *ear) Refused(id member.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusals[id]++
}

func (e *ear) SnapshotSent(_ member.ID, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = append(e.sent, ok)
}

func (e *ear) Receive(ctx context.Context, m *raftpb.Message, image io.Reader) error {
	if e.receive == nil {
		return errors.New("no snapshot is expected")
	}
	return e.receive(ctx, m, image)
}

// heard reports whether a message with this index came from a member.
func (e *ear) heard(from member.ID, index uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.delivered, func(m *raftpb.Message) bool {
		return m.GetFrom() == uint64(from) && m.GetIndex() == index
	})
}

func (e *ear) heardAll() []*raftpb.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.delivered)
}

func (e *ear) count(of map[member.ID]int, id member.ID) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return of[id]
}

func (e *ear) fates() []bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.sent)
}

// journal is a log that can be read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

// lines are those that have all of the words.
func (j *journal) lines(words ...string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range strings.Split(j.buf.String(), "\n") {
		if line != "" && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// station is a member as far as its transport goes.
type station struct {
	*Transport
	t        *testing.T
	id       member.ID
	ear      *ear
	log      *journal
	registry *prometheus.Registry
	url      string
	address  string
	server   *http.Server
	ended    chan struct{} // closed when Run has
	err      error         // of Run, then
	stop     context.CancelFunc
}

func newStation(t *testing.T, id member.ID, tune ...func(*Options, *Parts)) *station {
	t.Helper()
	return newStationAt(t, id, "127.0.0.1:0", tune...)
}

func newStationAt(t *testing.T, id member.ID, address string, tune ...func(*Options, *Parts)) *station {
	t.Helper()
	var l net.Listener
	var err error
	eventually(t, "the address is free", func() bool {
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	return newStationOn(t, id, l, "http", tune...)
}

func newStationOn(t *testing.T, id member.ID, l net.Listener, scheme string, tune ...func(*Options, *Parts)) *station {
	t.Helper()
	s := &station{
		t: t, id: id, ear: &ear{lost: map[member.ID]int{}, refusals: map[member.ID]int{}}, log: &journal{},
		registry: prometheus.NewRegistry(), address: l.Addr().String(), ended: make(chan struct{}),
	}
	s.url = scheme + "://" + s.address
	o := Options{Member: id, Cluster: testCluster, URLs: []string{s.url}, ReadTimeout: testTimeout, WriteTimeout: testTimeout}
	p := Parts{Raft: s.ear, Log: slog.New(slog.NewTextHandler(s.log, nil)).With("me", id.String()), Registry: s.registry}
	for _, change := range tune {
		change(&o, &p)
	}
	var err error
	if s.Transport, err = New(o, p); err != nil {
		t.Fatal(err)
	}
	s.serve(l)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() {
		defer close(s.ended)
		s.err = s.Run(ctx)
	}()
	t.Cleanup(func() {
		s.end()
		s.server.Close()
		if t.Failed() {
			t.Logf("log of %s:\n%s", id, strings.Join(s.log.lines(), "\n"))
		}
	})
	eventually(t, "the station runs", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.running })
	return s
}

// serve answers on a listener, as the peer port does.
func (s *station) serve(l net.Listener) {
	mux := http.NewServeMux()
	s.Routes(mux)
	s.server = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	s.Prepare(s.server)
	server := s.server
	go server.Serve(l)
}

// end stops Run, waits for it and returns its error.
func (s *station) end() error {
	s.t.Helper()
	s.stop()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.t.Errorf("Run of %s has not ended", s.id)
	}
	return s.err
}

func (s *station) member() member.Member { return member.Member{ID: s.id, PeerURLs: []string{s.url}} }

func (s *station) active(id member.ID) bool { return !s.ActiveSince(id).IsZero() }

// metric is the value of a counter or gauge; label is one of its values.
func (s *station) metric(name, label string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

// viewOf is a membership.
func viewOf(t *testing.T, members []member.Member, removed ...member.ID) member.View {
	t.Helper()
	reader, err := store.NewMem().Read()
	if err != nil {
		t.Fatal(err)
	}
	book, err := member.Load(reader)
	if err != nil {
		t.Fatal(err)
	}
	rows := &store.Batch{}
	for _, m := range members {
		book.Apply(member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}, rows)
	}
	for _, id := range removed {
		book.Apply(member.Change{Type: raftpb.ConfChangeRemoveNode, ID: id}, rows)
	}
	return book.View()
}

// acquaint makes stations members of one cluster and waits until all are
// connected.
func acquaint(t *testing.T, all ...*station) {
	t.Helper()
	var members []member.Member
	for _, s := range all {
		members = append(members, s.member())
	}
	for _, s := range all {
		s.Follow(viewOf(t, members))
	}
	for _, s := range all {
		for _, other := range all {
			if s != other {
				s.meet(other)
			}
		}
	}
}

// meet waits until both streams to another station are open.
func (s *station) meet(other *station) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s has opened both streams of %s", other.id, s.id), func() bool {
		p := s.known.Load().peers[other.id]
		return s.active(other.id) && p.open(everything) && p.open(appends)
	})
}

func (p *peer) open(k kind) bool {
	l := &p.lanes[k]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open != nil
}

func heartbeat(from, to member.ID, index uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: ptr(uint64(from)), To: ptr(uint64(to)), Term: ptr(uint64(1)), Index: ptr(index),
	}
}

func appendTo(from, to member.ID, index uint64) *raftpb.Message {
	m := appended(1, 1, index, 0, entry(1, index+1, "data"))
	m.From, m.To = ptr(uint64(from)), ptr(uint64(to))
	return m
}

// introduction has the headers of a member that is compatible.
func introduction(from member.ID) http.Header {
	h := http.Header{}
	h.Set(headerFrom, from.String())
	h.Set(headerVersion, serverVersion)
	h.Set(headerMinVersion, minClusterVersion)
	h.Set(headerCluster, testCluster.String())
	return h
}

// request sends one request and reads its answer to the end.
func request(t *testing.T, verb, url string, header http.Header, body io.Reader) (status int, h http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header.Clone()
	}
	over := &http.Transport{DisableKeepAlives: true}
	answer, err := over.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(b)
}
