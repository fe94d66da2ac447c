// Package upkeep is what a member does for its cluster unasked: the leader
// agrees on the cluster's version, ends a downgrade that is done, and compares
// the members' data; every member watches for the finding that it is corrupt and
// for its space: it lowers its NOSPACE alarm when there is some again, and
// defragments its database, one member after the other.
//
// It decides and proposes. It does not know how other members are reached
// (Others), and it changes nothing but through the log.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/member"
	"kvd/internal/replica"
	"kvd/internal/state"
)

// Member is what upkeep needs of this member. All methods may be called from
// any goroutine.
type Member interface {
	View() *state.View
	Status() replica.Status
	// Propose puts a command into the log and returns when it is applied.
	Propose(ctx context.Context, request *state.Request, raw []byte) (any, error)
	// Barrier returns when View holds every write acknowledged before the call.
	Barrier(ctx context.Context) error
	// Flush returns when the rows of View are on disk.
	Flush(ctx context.Context) error
}

// Others asks other members, by whichever of their URLs answers. Calls run at
// once, one for a member, and end with ctx. What goes wrong is an error; it
// says which member only if that is not the one that was asked.
type Others interface {
	// Version is the version of the program that the member runs, as it says.
	Version(ctx context.Context, m member.Member) (string, error)
	// HashKV is the member's hash at a revision. The errors for a revision that
	// it has not reached, or has compacted, wrap mvcc.ErrFuture and
	// mvcc.ErrCompacted.
	HashKV(ctx context.Context, m member.Member, rev int64) (Hash, error)
}

// Hash is a member's hash of the keyspace.
type Hash struct {
	Hash      uint32
	Revision  int64 // the member's newest when it answered
	Compacted int64 // what the hash leaves out: up to this revision; -1: nothing
	At        int64 // the revision that was hashed
}

// Options tune upkeep. A zero field takes the default named beside it, but for
// those that can be switched off.
type Options struct {
	Version          string        // of this program, as others are told; state.ClusterVersion
	VersionInterval  time.Duration // between two looks at the members' versions; 4 s
	DowngradeCheck   time.Duration // between two looks at whether a downgrade is done; 5 s
	CorruptCheck     time.Duration // between two comparisons of the data; 0: never
	CompactHashCheck time.Duration // between two comparisons of compactions' hashes; 0: never
	AskTimeout       time.Duration // for another member's version; 2 s
	HashTimeout      time.Duration // for its hash, for which it may read all of its data; 30 s
	RequestTimeout   time.Duration // for proposals and barriers; 7 s

	QuotaBytes        int64         // what Space.Used is judged by; 0 and below: no quota
	ManualDisarm      bool          // the NOSPACE alarm stays until somebody lowers it
	SpaceInterval     time.Duration // between two looks at the space; 1 s
	DefragFreePercent int           // defragment when so much of the file is free; 0: never
	DefragFreeBytes   int64         // and at least so much
	DefragInterval    time.Duration // between two looks at that; 1 min
}

func (o *Options) complete() error {
	for _, f := range []struct {
		field    *time.Duration
		standard time.Duration
	}{
		{&o.VersionInterval, 4 * time.Second},
		{&o.DowngradeCheck, 5 * time.Second},
		{&o.AskTimeout, 2 * time.Second},
		{&o.HashTimeout, 30 * time.Second},
		{&o.RequestTimeout, 7 * time.Second},
		{&o.SpaceInterval, time.Second},
		{&o.DefragInterval, time.Minute},
	} {
		if *f.field == 0 {
			*f.field = f.standard
		}
	}
	if o.Version == "" {
		o.Version = state.ClusterVersion.String()
	}
	if _, err := parseServer(o.Version); err != nil {
		return err
	}
	for _, d := range []time.Duration{o.VersionInterval, o.DowngradeCheck, o.CorruptCheck, o.CompactHashCheck, o.AskTimeout, o.HashTimeout, o.RequestTimeout, o.SpaceInterval, o.DefragInterval} {
		if d < 0 {
			return errors.New("a time is negative")
		}
	}
	return nil
}

