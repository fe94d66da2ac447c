package replica

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
)

// Metrics are what a replica and its files have to tell, under etcd's names.
// They are made before the files are opened, as these report to them: LogSynced
// and LogWritten belong into wal.Options, Committed and Defragmented into
// store.Options.
type Metrics struct {
	hasLeader, isLeader     prometheus.Gauge
	leaderChanges           prometheus.Counter
	committed, applied      prometheus.Gauge
	pending                 prometheus.Gauge
	failed                  prometheus.Counter
	slowApply               prometheus.Counter
	slowReads, failedReads  prometheus.Counter
	renewed, expired        prometheus.Counter
	logSync, logWrite       prometheus.Observer
	logBytes                prometheus.Gauge
	commit                  prometheus.Observer
	rebalance, spill, write prometheus.Observer
	defragment              prometheus.Observer
	defragmenting           prometheus.Gauge
	applies                 [operations][2]prometheus.Observer // by success
	appliesVec              *prometheus.HistogramVec
	requests                [operations][2]atomic.Pointer[prometheus.Observer] // the same
	requestsVec             *prometheus.HistogramVec
	leaseTTL                prometheus.Observer

	snapEncode, snapSync, snapTotal    prometheus.Observer
	snapReceived, snapReceiveSync      prometheus.Observer
	snapApplying                       prometheus.Gauge
	sweepPiece, sweepHeld, sweepsTotal prometheus.Observer
	sweepLast                          prometheus.Gauge
	sweep                              sweep
}

// sweep is the removal of what a compaction has left, while it goes on. The
// applier owns it.
type sweep struct {
	began time.Time // zero: none goes on
	held  time.Duration
}

// NewMetrics makes the metrics and registers them; nil registers them nowhere.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	make := maker{registry}
	m := &Metrics{
		hasLeader:     make.gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not."),
		isLeader:      make.gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise."),
		leaderChanges: make.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen."),
		committed:     make.gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed."),
		applied:       make.gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied."),
		pending:       make.gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit."),
		failed:        make.counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen."),
		slowApply:     make.counter("etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk)."),
		slowReads:     make.counter("etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests."),
		failedReads:   make.counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen."),
		renewed:       make.counter("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader."),
		expired:       make.counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases."),
		logSync:       make.histogram("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.", 0.001, 14),
		logWrite:      make.histogram("etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL.", 0.001, 14),
		logBytes:      make.gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
		commit:        make.histogram("etcd_disk_backend_commit_duration_seconds", "The latency distributions of commit called by backend.", 0.001, 14),
		rebalance:     make.histogram("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "The latency distributions of commit.rebalance called by bboltdb backend.", 0.001, 14),
		spill:         make.histogram("etcd_debugging_disk_backend_commit_spill_duration_seconds", "The latency distributions of commit.spill called by bboltdb backend.", 0.001, 14),
		write:         make.histogram("etcd_debugging_disk_backend_commit_write_duration_seconds", "The latency distributions of commit.write called by bboltdb backend.", 0.001, 14),
		defragment:    make.histogram("etcd_disk_backend_defrag_duration_seconds", "The latency distribution of backend defragmentation.", 0.1, 13),
		appliesVec: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "etcd_server_apply_duration_seconds",
			Help:    "The latency distributions of v2 apply called by backend.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
		}, []string{"version", "op", "success"}),
		requestsVec:   RequestDurations(registry),
		leaseTTL:      make.histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", 1, 24),
		defragmenting: make.gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not."),

		snapEncode:      make.histogram("etcd_debugging_snap_save_marshalling_duration_seconds", "The marshalling cost distributions of save called by snapshot.", 0.001, 14),
		snapSync:        make.histogram("etcd_snap_fsync_duration_seconds", "The latency distributions of fsync called by snap.", 0.001, 14),
		snapTotal:       make.histogram("etcd_debugging_snap_save_total_duration_seconds", "The total latency distributions of save called by snapshot.", 0.001, 14),
		snapReceived:    make.histogram("etcd_snap_db_save_total_duration_seconds", "Time to save a database that another member has sent.", 0.1, 10),
		snapReceiveSync: make.histogram("etcd_snap_db_fsync_duration_seconds", "Time to sync a database that another member has sent.", 0.001, 14),
		snapApplying:    make.gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot from another member is taken over, else 0."),

		sweepPiece:  make.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of db compaction pause duration.", 1, 13),
		sweepHeld:   make.histogram("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Bucketed histogram of index compaction pause duration.", 0.5, 14),
		sweepsTotal: make.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of db compaction total duration.", 100, 14),
		sweepLast:   make.gauge("etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start."),
	}
	registry.MustRegister(m.appliesVec)
	return m
}

