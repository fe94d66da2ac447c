// Package api serves etcd's v3 gRPC services for one member: who may call what,
// whether a request is well formed, which code and text an error gets, and how
// requests and replies are written on the wire.
//
// It decides nothing about keys, leases or members: it asks the member, through
// the few verbs of Member, the watch hub, and through Peers the leader. It knows no listener's address
// and no TLS: connections come in ready.
package api

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/stats"

	"kvd/internal/credential"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/replica"
	"kvd/internal/sender"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/watch"
)

// Member is what the services ask of this member's copy; a Replica is one. All
// methods are for any goroutine.
type Member interface {
	// Propose runs a command through the log and returns its reply. Raw, if
	// not nil, is the request's one member as it came from the client.
	Propose(ctx context.Context, req *state.Request, raw []byte) (any, error)
	// Barrier returns once View holds every write that was acknowledged
	// before the call.
	Barrier(ctx context.Context) error
	View() *state.View
	Status() replica.Status
	// Renew lets a lease live for its time from now, and returns that.
	Renew(ctx context.Context, id lease.ID) (ttl int64, err error)
	// RenewNow does so for the first of some leases, as many as it can renew at
	// once, and returns how many.
	RenewNow(ctx context.Context, ids []lease.ID, ttls []int64) (n int, err error)
	// Remaining is how long a lease has left.
	Remaining(ctx context.Context, id lease.ID) (time.Duration, error)
	// Leases are all leases, on the leader in the order in which they end.
	Leases(ctx context.Context) ([]lease.ID, error)
	// Change changes the members; View shows it then.
	Change(ctx context.Context, c member.Change) error
	// Progress is the last entry that each member is known to have, this one
	// included. Only the leader knows.
	Progress(ctx context.Context) (map[member.ID]uint64, error)
	Transfer(ctx context.Context, to member.ID) error
	// Flush returns once every row applied before the call is in the store.
	Flush(ctx context.Context) error
	Copy(ctx context.Context) (*store.Copy, error)
	Defragment(ctx context.Context) error
	// Pending is the bytes that wait to be written to the store.
	Pending() int
}

// Store is what the services ask of the database file.
type Store interface {
	Size() int64           // bytes, free pages included
	InUse() int64          // bytes
	Hash() (uint32, error) // of all rows; the caller has flushed
}

// Options tune the services. A zero field takes the default named beside it.
type Options struct {
	MaxTxnOps        int           // operations in a transaction; 128
	MaxRequestBytes  int           // one request in the log; 1.5 MiB
	Audit            Audit         // which calls are written down; none
	RangeBytes       int64         // memory of all answers to ranges at once; 0: no limit
	MaxInflight      int           // calls at once, of all clients together; 16384
	MaxStreams       uint32        // streams at once on one connection; no limit
	QuotaBytes       int64         // bytes in use in the database that raise the alarm; 2 GiB; negative: none
	WatchStall       time.Duration // a watch stream that takes longer to take a message is ended; 5 min; negative: never
	ProgressInterval time.Duration // between progress messages of a quiet watcher; 10 min, at least 100 ms
	SlowRequest      time.Duration // a unary call that takes longer is logged; 300 ms
	Election         time.Duration // election timeout: streams that need a leader end after three without one; 1 s
	RequestTimeout   time.Duration // for the leader's answer to what is passed on to it; 5 s and two election timeouts
	Strict           bool          // refuse changes of members that the present health does not allow
	Grace            time.Duration // how long calls may finish after the end; 7 s
	KeepAliveMin     time.Duration // a client that pings more often is disconnected; 5 s
	KeepAlive        time.Duration // an idle connection is pinged after this; 2 h
	KeepAliveTimeout time.Duration // and closed if no answer comes within this; 20 s
	Exposed          []string      // plain ports that other machines reach and that nobody has allowed: while there are any, authentication is not switched on
	ClientCertAuth   bool          // a client may show who it is by the common name of its certificate
	RefuseOnDefrag   bool          // the gRPC health service says not serving during a defragmentation
	Extensive        bool          // also a histogram of handling times per method
}

