// Package state is the replicated machine: it runs the commands of the log, in
// log order, over the keyspace, the leases, the users, the members and the alarms, and
// says what came of each: a reply, events, rows.
//
// It is pure: a result depends on the machine and the entry alone, so that
// every member that applies the same log holds the same state. One goroutine,
// the applier, owns a Machine; anybody may read the Views it hands out. It
// knows no client, no disk and no clock.
package state

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/auth"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/store"
)

var (
	// ErrKeyNotFound says that ignore_value or ignore_lease was asked for on a
	// key that does not exist.
	ErrKeyNotFound = errors.New("key not found")
	// ErrNoSpace says that a NOSPACE alarm is raised.
	ErrNoSpace = errors.New("database space exceeded")
	// ErrCorrupt says that a CORRUPT alarm is raised.
	ErrCorrupt = errors.New("corrupt cluster")
)

// UnknownCommandError is an entry that this version cannot run. Going on
// without it would part this member from the others: the process must stop.
type UnknownCommandError struct {
	Index  uint64
	Reason string
}

func (e *UnknownCommandError) Error() string {
	return fmt.Sprintf("log entry %d cannot be applied: %s; start a version that knows it on this data directory", e.Index, e.Reason)
}

// Options tune a machine. They must be equal on all members of a cluster.
type Options struct {
	Keys        mvcc.Options
	MinLeaseTTL int64 // seconds; a shorter lease is granted this; 1
	MaxLearners int   // 1; negative: none
	// HashPassword hashes a password that a member before etcd 3.5 left in the
	// log. Without it such entries are refused. It is the one thing that makes
	// members differ: as they do in etcd.
	HashPassword func(string) ([]byte, error)
}

// Machine is the state after some entry of the log.
type Machine struct {
	options Options
	keys    *mvcc.Keyspace
	leases  *lease.Book
	users   *auth.Book
	members *member.Book
	alarms  []Alarm // by type, then member; replaced on change, never edited
	batch   *store.Batch
	applied uint64
	term    uint64
	counts  Counts
	reads   *reads
}

// Entry is one entry of the log. With neither Request nor Change it is the
// empty one that a new leader begins its term with.
type Entry struct {
	Index, Term uint64
	Request     *Request
	Change      *raftpb.ConfChange
	Wanted      bool // somebody waits for the reply
}

// Outcome is what came of an entry.
type Outcome struct {
	Reply    any                // one of the replies of this package; nil if Err is not
	Err      error              // the command was refused; nothing changed
	Fatal    error              // the member must stop before it applies anything else
	Revision int64              // of Events
	Events   []*mvcc.Event      // changes of keys, in order
	Change   *raftpb.ConfChange // for raft; its node is 0 if the change was refused
	Leases   []LeaseChange      // for whoever keeps the deadlines
	Tokens   []TokenChange      // for whoever knows the tokens
	// AfterSweep says that the reply may only be given once the compaction's
	// removals are complete and on disk.
	AfterSweep bool
}

// LeaseChange tells of a lease that was granted, ended, or given a new
// remaining time.
type LeaseChange struct {
	Lease lease.Lease
	Ended bool
}

// TokenChange tells of a token that a user got; without a token, that those of
// the user are void; without a user, that all are.
type TokenChange struct{ User, Token string }

// Load reads a machine from r, which must be one moment of what rows opens
// later. The key index may be passed in if it has been read already, in
// parallel; without, it is read here.
func Load(r store.Reader, rows mvcc.Rows, o Options, whole ...*mvcc.Whole) (_ *Machine, err error) {
	defer store.Catch(&err)
	m := &Machine{options: o, batch: &store.Batch{}, reads: &reads{}}
	switch n := m.options.MaxLearners; {
	case n == 0:
		m.options.MaxLearners = 1
	case n < 0:
		m.options.MaxLearners = 0
	}
	if m.users, err = auth.Load(r); err != nil {
		return nil, fmt.Errorf("load users: %w", err)
	}
	m.users.Begin(m.batch)
	if m.members, err = member.Load(r); err != nil {
		return nil, fmt.Errorf("load members: %w", err)
	}
	if m.alarms, err = loadAlarms(r); err != nil {
		return nil, fmt.Errorf("load alarms: %w", err)
	}
	if m.leases, err = lease.Load(r); err != nil {
		return nil, fmt.Errorf("load leases: %w", err)
	}
	m.leases.Raise(o.MinLeaseTTL)
	attach := func(key string, id int64) { m.leases.Attach(lease.ID(id), key) }
	if len(whole) > 0 {
		m.keys, err = mvcc.Assemble(o.Keys, rows, r, attach, whole[0])
	} else {
		m.keys, err = mvcc.Load(o.Keys, rows, r, attach)
	}
	if err != nil {
		return nil, fmt.Errorf("load keys: %w", err)
	}
	m.keys.Use(m.batch)
	stamp := r.Stamp()
	m.applied, m.term = stamp.Index, stamp.Term
	return m, nil
}

// Applied is the index and term of the last entry applied.
func (m *Machine) Applied() (index, term uint64) { return m.applied, m.term }

// Members is the membership book, for reading.
func (m *Machine) Members() *member.Book { return m.members }

