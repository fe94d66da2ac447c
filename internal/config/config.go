// Package config is what the operator wants: it merges defaults, a TOML file,
// the environment and the command line into one tree of typed values, says
// everything that is wrong with them at once and where, and remembers where
// each value came from. One table describes every option; flags, variables,
// file keys, help, the sample file and the reference are made from it. It
// opens nothing and starts nothing. A Config does not change once loaded.
package config

import (
	"encoding/json"
	"log/slog"
	"net/url"
	"time"
)

// ExitStatus is how a process ends whose configuration is refused: EX_CONFIG
// of sysexits.h.
const ExitStatus = 78

// DefaultFile is read when no other file is named and it exists.
const DefaultFile = "/etc/kvd/kvd.toml"

// Config is every option by what it concerns. Zeros that stand for a default
// in etcd are already replaced by that default.
type Config struct {
	Member     Member
	Listen     Listen
	Advertise  Advertise
	Cluster    Cluster
	Discovery  Discovery
	Proxy      Proxy
	Raft       Raft
	Store      Store
	Limits     Limits
	GRPC       GRPC
	HTTP       HTTP
	TLS        TLS
	ClientTLS  Certificates
	PeerTLS    Certificates
	Auth       Auth
	Compaction Compaction
	Checks     Checks
	Watch      Watch
	Log        Log
	Tracing    Tracing
	Gates      Gates
	Unsafe     Unsafe

	File     string   // the file that was read; "" for none
	Warnings []string // what is odd but no fault, for the log

	sink    legacy // takes what has no place of its own
	origins map[string]Origin
	given   map[string]bool // the options that a source set
}

// Member is the identity of this member and where it keeps its data.
type Member struct {
	Name       string
	DataDir    string
	WALDir     string // "": below DataDir
	MemoryLock bool   // keep the store's pages in memory
}

// Listen is where this member is reached.
type Listen struct {
	Peer         []url.URL
	Client       []url.URL
	ClientHTTP   []url.URL // not empty: Client serves gRPC only
	Metrics      []url.URL
	ReusePort    bool
	ReuseAddress bool
	AllowPlain   bool // beyond loopback, whatever is at stake
}

// Advertise is where others are told that this member is reached.
type Advertise struct {
	Peer   []url.URL
	Client []url.URL
}

// Cluster is how a new member finds the others.
type Cluster struct {
	Initial        InitialCluster
	State          string // "new" or "existing"
	Token          string
	StrictReconfig bool
	MaxLearners    int
}

// Discovery is how a new member finds the others through a third party.
type Discovery struct {
	Endpoints          []string
	Token              string
	DialTimeout        time.Duration
	RequestTimeout     time.Duration
	KeepAliveTime      time.Duration
	KeepAliveTimeout   time.Duration
	InsecureTransport  bool
	InsecureSkipVerify bool
	CertFile           string
	KeyFile            string
	CAFile             string
	User               string // may hold ":password"
	Password           string
	Fallback           string
	SRVDomain          string
	SRVName            string
}

// Proxy is how a process serves a cluster of which it is no member.
type Proxy struct {
	Mode        string   // "off", "on" or "readonly"; what the data directory holds decides before it
	Endpoints   []string // client URLs; empty: found by asking the members
	Refresh     time.Duration
	FailureWait time.Duration
	DialTimeout time.Duration

	Namespace      string // before all keys at the members
	LeasingPrefix  string // of the keys by which others are owned; empty: none are
	LeasingTTL     time.Duration
	CacheBytes     int64  // of answers that a watch proves current
	Ordering       bool   // no answer is older than one before
	ResolverPrefix string // of the keys at which proxies are registered; empty: not
	ResolverTTL    time.Duration
}

// Raft is the log and how members keep in touch.
type Raft struct {
	SnapshotCount          uint64 // entries between snapshots
	SnapshotCatchupEntries uint64 // entries kept behind a snapshot
	HeartbeatInterval      time.Duration
	ElectionTimeout        time.Duration
	InitialTickAdvance     bool
	PreVote                bool
	ReadTimeout            time.Duration // of connections between members
	WriteTimeout           time.Duration
	MaxSnapshots           uint // files kept; 0: all
	MaxWALs                uint // files kept; 0: all
}

// ElectionTicks is the election timeout in heartbeat intervals.
func (r Raft) ElectionTicks() int { return int(r.ElectionTimeout / r.HeartbeatInterval) }

