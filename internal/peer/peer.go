// Package peer carries what members tell each other: raft's messages, snapshots,
// and the few questions beside raft that one member asks another. It speaks
// etcd 3.7's raft-over-HTTP protocol, as client and as server. It does not know
// what a message means, who leads, or where a snapshot is kept: Raft and Desk
// are told and asked. DESIGN.md says who runs and what happens when a queue is
// full.
package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/lease"
	"kvd/internal/member"
)

// The version whose protocol is spoken, and the oldest that a member may speak.
const (
	serverVersion     = "3.7.3"
	minClusterVersion = "3.0.0"
)

var (
	// ErrRemoved says that another member calls this one removed. It will never
	// be let in again.
	ErrRemoved = errors.New("the member has been permanently removed from the cluster")
	// ErrMismatch says that the other side belongs to another cluster.
	ErrMismatch = errors.New("cluster ID mismatch")
	// ErrIncompatible says that the versions of two members do not go together.
	ErrIncompatible = errors.New("incompatible version")
	// ErrNotReady says that a learner is too far behind to be promoted.
	ErrNotReady = errors.New("can only promote a learner member which is in sync with leader")
	// ErrNotLeader says that the member that was asked does not lead.
	ErrNotLeader = errors.New("not a primary lessor")
	// ErrBehind says that the member did not apply in time what is committed.
	ErrBehind = errors.New("waiting for node to catch up its applied index has timed out")
	// ErrTimeout says that the other member gave up on the request.
	ErrTimeout = errors.New("request timed out")
)

// Options tune a transport. A zero field takes the default named beside it.
type Options struct {
	Member       member.ID          // this member
	Cluster      member.ClusterID   // its cluster
	URLs         []string           // where other members reach this one; told to them
	LocalAddress string             // IP that connections to others come from; the kernel's choice
	TLS          func() *tls.Config // for https URLs, asked for each request; offers no protocol but http/1.1

	ReadTimeout  time.Duration // a connection that is silent for so long is lost; 5 s
	WriteTimeout time.Duration // one that takes nothing for so long, too; 5 s
	Election     time.Duration // election timeout, part of the dial timeout; 1 s

	MaxMessageBytes int // of one message or entry that comes in; 512 MiB
	MaxRemotes      int // addresses kept of who is not known as a member yet; 64
}

// Complete fills in the defaults and reports every fault.
func (o *Options) Complete() error {
	o.ReadTimeout = cmp.Or(o.ReadTimeout, 5*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 5*time.Second)
	o.Election = cmp.Or(o.Election, time.Second)
	o.MaxMessageBytes = cmp.Or(o.MaxMessageBytes, 512<<20)
	o.MaxRemotes = cmp.Or(o.MaxRemotes, 64)
	var faults []error
	for _, f := range []struct {
		wrong bool
		text  string
	}{
		{o.Member == 0, "the member has no ID"},
		{o.ReadTimeout < 0 || o.WriteTimeout < 0 || o.Election < 0, "a timeout is negative"},
		{o.LocalAddress != "" && net.ParseIP(o.LocalAddress) == nil, "the local address is no IP"},
		{o.MaxMessageBytes < 0, "the largest message is negative"},
		{o.MaxRemotes < 0, "the number of remotes is negative"},
		{
			o.TLS != nil && slices.ContainsFunc(o.TLS().NextProtos, func(p string) bool { return p != "http/1.1" }),
			"the TLS configuration offers another protocol than http/1.1",
		},
	} {
		if f.wrong {
			faults = append(faults, errors.New(f.text))
		}
	}
	for _, u := range o.URLs {
		if _, err := parseURL(u); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Raft is what the transport tells this member's raft. Its methods are called
// from many goroutines, and none but Receive blocks.
type Raft interface {
	// Deliver takes a message of another member, and owns it.
	Deliver(m *raftpb.Message)
	// Unreachable says that something sent to a member was lost.
	Unreachable(id member.ID)
	// Refused says that a member's port refuses connections: its process has ended.
	Refused(id member.ID)
	// SnapshotSent ends a SendSnapshot.
	SnapshotSent(id member.ID, ok bool)
	// Receive takes a snapshot that another member sends: the message, and the
	// database that follows it. When it returns nil the database is kept and the
	// message delivered. It may take long.
	Receive(ctx context.Context, m *raftpb.Message, image io.Reader) error
}

// Desk answers what other members ask beside raft, from many goroutines. What is
// nil is not answered, with 404.
//
// Errors that the asker acts on are ErrNotLeader, ErrBehind, ErrNotReady,
// member.ErrNotFound, member.ErrNotLearner, lease.ErrNotFound,
// mvcc.ErrCompacted and mvcc.ErrFuture.
type Desk struct {
	Members   func() []member.Member // by ID
	Versions  func() Versions
	Downgrade func(context.Context) (bool, error) // after a linearizable read
	HashKV    func(ctx context.Context, rev int64) (Hash, error)
	// Promote makes a voter of a learner. Token(ctx) is what the asker's client
	// has shown.
	Promote func(ctx context.Context, id member.ID) ([]member.Member, error)
	// Renew and TimeToLive wait a moment until what is committed is applied, else
	// they are ErrBehind.
	Renew      func(ctx context.Context, id lease.ID) (ttl int64, err error)
	TimeToLive func(ctx context.Context, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error)
}

// Versions are what a member says about itself. Cluster and Storage are empty
// as long as they are not known.
type Versions struct{ Server, Cluster, Storage string }

// Hash is the hash of the keyspace at a revision.
type Hash struct {
	Hash      uint32
	Revision  int64 // the member's present one
	Compacted int64 // to where; -1: never
	At        int64 // what the hash is of
}

// Parts are what a transport is put together from.
type Parts struct {
	Raft     Raft
	Desk     Desk
	Log      *slog.Logger          // nil: silent
	Registry prometheus.Registerer // of metrics; nil: none
}
