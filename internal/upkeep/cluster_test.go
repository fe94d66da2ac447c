package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/replica"
	"kvd/internal/state"
	"kvd/internal/store"
)

// cluster is members that are always of one mind about the log: what one
// proposes all apply at once, if they are awake.
type cluster struct {
	t       *testing.T
	mu      sync.Mutex
	members []*fake
	leader  member.ID
	term    uint64
	index   uint64
	log     []entry
	// spoil, if not nil, changes what a member applies.
	spoil func(id member.ID, r *state.Request) *state.Request
}

type entry struct {
	term    uint64
	request *state.Request
}

// fake is one member: a real machine and its rows.
type fake struct {
	c       *cluster
	id      member.ID
	machine *state.Machine
	disk    *store.Mem
	view    *state.View
	version string // that it says; empty: it does not answer
	asleep  bool   // applies nothing
	silent  bool   // does not answer for its hash
	hang    bool   // does not answer at all, for as long as it is asked
	stale   uint64 // the status shows this term instead
	refused error  // why the last entry was
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, term: 1, leader: 1}
	for i := range n {
		f := &fake{c: c, id: member.ID(i + 1), disk: store.NewMem(), version: "3.7.3"}
		f.load()
		c.members = append(c.members, f)
	}
	for i := range n {
		m := member.Member{ID: member.ID(i + 1), Name: "n" + string(rune('1'+i)), PeerURLs: []string{"http://n" + string(rune('1'+i))}}
		c.change(member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m})
	}
	return c
}

func (f *fake) load() {
	f.c.t.Helper()
	r, err := f.disk.Read()
	if err != nil {
		f.c.t.Fatal(err)
	}
	defer r.Close()
	if f.machine, err = state.Load(r, f.disk.Read, state.Options{}); err != nil {
		f.c.t.Fatal(err)
	}
	f.view = f.machine.View()
}

func (c *cluster) change(change member.Change) {
	c.index++
	for _, f := range c.members {
		f.done(f.machine.Apply(state.Entry{Index: c.index, Term: c.term, Change: change.Entry(0)}))
	}
	c.log = append(c.log, entry{})
}

// commit puts a request into the log.
func (c *cluster) commit(r *state.Request) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commitLocked(r)
}

func (c *cluster) commitLocked(r *state.Request) (reply any) {
	c.index++
	c.log = append(c.log, entry{c.term, r})
	for _, f := range c.members {
		if !f.asleep {
			f.catchUp()
		}
	}
	return nil
}

// catchUp applies what the log holds.
func (f *fake) catchUp() {
	for at, _ := f.machine.Applied(); at < f.c.index; at, _ = f.machine.Applied() {
		e := f.c.log[at]
		r := e.request
		if f.c.spoil != nil && r != nil {
			r = f.c.spoil(f.id, r)
		}
		out := f.machine.Apply(state.Entry{Index: at + 1, Term: e.term, Request: r, Wanted: true})
		f.refused = out.Err
		f.done(out)
	}
}

// done makes everything durable at once.
func (f *fake) done(out state.Outcome) {
	if out.Fatal != nil {
		f.c.t.Error(out.Fatal)
	}
	for more := true; more; {
		rev := f.machine.Revision()
		index, term := f.machine.Applied()
		if b := f.machine.Take(); b != nil {
			if err := f.disk.Commit(store.Stamp{Index: index, Term: term}, b); err != nil {
				f.c.t.Error(err)
			}
		}
		f.machine.Stored(rev)
		var err error
		if more, err = f.machine.Sweep(1000); err != nil {
			f.c.t.Error(err)
		}
	}
	if b := f.machine.Take(); b != nil {
		index, term := f.machine.Applied()
		if err := f.disk.Commit(store.Stamp{Index: index, Term: term}, b); err != nil {
			f.c.t.Error(err)
		}
	}
	f.view = f.machine.View()
}

// elect makes a member the leader of a new term, whose first entry is empty.
func (c *cluster) elect(id member.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = id
	c.term++
	c.commitLocked(nil)
}

func (c *cluster) put(key, value string) {
	c.commit(&state.Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}})
}

func (c *cluster) compact(rev int64) {
	c.commit(&state.Request{Compaction: &pb.CompactionRequest{Revision: rev}})
}

func (c *cluster) setVersion(v string) {
	c.commit(&state.Request{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: v}})
}

