package api

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kvd/internal/credential"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/replica"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/watch"
)

const soloID = 0x1234

// solo is a member without raft: what is proposed is applied at once, to a real
// machine over a real file.
type solo struct {
	t       testing.TB
	mu      sync.Mutex
	machine *state.Machine
	index   uint64
	file    *store.File
	hub     *watch.Hub
	shown   atomic.Pointer[state.View]
	granted map[lease.ID]time.Time
	leader  atomic.Uint64
	refuse  error         // answers every proposal and barrier
	lag     atomic.Uint64 // entries that are committed and not applied
	changes []member.Change
	matches map[member.ID]uint64
	peers   Peers
	tokens  Tokens
	heard   func(entry []byte) // what is proposed; nil: nobody listens
	pending atomic.Int64       // what was applied and not flushed, as it is reckoned
}

func newSolo(t testing.TB) *solo {
	t.Helper()
	s := newStranger(t)
	s.add(member.Member{ID: soloID, Name: "solo", PeerURLs: []string{"http://127.0.0.1:1"}, ClientURLs: []string{"http://127.0.0.1:2"}})
	s.apply(state.Entry{Request: &state.Request{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}}})
	return s
}

// newStranger is a member of a cluster that has not told it about itself yet.
func newStranger(t testing.TB) *solo {
	t.Helper()
	file, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{NoSync: true, InitialMmapBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	s := &solo{
		t: t, file: file, granted: map[lease.ID]time.Time{},
		tokens: Tokens{Simple: credential.NewSimple(0, nil)},
	}
	r, err := file.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows := func() (store.Reader, error) { return file.Read() }
	if s.machine, err = state.Load(r, rows, state.Options{MinLeaseTTL: 2}); err != nil {
		t.Fatal(err)
	}
	s.shown.Store(s.machine.View())
	s.leader.Store(soloID)
	s.hub = watch.New(watch.Options{}, func() *mvcc.View { return s.shown.Load().Keys }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	return s
}

func (s *solo) apply(e state.Entry) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	e.Index, e.Term, e.Wanted = s.index, 2, true
	out := s.machine.Apply(e)
	if out.Fatal != nil {
		s.t.Error(out.Fatal)
	}
	for _, l := range out.Leases {
		if s.granted[l.Lease.ID] = time.Now().Add(time.Duration(l.Lease.TTL) * time.Second); l.Ended {
			delete(s.granted, l.Lease.ID)
		}
	}
	s.tokens.Changed(out.Tokens)
	if e.Request != nil {
		s.pending.Add(state.Cost(e.Request))
	}
	view := s.machine.View()
	s.shown.Store(view)
	if len(out.Events) > 0 {
		s.hub.Publish(view.Keys, out.Revision, out.Events)
	}
	if e.Request.GetCompaction() != nil {
		s.sweep()
	}
	return out.Reply, out.Err
}

func (s *solo) Pending() int { return int(s.pending.Load()) }

// sweep completes a compaction.
func (s *solo) sweep() {
	for more := true; more; {
		if err := s.flush(); err != nil {
			s.t.Error(err)
		}
		var err error
		if more, err = s.machine.Sweep(100); err != nil {
			s.t.Error(err)
		}
	}
	s.shown.Store(s.machine.View())
}

// Propose takes the request through the log's form, as raft would.
func (s *solo) Propose(_ context.Context, req *state.Request, raw []byte) (any, error) {
	if s.refuse != nil {
		return nil, s.refuse
	}
	entry, err := state.Encode(req, raw)
	if err != nil {
		return nil, err
	}
	if s.heard != nil {
		s.heard(entry)
	}
	if req, err = state.Decode(entry); err != nil {
		return nil, err
	}
	return s.apply(state.Entry{Request: req})
}

func (s *solo) Barrier(context.Context) error { return s.refuse }
func (s *solo) View() *state.View             { return s.shown.Load() }

func (s *solo) Status() replica.Status {
	v := s.shown.Load()
	return replica.Status{Member: soloID, Leader: s.leader.Load(), Term: v.Term, State: raft.StateLeader, Commit: v.Applied + s.lag.Load(), Applied: v.Applied}
}

func (s *solo) Renew(_ context.Context, id lease.ID) (int64, error) {
	if s.leader.Load() != soloID {
		return 0, replica.ErrNotLeader
	}
	l, ok := s.View().Leases.Lease(id)
	if !ok {
		return 0, lease.ErrNotFound
	}
	return l.TTL, nil
}

func (s *solo) RenewNow(ctx context.Context, ids []lease.ID, ttls []int64) (n int, err error) {
	for ; n < len(ids) && err == nil; n++ {
		if ttls[n], err = s.Renew(ctx, ids[n]); err != nil {
			return n, nil
		}
	}
	return n, nil
}

func (s *solo) Leases(context.Context) (ids []lease.ID, _ error) {
	for _, l := range s.View().Leases.All() {
		ids = append(ids, l.ID)
	}
	return ids, nil
}

func (s *solo) Remaining(_ context.Context, id lease.ID) (time.Duration, error) {
	if s.leader.Load() != soloID {
		return 0, replica.ErrNotLeader
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ok := s.granted[id]
	if !ok {
		return 0, lease.ErrNotFound
	}
	return time.Until(end), nil
}

// Change takes the change through the log's form, as raft would.
func (s *solo) Change(_ context.Context, c member.Change) error {
	if s.refuse != nil {
		return s.refuse
	}
	s.changes = append(s.changes, c)
	_, err := s.apply(state.Entry{Change: c.Entry(1)})
	return err
}

func (s *solo) Progress(context.Context) (map[member.ID]uint64, error) {
	if s.leader.Load() != soloID {
		return nil, replica.ErrNotLeader
	}
	return s.matches, nil
}

// join makes members that have a name, and a URL made of it.
func (s *solo) join(names ...string) {
	for _, name := range names {
		s.add(member.Member{ID: idOf(name), Name: name, PeerURLs: []string{"http://" + name + ":1"}})
	}
}

func (s *solo) add(m member.Member) {
	c := member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}
	if m.Learner {
		c.Type = raftpb.ConfChangeAddLearnerNode
	}
	if _, err := s.apply(state.Entry{Change: c.Entry(1)}); err != nil {
		s.t.Fatal(err)
	}
}

// idOf is the ID of a member whose name is one letter.
func idOf(name string) member.ID { return member.ID(name[0]) }

func (s *solo) Transfer(context.Context, member.ID) error { return replica.ErrTimeoutTransfer }

func (s *solo) Flush(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *solo) flush() error {
	s.pending.Store(0)
	if batch := s.machine.Take(); batch != nil {
		if err := s.file.Commit(store.Stamp{Index: s.index, Term: 2}, batch); err != nil {
			return err
		}
	}
	s.machine.Stored(s.machine.Revision())
	s.shown.Store(s.machine.View())
	return nil
}

func (s *solo) Copy(ctx context.Context) (*store.Copy, error) {
	if err := s.Flush(ctx); err != nil {
		return nil, err
	}
	return s.file.Copy()
}

func (s *solo) Defragment(ctx context.Context) error { return s.file.Defragment(ctx) }

// serve runs the services over a member and returns a connection to them.
func serve(t testing.TB, s *solo, o Options, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, _ := serving(t, s, o, dial...)
	return conn
}

func serving(t testing.TB, s *solo, o Options, dial ...grpc.DialOption) (*grpc.ClientConn, *API) {
	t.Helper()
	return servingMember(t, s, s, o, slog.New(slog.DiscardHandler), dial...)
}

// servingMember serves s, as m shows it.
func servingMember(t testing.TB, s *solo, m Member, o Options, log *slog.Logger, dial ...grpc.DialOption) (*grpc.ClientConn, *API) {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := New(o, Parts{
		Member: m, Peers: s.peers, Hub: s.hub, Store: s.file,
		Passwords: credential.NewPasswords(4, nil), Tokens: s.tokens, Cluster: 0xc1, ID: soloID,
		Log: log, Registry: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.hub.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := a.Run(ctx, l); err != nil {
			t.Error(err)
		}
	})
	dial = append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	conn, err := grpc.NewClient(l.Addr().String(), dial...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		running.Wait()
	})
	return conn, a
}