// Store is the file that holds the keys.
type Store struct {
	QuotaBytes       int64         // negative: no quota
	FreelistType     string        // "array" or "map"
	FlushInterval    time.Duration // how long rows may wait for the store
	BatchLimit       int           // rows after which they wait no longer
	ValueCacheBytes  int64         // for the values of latest revisions
	DefragAtStartMiB uint          // defragment at start if this much is gained; 0: never
	WarnApply        time.Duration // log an apply that takes longer

	AutoDisarm        bool  // the NOSPACE alarm goes when there is space again
	DefragFreePercent uint  // defragment when so much of the file is free; 0: never
	DefragFreeBytes   int64 // and at least so much
	DefragInterval    time.Duration
}

// Limits bound what one request may ask.
type Limits struct {
	TxnOps            uint
	RequestBytes      int64
	ConcurrentStreams uint32 // of one connection
	RangeBytes        int64  // memory of all answers to ranges at once; 0: no limit
	Inflight          uint   // calls at once, of all clients together
	WarnUnary         time.Duration
}

// GRPC is how idle client connections are kept and checked.
type GRPC struct {
	KeepAliveMinTime  time.Duration
	KeepAliveInterval time.Duration // 0: no pings
	KeepAliveTimeout  time.Duration
}

// HTTP is what is served over HTTP/1 besides gRPC.
type HTTP struct {
	Gateway       bool
	CORS          []string // origins, or "*"
	HostWhitelist []string // host names, or "*"
	Pprof         bool
	Metrics       string // "basic" or "extensive"
}

// TLS is what certificates of clients and peers have in common.
type TLS struct {
	CipherSuites       []uint16 // empty: Go's choice
	MinVersion         uint16
	MaxVersion         uint16 // 0: Go's choice
	SelfSignedValidity uint   // years
}

// Certificates are the files of one side, and whom it lets in.
type Certificates struct {
	CertFile         string
	KeyFile          string
	ClientCertFile   string // shown when this member is the client
	ClientKeyFile    string
	TrustedCAFile    string
	CRLFile          string
	ClientCertAuth   bool
	AllowedCNs       []string
	AllowedHostnames []string
	SkipSANCheck     bool
	Auto             bool // make a certificate
}

// Auth is how users log in.
type Auth struct {
	Token      string
	BcryptCost int
	TokenTTL   time.Duration
}

// Compaction is how old revisions go, when asked and by itself.
type Compaction struct {
	Mode          string // "periodic" or "revision"
	Retention     string
	Window        time.Duration // periodic: how much of the past is kept; 0: off
	Revisions     int64         // revision: how many are kept; 0: off
	BatchLimit    int
	SleepInterval time.Duration
}

// Checks are the periodic checks between members.
type Checks struct {
	CorruptInterval     time.Duration // 0: off
	CompactHashInterval time.Duration
	DowngradeInterval   time.Duration
}

// Watch is how watchers are told that nothing happened.
type Watch struct {
	ProgressInterval time.Duration
	StallTimeout     time.Duration // of a client that does not read; 0: none
}

// Log is where the log goes.
type Log struct {
	Logger       string
	Level        slog.Level
	Format       string // "auto" (journal under systemd, else text), "json", "text" or "journal"
	Outputs      []string
	Rotation     bool
	Audit        string // "none", "writes" or "all"
	RotationJSON string // RotationPlan reads it
}

// Rotation is when a log file is replaced, and what stays of the old ones.
type Rotation struct {
	MaxSize    int  `json:"maxsize"`    // MiB; 0: 100
	MaxAge     int  `json:"maxage"`     // days; 0: no limit
	MaxBackups int  `json:"maxbackups"` // files; 0: no limit
	LocalTime  bool `json:"localtime"`  // in the names of old files, instead of UTC
	Compress   bool `json:"compress"`
}

// RotationPlan reads RotationJSON. In a loaded Config with Rotation it is well
// formed.
func (l Log) RotationPlan() (Rotation, error) {
	var r Rotation
	err := json.Unmarshal([]byte(l.RotationJSON), &r)
	return r, err
}

// Tracing is where spans are sent.
type Tracing struct {
	Enabled      bool
	Address      string
	ServiceName  string
	InstanceID   string
	SamplingRate int // of a million
}

// Unsafe are the options that may lose data.
type Unsafe struct {
	ForceNewCluster bool
	NoFsync         bool
}

// Layer is where a value came from; a later layer beats an earlier one.
type Layer int

// The layers, weakest first, and what was made from other options.
const (
	FromDefault Layer = iota
	FromFile
	FromEnvironment
	FromFlag
	Derived
)

// Origin is where a value came from.
type Origin struct {
	Layer Layer
	Place string // "/etc/kvd/kvd.toml:12:1", "environment KVD_NAME", "flag --name"
}

func (o Origin) String() string {
	if o.Layer == FromDefault {
		return "default"
	}
	return o.Place
}

// Origin returns where the value of an option came from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Given says whether the operator set an option, to whatever value.
func (c *Config) Given(key string) bool { return c.given[key] }