func (c *cluster) downgrade(target string) {
	c.commit(&state.Request{DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{Enabled: target != "", Ver: target}})
}

func (c *cluster) version() string {
	v := c.members[0].View().Members.ClusterVersion()
	if !v.Known() {
		return "none"
	}
	return v.String()
}

// alarms are the members alarmed as corrupt.
func (c *cluster) alarms() []member.ID { return corrupt(c.members[0].View()) }

func (c *cluster) disarm() {
	for _, id := range c.alarms() {
		c.commit(&state.Request{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(id), Alarm: pb.AlarmType_CORRUPT}})
	}
}

// spoilPut makes a member store another value for a key. The alarms do not
// change what is applied to it.
func (c *cluster) spoilPut(id member.ID, key string) {
	was := c.spoil
	c.spoil = func(at member.ID, r *state.Request) *state.Request {
		if was != nil {
			r = was(at, r)
		}
		if at == id && string(r.GetPut().GetKey()) == key {
			return &state.Request{Put: &pb.PutRequest{Key: r.Put.Key, Value: []byte("spoilt on " + id.String())}}
		}
		return r
	}
}

// as Member.

func (f *fake) View() *state.View {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	return f.view
}

func (f *fake) Status() replica.Status {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	s := replica.Status{Member: uint64(f.id), Leader: uint64(f.c.leader), Term: f.c.term, State: raft.StateFollower}
	if f.c.leader == f.id {
		s.State = raft.StateLeader
	}
	if f.stale != 0 {
		s.Term = f.stale
	}
	return s
}

func (f *fake) Propose(ctx context.Context, r *state.Request, _ []byte) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	return f.c.commitLocked(r), f.refused
}

func (f *fake) Barrier(ctx context.Context) error { return ctx.Err() }
func (f *fake) Flush(ctx context.Context) error   { return ctx.Err() }

// as Others.

var errNoAnswer = errors.New("connection refused")

func (c *cluster) find(id member.ID) *fake { return c.members[id-1] }

func (c *cluster) Version(ctx context.Context, m member.Member) (string, error) {
	f := c.find(m.ID)
	if f.hang {
		<-ctx.Done()
		return "", ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.version == "" {
		return "", errNoAnswer
	}
	return f.version, nil
}

func (c *cluster) HashKV(ctx context.Context, m member.Member, rev int64) (Hash, error) {
	f := c.find(m.ID)
	if f.hang {
		<-ctx.Done()
		return Hash{}, ctx.Err()
	}
	if f.silent {
		return Hash{}, errNoAnswer
	}
	return OwnHash(ctx, f.View, f.Flush, rev)
}

// upkeep makes the upkeep of a member.
func (c *cluster) upkeep(id member.ID, o Options, more ...func(*Parts)) *Upkeep {
	c.t.Helper()
	p := Parts{Member: c.find(id), Others: c, ID: id}
	for _, change := range more {
		change(&p)
	}
	if o.Version == "" {
		o.Version = "3.7.3"
	}
	u, err := New(o, p)
	if err != nil {
		c.t.Fatal(err)
	}
	return u
}

// run runs an upkeep; in a bubble. The function returned stops it.
func run(t *testing.T, u *Upkeep) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// heard collects what is logged.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(h, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, string(b))
	return len(b), nil
}

func (h *heard) count(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, line := range h.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func ids(of ...member.ID) []member.ID { return of }

func wantAlarms(t *testing.T, c *cluster, want ...member.ID) {
	t.Helper()
	if got := c.alarms(); !slices.Equal(got, want) {
		t.Errorf("alarmed are %v, want %v", got, want)
	}
}

// soon is longer than it takes a leader to look.
const soon = 2 * lookInterval

func sleep(d time.Duration) { time.Sleep(d) } // of a bubble's clock

// counting counts what members are asked for their hashes.
type counting struct {
	*cluster
	n atomic.Int64
}

func (o *counting) HashKV(ctx context.Context, m member.Member, rev int64) (Hash, error) {
	o.n.Add(1)
	return o.cluster.HashKV(ctx, m, rev)
}

// value reads a metric.
func value(t *testing.T, m prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != 1 {
		t.Fatalf("%v, %v", families, err)
	}
	metric := families[0].GetMetric()[0]
	return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
}
