package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

// Transport speaks with the other members of a cluster. Its methods are for any
// goroutine.
type Transport struct {
	o       Options
	raft    Raft
	desk    Desk
	log     *slog.Logger
	murmur  *murmur
	metrics *metrics
	urls    string // own ones, as the header has them

	streams *roads // connections for streams: timed, and used once
	images  *roads // connections for snapshots
	posts   *roads // connections for everything else
	client  *Client

	ctx       context.Context // of everything that Run owns
	cancel    context.CancelCauseFunc
	work      crew
	draining  chan struct{} // closed when the HTTP server stops
	drainOnce sync.Once

	mu      sync.Mutex // of who replaces known, and of running
	running bool
	known   atomic.Pointer[table]
}

// New makes a transport. It sends nothing until Run.
func New(o Options, p Parts) (*Transport, error) {
	if err := o.Complete(); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	metrics, err := newMetrics(p.Registry)
	if err != nil {
		return nil, err
	}
	w := newWire(o.TLS, o.LocalAddress, o.Election)
	t := &Transport{
		o: o, raft: p.Raft, desk: p.Desk, log: p.Log, murmur: newMurmur(p.Log), metrics: metrics,
		urls:     strings.Join(usable(o.URLs), ","),
		streams:  w.roads(o.ReadTimeout, o.WriteTimeout, false),
		images:   w.roads(0, max(o.WriteTimeout, imageTimeout), false),
		posts:    w.roads(0, o.WriteTimeout, true),
		draining: make(chan struct{}),
	}
	t.client = newClient(t.posts, o.Election)
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.known.Store(&table{})
	return t, nil
}

// Run keeps the connections to other members until ctx ends, and returns when
// everything that it has started has ended. It may be called once. The error is
// ErrRemoved when another member says that this one was removed.
func (t *Transport) Run(ctx context.Context) error {
	t.begin()
	select {
	case <-ctx.Done():
	case <-t.ctx.Done():
	}
	t.cancel(context.Canceled) // the first cause counts
	t.work.close()
	t.streams.CloseIdleConnections()
	t.images.CloseIdleConnections()
	t.posts.CloseIdleConnections()
	if err := context.Cause(t.ctx); err != context.Canceled { //nolint:errorlint // it is the value given above
		return err
	}
	return nil
}

func (t *Transport) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		panic("peer: Run called twice")
	}
	t.running = true
	t.work.open()
	for _, p := range t.known.Load().peers {
		p.start()
	}
}

// expelled ends Run: member by says that this one was removed.
func (t *Transport) expelled(by member.ID) {
	t.cancel(fmt.Errorf("member %s: told by member %s: %w", t.o.Member, by, ErrRemoved))
}

// Send takes messages for other members. It never blocks: what does not fit
// into a queue is dropped, and Raft.Unreachable is told. The messages must not
// be changed any more.
func (t *Transport) Send(ms []*raftpb.Message) {
	known := t.known.Load()
	for _, m := range ms {
		to := member.ID(m.GetTo())
		if p := known.peers[to]; p != nil {
			p.send(m)
		} else if r := known.remotes[to]; r != nil {
			r.post(m)
		} else if to != 0 {
			t.log.Debug("no such member to send a message to", "message-type", m.GetType().String(), "to", to.String())
		}
	}
}

// SendSnapshot sends a snapshot, and owns image. It does not block, and ends in
// Raft.SnapshotSent.
func (t *Transport) SendSnapshot(m *raftpb.Message, image *store.Copy) {
	to := member.ID(m.GetTo())
	p := t.known.Load().peers[to]
	if p == nil {
		t.log.Warn("no such member to send a snapshot to", "to", to.String())
	} else if p.sendSnapshot(m, image) {
		return
	}
	image.Close()
	t.raft.SnapshotSent(to, false)
}

// ActiveSince is since when a member is connected without a fault; zero if it is
// not.
func (t *Transport) ActiveSince(id member.ID) time.Time {
	if p := t.known.Load().peers[id]; p != nil {
		return p.status.activeSince()
	}
	return time.Time{}
}

// Connected is how many other members are connected.
func (t *Transport) Connected() int {
	n := 0
	for _, p := range t.known.Load().peers {
		if !p.status.activeSince().IsZero() {
			n++
		}
	}
	return n
}

// Client asks other members, over the same kind of connections.
func (t *Transport) Client() *Client { return t.client }

// Prepare makes a server fit for the streams: it bounds how long a request's
// headers may take, and ends the streams when the server is shut down. To be
// called once, before the server serves.
func (t *Transport) Prepare(server *http.Server) {
	server.ReadHeaderTimeout = t.o.ReadTimeout
	server.MaxHeaderBytes = headerBytes
	server.RegisterOnShutdown(func() { t.drainOnce.Do(func() { close(t.draining) }) })
}