// RequestDurations is the family of etcd_server_request_duration_seconds, which
// is registered by whoever comes first: the replica measures what is proposed,
// the services what is only read.
func RequestDurations(registry prometheus.Registerer) *prometheus.HistogramVec {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "etcd_server_request_duration_seconds",
		Help:    "Response latency distribution in seconds for each type.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	}, []string{"type", "success"})
	var known prometheus.AlreadyRegisteredError
	switch err := registry.Register(vec); {
	case errors.As(err, &known):
		return known.ExistingCollector.(*prometheus.HistogramVec)
	case err != nil:
		panic(err) // a family of this name that is another
	}
	return vec
}

type maker struct{ registry prometheus.Registerer }

func (m maker) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m maker) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m maker) histogram(name, help string, first float64, buckets int) prometheus.Observer {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, buckets),
	})
	m.registry.MustRegister(h)
	return h
}

// LogSynced is wal.Options.OnFsync.
func (m *Metrics) LogSynced(took time.Duration) { m.logSync.Observe(took.Seconds()) }

// LogWritten is wal.Options.OnWrite.
func (m *Metrics) LogWritten(bytes int, took time.Duration) {
	m.logBytes.Add(float64(bytes))
	m.logWrite.Observe(took.Seconds())
}

// Committed is store.Options.OnCommit.
func (m *Metrics) Committed(t store.CommitTimes) {
	m.commit.Observe(t.Total.Seconds())
	m.rebalance.Observe(t.Rebalance.Seconds())
	m.spill.Observe(t.Spill.Seconds())
	m.write.Observe(t.Write.Seconds())
}

// Defragmented is store.Options.OnDefragment.
func (m *Metrics) Defragmented(took time.Duration) { m.defragment.Observe(took.Seconds()) }