// Parts are what an Upkeep is put together from.
type Parts struct {
	Member Member
	Others Others
	ID     member.ID // this member's
	// Corrupt is told the members that are alarmed as corrupt whenever they
	// change, 0 standing for the whole cluster; empty: none is any more. It must
	// not block. May be nil.
	Corrupt func(members []member.ID)
	// Promote asks the leader to give this member, a learner, its vote. It is
	// called again and again until that is done. Nil: others see to that, or
	// nobody is to.
	Promote func(ctx context.Context) error
	// Joined is told once when this member is in the cluster as it is to be: with
	// a vote, if Promote is there. May be nil.
	Joined func()
	// Space measures the database. Nil: nobody looks after its space.
	Space func() Space
	// Filled is told when the database gets near its quota, or away from it. It
	// must not block. Nil if Space is.
	Filled func(fill Fill, used int64)
	// Room says why the disk has no place for a copy of so many bytes, and
	// Defragment makes one and puts it in place. Nil if Space is.
	Room       func(bytes int64) error
	Defragment func(ctx context.Context) error

	Log      *slog.Logger          // nil: no logging
	Registry prometheus.Registerer // nil: not measured
}

// Upkeep is a member's upkeep.
type Upkeep struct {
	o       Options
	parts   Parts
	member  Member
	others  Others
	id      member.ID
	corrupt func([]member.ID)
	promote func(context.Context) error
	joined  func()
	log     *slog.Logger
	metrics *metrics

	nudged  chan struct{} // of one: look at the cluster version at once
	changed chan struct{} // of one: look at the view at once
	agreed  chan struct{} // closed when the cluster has a version
	said    said          // owned by versions
	room    room          // owned by space
	checked int64         // newest compaction that all members agree on; owned by compactions
}

// New puts an Upkeep together. Run starts it.
func New(o Options, p Parts) (*Upkeep, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("upkeep: %w", err)
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.Corrupt == nil {
		p.Corrupt = func([]member.ID) {}
	}
	u := &Upkeep{
		o: o, parts: p, member: p.Member, others: p.Others, id: p.ID, corrupt: p.Corrupt, promote: p.Promote, joined: p.Joined,
		log: p.Log.With("local-member-id", p.ID.String()), metrics: newMetrics(p.Registry),
		nudged: make(chan struct{}, 1), changed: make(chan struct{}, 1), agreed: make(chan struct{}),
		said: said{},
	}
	return u, nil
}

// Nudge makes the leader look at the cluster version now, rather than at its
// next look. For any goroutine.
func (u *Upkeep) Nudge() {
	wake(u.nudged)
	wake(u.changed)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is about to look
	}
}

// Agreed is closed when the cluster has a version: before that its members may
// be without parts of the API. Run must be running.
func (u *Upkeep) Agreed() <-chan struct{} { return u.agreed }

// Run does the upkeep until ctx ends, and returns nil then. It may be called
// once. What cannot be done now is logged and tried again.
func (u *Upkeep) Run(ctx context.Context) error {
	before := u.member.View().Members.ClusterVersion() // now, as a duty may set it before another has begun
	observe := func(ctx context.Context) { u.observe(ctx, before) }
	duties := []func(context.Context){u.versions, u.downgrades, observe}
	if u.promote != nil || u.joined != nil {
		duties = append(duties, u.arrive)
	}
	if u.o.CorruptCheck > 0 {
		u.log.Info("enabled corruption checking", "interval", u.o.CorruptCheck)
		duties = append(duties, u.comparisons)
	}
	if u.o.CompactHashCheck > 0 {
		u.log.Info("enabled compaction hash checking", "interval", u.o.CompactHashCheck)
		duties = append(duties, u.compactions)
	}
	if u.parts.Space != nil {
		duties = append(duties, u.space)
		if u.o.DefragFreePercent > 0 {
			duties = append(duties, u.tidying)
		}
	}
	var all sync.WaitGroup
	for _, duty := range duties {
		all.Go(func() { duty(ctx) })
	}
	all.Wait()
	return nil
}

// leading is the term in which this member leads and has applied an entry, so
// that its view is the cluster's newest; 0 if it does not lead.
func (u *Upkeep) leading() uint64 {
	s := u.member.Status()
	if !s.Leading() || u.member.View().Term != s.Term {
		return 0
	}
	return s.Term
}

// peers are the other members that can be asked, learners included.
func (u *Upkeep) peers(v *state.View) []member.Member {
	return others(v.Members.Members(), u.id)
}

func others(all []member.Member, self member.ID) []member.Member {
	var others []member.Member
	for _, m := range all {
		if m.ID != self && len(m.PeerURLs) > 0 {
			others = append(others, m)
		}
	}
	return others
}

// each asks all members at once, and returns their answers in their order.
func each[T any](members []member.Member, ask func(member.Member) T) []T {
	answers := make([]T, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { answers[i] = ask(m) })
	}
	all.Wait()
	return answers
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (u *Upkeep) propose(ctx context.Context, r *state.Request) error {
	ctx, cancel := context.WithTimeout(ctx, u.o.RequestTimeout)
	defer cancel()
	_, err := u.member.Propose(ctx, r, nil)
	return err
}