func (o Options) complete() Options {
	o.MaxTxnOps = or(o.MaxTxnOps, 128)
	o.MaxRequestBytes = or(o.MaxRequestBytes, 3<<19)
	o.MaxInflight = or(o.MaxInflight, 16384)
	o.QuotaBytes = or(o.QuotaBytes, 2<<30)
	o.ProgressInterval = max(or(o.ProgressInterval, 10*time.Minute), 100*time.Millisecond)
	o.WatchStall = or(o.WatchStall, 5*time.Minute)
	o.SlowRequest = or(o.SlowRequest, 300*time.Millisecond)
	o.Election = or(o.Election, time.Second)
	o.RequestTimeout = or(o.RequestTimeout, 5*time.Second+2*o.Election)
	o.Grace = or(o.Grace, 7*time.Second)
	o.KeepAliveMin = or(o.KeepAliveMin, 5*time.Second)
	o.KeepAlive = or(o.KeepAlive, 2*time.Hour)
	o.KeepAliveTimeout = or(o.KeepAliveTimeout, 20*time.Second)
	return o
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// overhead is what a message may have beyond the largest request.
const overhead = 512 << 10

// Parts are what the services are made over.
type Parts struct {
	Member Member
	Peers  Peers // nil: the member is alone
	Hub    *watch.Hub
	Store  Store
	// Passwords and Tokens find out who calls, once authentication is on.
	// Whoever applies the log tells Tokens of changes.
	Passwords *credential.Passwords
	Tokens    Tokens
	Cluster   member.ClusterID
	ID        member.ID
	Log       *slog.Logger
	Registry  prometheus.Registerer
	Stats     stats.Handler    // hears of every call over the network; nil: nobody does
	Tracer    oteltrace.Tracer // for the spans inside a call; nil: none
}

// API is the services of one member. Make it with New, then Run it.
type API struct {
	o         Options
	member    Member
	peers     Peers
	hub       *watch.Hub
	store     Store
	passwords *credential.Passwords
	tokens    Tokens
	cluster   member.ClusterID
	id        member.ID
	log       *slog.Logger
	metrics   *metrics
	senders   sender.Pool // of all watch streams
	lastSent  atomic.Pointer[lastEvents]
	traced    bool // calls may have a span
	leaseIDs  *replica.IDs
	gate      *gate
	budget    *budget
	health    *health.Server
	server    *grpc.Server
	watching  sinks
	streams   streams // those that end before their clients want it
	locals    *locals // calls from within the process
}

// New makes the services; nothing is served before Run.
func New(o Options, p Parts) *API {
	a := &API{
		o: o.complete(), member: timed{p.Member, p.Tracer}, hub: p.Hub, store: p.Store,
		passwords: p.Passwords, tokens: p.Tokens,
		cluster: p.Cluster, id: p.ID, log: p.Log,
		metrics: newMetrics(p.Registry, o.Extensive),
		health:  health.NewServer(),
	}
	a.traced = p.Tracer != nil
	a.leaseIDs = replica.NewIDs(uint64(p.ID), time.Now())
	a.budget = &budget{limit: a.o.RangeBytes}
	a.gate = newGate(a.o.MaxInflight)
	a.metrics.watchGate(p.Registry, a.gate)
	a.metrics.watchBudget(p.Registry, a.budget)
	if a.peers = p.Peers; a.peers == nil {
		a.peers = nobody{}
	}
	server := a.options()
	if p.Stats != nil {
		server = append(server, grpc.StatsHandler(p.Stats))
	}
	a.server = grpc.NewServer(server...)
	services := a.services()
	for _, s := range services {
		a.server.RegisterService(s, a)
	}
	a.locals = newLocals(services)
	return a
}

// header is what replies built on v carry, but for a revision of their own.
func (a *API) header(v *state.View) state.Header {
	return state.Header{Cluster: uint64(a.cluster), Member: uint64(a.id), Revision: v.Keys.Revision(), Term: v.Term}
}