// table is who can be sent to. It is replaced, never changed.
type table struct {
	view    member.View
	viewed  bool // there is a view
	peers   map[member.ID]*peer
	remotes map[member.ID]*remote
}

func (k *table) removed(id member.ID) bool { return k.viewed && k.view.Removed(id) }

// label is the name of a member in metrics, which must not grow with what
// strangers send.
func (k *table) label(id member.ID) string {
	if k.peers[id] == nil && k.remotes[id] == nil {
		return nobody
	}
	return id.String()
}

// change replaces the table by one that edit has changed.
func (t *Transport) change(edit func(next *table)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.known.Load()
	next := &table{view: now.view, viewed: now.viewed, peers: map[member.ID]*peer{}, remotes: map[member.ID]*remote{}}
	for id, p := range now.peers {
		next.peers[id] = p
	}
	for id, r := range now.remotes {
		next.remotes[id] = r
	}
	edit(next)
	t.known.Store(next)
}

// Follow makes the peers those of v, without this member. It does not block.
func (t *Transport) Follow(v member.View) {
	t.change(func(next *table) {
		next.view, next.viewed = v, true
		for _, m := range v.Members() {
			if m.ID != t.o.Member {
				t.followOne(next, m)
			}
		}
		for id, p := range next.peers {
			if _, still := v.Member(id); !still {
				delete(next.peers, id)
				p.stop()
				t.log.Info("removed remote peer", "remote-peer-id", id.String())
			}
		}
		for id, r := range next.remotes {
			if next.peers[id] != nil || v.Removed(id) {
				delete(next.remotes, id)
				r.cancel()
			}
		}
	})
}

func (t *Transport) followOne(next *table, m member.Member) {
	if p := next.peers[m.ID]; p != nil {
		if p.urls.replace(m.PeerURLs) {
			t.log.Info("updated remote peer", "remote-peer-id", m.ID.String(), "remote-peer-urls", m.PeerURLs)
		}
		return
	}
	urls := newPicker(m.PeerURLs)
	if urls == nil {
		t.murmur.warn("a member has no URL that can be used", m.ID.String(), "remote-peer-id", m.ID.String(), "remote-peer-urls", m.PeerURLs)
		return
	}
	p := newPeer(t, m.ID, urls)
	next.peers[m.ID] = p
	if t.running {
		p.start()
	}
	t.log.Info("added remote peer", "remote-peer-id", m.ID.String(), "remote-peer-urls", m.PeerURLs)
}

// AddRemote notes where a member can be reached that is not known by Follow yet,
// so that it can be answered. When there are too many, the oldest is forgotten.
func (t *Transport) AddRemote(id member.ID, urls []string) {
	if known := t.known.Load(); known.peers[id] != nil || known.remotes[id] != nil || known.removed(id) || id == t.o.Member || id == 0 {
		return
	}
	at := newPicker(urls)
	if at == nil {
		t.murmur.warn("a remote member names no URL that can be used", id.String(), "remote-peer-id", id.String(), "remote-peer-urls", urls)
		return
	}
	t.change(func(next *table) {
		if next.peers[id] != nil || next.remotes[id] != nil || next.removed(id) {
			return
		}
		if len(next.remotes) >= t.o.MaxRemotes {
			var oldest *remote
			for _, r := range next.remotes {
				if oldest == nil || r.added.Before(oldest.added) {
					oldest = r
				}
			}
			delete(next.remotes, oldest.id)
			oldest.cancel()
		}
		next.remotes[id] = newRemote(t, id, at)
		t.murmur.info("added new remote peer", id.String(), "remote-peer-id", id.String(), "remote-peer-urls", urls)
	})
}

// addRemote adds who has sent a request.
func (t *Transport) addRemote(h http.Header) {
	id, err := member.ParseID(h.Get(headerFrom))
	if err != nil || h.Get(headerURLs) == "" {
		return
	}
	t.AddRemote(id, slices.DeleteFunc(strings.Split(h.Get(headerURLs), ","), func(u string) bool { return u == "" }))
}

// crew is the goroutines and requests that Run waits for.
type crew struct {
	mu      sync.Mutex
	working bool
	running sync.WaitGroup
}

func (c *crew) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.working = true
}

// close lets no more in, and waits for those that are.
func (c *crew) close() {
	c.mu.Lock()
	c.working = false
	c.mu.Unlock()
	c.running.Wait()
}

// enter joins the crew until leave; false when there is none.
func (c *crew) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.working {
		c.running.Add(1)
	}
	return c.working
}

func (c *crew) leave() { c.running.Done() }

// start runs work in a goroutine; false when it cannot.
func (c *crew) start(work func()) bool {
	if !c.enter() {
		return false
	}
	go func() {
		defer c.leave()
		work()
	}()
	return true
}