func (m *Metrics) lead(known, self bool) {
	m.hasLeader.Set(number(known))
	m.isLeader.Set(number(self))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// apply counts an applied command. The applier alone calls it. Only what has
// happened is shown, so observers are made when first needed.
func (m *Metrics) apply(r *state.Request, reply any, err error, took time.Duration) {
	if r == nil {
		return
	}
	op, at := operationOf(r), 0
	if err == nil || errors.Is(err, mvcc.ErrCompacted) { // the latter as in etcd
		at = 1
	}
	slot := &m.applies[op][at]
	if *slot == nil {
		*slot = m.appliesVec.WithLabelValues("v3", operationNames[op], successNames[at])
	}
	(*slot).Observe(took.Seconds())
	if granted, ok := reply.(*state.GrantReply); ok {
		m.leaseTTL.Observe(float64(granted.TTL))
	}
}

var successNames = [2]string{"false", "true"}

// request counts a proposal. One that was refused when it was applied has
// succeeded, as in etcd: its way there is what is measured.
func (m *Metrics) request(r *state.Request, err error, took time.Duration) {
	op, at := operationOf(r), 1
	if err != nil && unanswered(err) {
		at = 0
	}
	slot := &m.requests[op][at]
	observer := slot.Load()
	if observer == nil {
		made := m.requestsVec.WithLabelValues(operationNames[op], successNames[at])
		observer = &made
		slot.Store(observer)
	}
	(*observer).Observe(took.Seconds())
}

// unanswered reports whether a proposal ended for another reason than what the
// machine said.
func unanswered(err error) bool {
	for _, reason := range []error{
		ErrStopped, ErrTooManyRequests, ErrTooLarge, ErrTimeout, ErrTimeoutLeaderFailed, ErrTimeoutConnection,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// snapshot counts a snapshot of the log, whose membership was written down
// between began and encoded. Its file is named for good when it is synced.
func (m *Metrics) snapshot(began, encoded, saved time.Time) {
	m.snapEncode.Observe(encoded.Sub(began).Seconds())
	m.snapSync.Observe(saved.Sub(encoded).Seconds())
	m.snapTotal.Observe(saved.Sub(began).Seconds())
}

// swept counts a piece of a removal, and with the last one the whole of it. The
// applier is held for one piece at a time; the index and the rows' batch are
// changed together.
func (m *Metrics) swept(began, ended time.Time, last bool) {
	s := &m.sweep
	if s.began.IsZero() {
		s.began = began
	}
	held := ended.Sub(began)
	s.held += held
	m.sweepPiece.Observe(milliseconds(held))
	if !last {
		return
	}
	m.sweepHeld.Observe(milliseconds(s.held))
	m.sweepsTotal.Observe(milliseconds(ended.Sub(s.began)))
	m.sweepLast.Set(float64(ended.Unix()))
	*s = sweep{}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// operation is a command by the name that etcd's metrics have for it.
type operation int

const (
	opUnknown operation = iota
	opPut
	opTxn
	opRange
	opDelete
	opCompact
	opGrant
	opRevoke
	opCheckpoint
	opAlarm
	opVersion
	opAttributes
	opDowngrade
	opAuthenticate
	opAuthEnable
	opAuthDisable
	opAuthStatus
	opUserAdd
	opUserDelete
	opUserPassword
	opUserGrant
	opUserGet
	opUserRevoke
	opRoleAdd
	opRoleGrant
	opRoleGet
	opRoleRevoke
	opRoleDelete
	opUserList
	opRoleList
	operations
)

var operationNames = [operations]string{
	"unknown", "Put", "Txn", "Range", "DeleteRange", "Compaction", "LeaseGrant", "LeaseRevoke",
	"LeaseCheckpoint", "Alarm", "ClusterVersionSet", "ClusterMemberAttrSet", "DowngradeInfoSet",
	"Authenticate", "AuthEnable", "AuthDisable", "AuthStatus",
	"AuthUserAdd", "AuthUserDelete", "AuthUserChangePassword", "AuthUserGrantRole", "AuthUserGet", "AuthUserRevokeRole",
	"AuthRoleAdd", "AuthRoleGrantPermission", "AuthRoleGet", "AuthRoleRevokePermission", "AuthRoleDelete",
	"AuthUserList", "AuthRoleList",
}

func (o operation) String() string { return operationNames[o] }

func operationOf(r *state.Request) operation {
	switch {
	case r == nil:
		return opUnknown
	case r.Put != nil:
		return opPut
	case r.Txn != nil:
		return opTxn
	case r.Range != nil:
		return opRange
	case r.DeleteRange != nil:
		return opDelete
	case r.Compaction != nil:
		return opCompact
	case r.LeaseGrant != nil:
		return opGrant
	case r.LeaseRevoke != nil:
		return opRevoke
	case r.LeaseCheckpoint != nil:
		return opCheckpoint
	case r.Alarm != nil:
		return opAlarm
	case r.ClusterVersionSet != nil:
		return opVersion
	case r.ClusterMemberAttrSet != nil:
		return opAttributes
	case r.DowngradeInfoSet != nil:
		return opDowngrade
	case r.Authenticate != nil:
		return opAuthenticate
	}
	return authOperationOf(r)
}

// authOperationOf is operationOf for what manages users and roles.
func authOperationOf(r *state.Request) operation {
	for _, o := range [...]struct {
		is bool
		as operation
	}{
		{r.AuthEnable != nil, opAuthEnable},
		{r.AuthDisable != nil, opAuthDisable},
		{r.AuthStatus != nil, opAuthStatus},
		{r.AuthUserAdd != nil, opUserAdd},
		{r.AuthUserDelete != nil, opUserDelete},
		{r.AuthUserChangePassword != nil, opUserPassword},
		{r.AuthUserGrantRole != nil, opUserGrant},
		{r.AuthUserGet != nil, opUserGet},
		{r.AuthUserRevokeRole != nil, opUserRevoke},
		{r.AuthRoleAdd != nil, opRoleAdd},
		{r.AuthRoleGrantPermission != nil, opRoleGrant},
		{r.AuthRoleGet != nil, opRoleGet},
		{r.AuthRoleRevokePermission != nil, opRoleRevoke},
		{r.AuthRoleDelete != nil, opRoleDelete},
		{r.AuthUserList != nil, opUserList},
		{r.AuthRoleList != nil, opRoleList},
	} {
		if o.is {
			return o.as
		}
	}
	return opUnknown
}