// Take returns the rows left since the last Take, nil if there are none.
func (m *Machine) Take() *store.Batch {
	if m.batch.Len() == 0 {
		return nil
	}
	taken := m.batch
	m.batch = &store.Batch{}
	m.keys.Use(m.batch)
	return taken
}

// Stored tells that the rows of all revisions up to rev are on disk.
func (m *Machine) Stored(rev int64) { m.keys.Stored(rev) }

// Revision is the newest revision of the keyspace.
func (m *Machine) Revision() int64 { return m.keys.Revision() }

// Sweep does a piece of the last compaction's removals, of up to limit records.
// It reports whether there is more to do. When it runs changes no answer. An
// error means that the store cannot be read.
func (m *Machine) Sweep(limit int) (more bool, err error) { return m.keys.Sweep(limit) }

// Tidy keeps the value cache within its budget. Call it now and then.
func (m *Machine) Tidy() { m.keys.Tidy() }

// Retire tells who still reads this machine's views that another machine, read
// from another store, takes its place.
func (m *Machine) Retire() { m.keys.Retire() }

// Apply runs one entry. Entries come in order and without a gap.
func (m *Machine) Apply(e Entry) Outcome {
	if e.Index != m.applied+1 {
		panic(fmt.Sprintf("state: entry %d after %d", e.Index, m.applied))
	}
	m.applied, m.term = e.Index, e.Term
	switch {
	case e.Change != nil:
		return m.change(e.Change)
	case e.Request == nil:
		return Outcome{}
	}
	if err := m.admit(e.Request); err != nil {
		return Outcome{Err: err}
	}
	if err := m.permit(e.Request); err != nil {
		return Outcome{Err: err}
	}
	return m.run(e)
}

// run is one line a command.
func (m *Machine) run(e Entry) Outcome {
	switch r := e.Request; {
	case r.Put != nil:
		return m.put(r.Put)
	case r.Txn != nil:
		return m.txn(r.Txn, e.Wanted)
	case r.DeleteRange != nil:
		return m.deleteRange(r.DeleteRange)
	case r.Range != nil:
		return m.rangeInLog(r.Range, e.Wanted)
	case r.Compaction != nil:
		return m.compact(r.Compaction)
	case r.LeaseGrant != nil:
		return m.grant(r.LeaseGrant)
	case r.LeaseRevoke != nil:
		return m.revoke(r.LeaseRevoke)
	case r.LeaseCheckpoint != nil:
		return m.checkpoint(r.LeaseCheckpoint)
	case r.Alarm != nil:
		return m.alarm(r.Alarm)
	case r.ClusterVersionSet != nil:
		return m.setVersion(e.Index, r.ClusterVersionSet)
	case r.ClusterMemberAttrSet != nil:
		return m.setAttributes(e.Index, r.ClusterMemberAttrSet)
	case r.DowngradeInfoSet != nil:
		return m.setDowngrade(r.DowngradeInfoSet)
	case r.DowngradeVersionTest != nil:
		return Outcome{Reply: m.done()}
	case r.Authenticate != nil:
		return m.authenticate(e.Index, r.Authenticate)
	default:
		if out, known := m.manage(r); known {
			return out
		}
		return Outcome{Fatal: &UnknownCommandError{e.Index, "it holds a command that this version does not know"}}
	}
}

func (m *Machine) done() *DoneReply { return &DoneReply{Revision: m.keys.Revision()} }

// admit refuses what the alarms forbid; a corrupt cluster is the graver reason.
func (m *Machine) admit(r *Request) error {
	raised := func(kind pb.AlarmType) bool {
		return slices.ContainsFunc(m.alarms, func(a Alarm) bool { return a.Type == kind })
	}
	switch {
	case len(m.alarms) == 0:
		return nil
	case corruptForbids(r) && raised(pb.AlarmType_CORRUPT):
		return ErrCorrupt
	case Cost(r) > 0 && raised(pb.AlarmType_NOSPACE):
		return ErrNoSpace
	}
	return nil
}

func corruptForbids(r *Request) bool {
	return r.Put != nil || r.Txn != nil || r.DeleteRange != nil || r.Range != nil || r.Compaction != nil ||
		r.LeaseGrant != nil || r.LeaseRevoke != nil
}

// What a request is reckoned to add to the database, in bytes (etcd's figures).
const (
	leaseCost   = 64
	keyOverhead = 256
)

// Cost estimates the bytes that r adds to the database; 0 for what is always
// allowed.
func Cost(r *Request) int64 {
	switch {
	case r.Put != nil:
		return putCost(r.Put)
	case r.Txn != nil:
		return txnCost(r.Txn)
	case r.LeaseGrant != nil:
		return leaseCost
	default:
		return 0
	}
}

func putCost(r *pb.PutRequest) int64 { return keyOverhead + int64(len(r.Key)) + int64(len(r.Value)) }

func txnCost(r *pb.TxnRequest) int64 { return max(opsCost(r.Success), opsCost(r.Failure)) }

func opsCost(ops []*pb.RequestOp) (sum int64) {
	for _, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			if o.RequestPut != nil {
				sum += putCost(o.RequestPut)
			}
		case *pb.RequestOp_RequestTxn:
			if o.RequestTxn != nil {
				sum += txnCost(o.RequestTxn)
			}
		}
	}
	return sum
}
