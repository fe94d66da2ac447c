package peer

import (
	"context"
	"net/http"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

// Transport speaks with the other members of a cluster.
type Transport struct{}

// New makes a transport. It sends nothing until Run.
func New(o Options, p Parts) (*Transport, error) { panic("not yet") }

// Run keeps the connections to other members until ctx ends, and returns when
// everything that it has started has ended. The error is ErrRemoved when another
// member says that this one was removed.
func (t *Transport) Run(ctx context.Context) error { panic("not yet") }

// Send takes messages for other members. It never blocks: what does not fit
// into a queue is dropped, and Raft.Unreachable is told. The messages must not
// be changed any more.
func (t *Transport) Send(ms []*raftpb.Message) { panic("not yet") }

// SendSnapshot sends a snapshot, and owns image. It does not block, and ends in
// Raft.SnapshotSent.
func (t *Transport) SendSnapshot(m *raftpb.Message, image *store.Copy) { panic("not yet") }

// Follow makes the peers those of v, without this member. It does not block.
func (t *Transport) Follow(v member.View) { panic("not yet") }

// AddRemote notes where a member can be reached that is not known by Follow yet,
// so that it can be answered.
func (t *Transport) AddRemote(id member.ID, urls []string) { panic("not yet") }

// ActiveSince is since when a member is connected without a fault; zero if it is
// not.
func (t *Transport) ActiveSince(id member.ID) time.Time { panic("not yet") }

// Connected is how many other members are connected.
func (t *Transport) Connected() int { panic("not yet") }

// Routes adds everything that the peer port answers.
func (t *Transport) Routes(mux *http.ServeMux) { panic("not yet") }

// Prepare makes a server fit for the streams: it bounds how long a request's
// headers may take, and ends the streams when the server is shut down.
func (t *Transport) Prepare(server *http.Server) { panic("not yet") }

// Client asks other members, over the same kind of connections.
func (t *Transport) Client() *Client { panic("not yet") }
