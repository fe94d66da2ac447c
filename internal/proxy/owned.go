package proxy

import (
	"container/list"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	maxOwned   = 10000           // keys that are owned, about to be, or being given up
	ownedBytes = 64 << 20        // of their values
	maxResting = 10000           // keys that are not asked for again so soon
	restFor    = 2 * time.Second // after somebody else has wanted a key; as etcd's
	maxPast    = 16              // sessions that are remembered: their leases may outlive them
	readOnce   = 4096            // keys that are remembered for having been read once
	entrySize  = 256             // what a key costs beside its bytes
)

// owned are the keys that this proxy owns in the leasing protocol: nobody who
// keeps to the protocol writes one before it is given up. It is a table with a
// lock, and asks nobody.
type owned struct {
	mu       sync.Mutex
	watching bool    // the ownership keys are watched, so that we hear who wants one
	session  int64   // the lease of the ownership keys; 0: there is none
	past     []int64 // leases of sessions that are over; the last maxPast
	trust    trust

	all     map[string]*entry
	order   *list.List // of *entry, those read last in front
	bytes   int
	asking  map[string]*acquisition
	leaving map[string]int64     // ownership keys to delete, by key: their create revision
	wake    chan struct{}        // one signal: leaving has grown
	resting map[string]time.Time // since when
	swept   time.Time            // when those were removed that have rested
	once    map[string]bool      // read lately, and not owned

	head     []byte // the newest header of any answer
	revision int64  // and the revision in it
}

// entry is a key that is owned.
type entry struct {
	key     string
	created int64 // create revision of the ownership key
	place   *list.Element
	writes  int   // of ours, under way: what the key holds is not known until they are answered
	changes int64 // grows with each of them
	known   bool  // kv and whole are what the key holds
	kv      *mvccpb.KeyValue
	whole   []byte // the range response of it, all but the header
}

func (e *entry) size() int { return 2*len(e.key) + 2*len(e.whole) + entrySize }

// acquisition is that a key is being asked for.
type acquisition struct {
	key     string
	session int64
	lost    int64 // the newest revision at which somebody has wanted or deleted its ownership key
}

// ticket is that a reader is about to learn what an owned key holds.
type ticket struct {
	entry   *entry
	changes int64
}

func newOwned() *owned {
	o := &owned{order: list.New(), wake: make(chan struct{}, 1)}
	o.emptyLocked()
	return o
}

func (o *owned) emptyLocked() {
	if o.session != 0 {
		o.past = append(o.past, o.session)
		o.past = o.past[max(0, len(o.past)-maxPast):]
	}
	o.all, o.asking, o.leaving = map[string]*entry{}, map[string]*acquisition{}, map[string]int64{}
	o.resting, o.once = map[string]time.Time{}, map[string]bool{}
	o.order.Init()
	o.bytes, o.session, o.trust = 0, 0, trust{}
}

// open begins a session: from now on keys may be owned by its lease.
func (o *owned) open(session int64, t trust) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session, o.trust = session, t
}

// renew prolongs the trust in a session.
func (o *owned) renew(session int64, t trust) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.session == session {
		o.trust = t
	}
}

// drop forgets a session with all that it owned.
func (o *owned) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.emptyLocked()
}

func (o *owned) watch(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watching = on
}

// see takes note of an answer's header.
func (o *owned) see(head []byte) {
	revision := revisionIn(head)
	o.mu.Lock()
	defer o.mu.Unlock()
	if revision > o.revision {
		o.head, o.revision = append([]byte(nil), head...), revision
	}
}

// read answers a range of one key, if the key is owned, what it holds is known,
// and nobody else can have written it by now. Else there may be a ticket.
func (o *owned) read(key string, r *pb.RangeRequest) (answer []byte, t *ticket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[key]
	if e == nil || !o.trust.holds(time.Now()) { // looked at after the request has come, and before the answer goes
		return nil, nil
	}
	o.order.MoveToFront(e.place)
	switch {
	case e.writes > 0:
		return nil, nil
	case !e.known:
		return nil, &ticket{e, e.changes}
	case r.KeysOnly || r.CountOnly:
		return composed(o.head, kvAsked(e.kv, r), e.kv != nil), nil
	}
	answer = make([]byte, 0, len(o.head)+len(e.whole)+8)
	return append(withHeader(answer, o.head), e.whole...), nil
}

// learn keeps what a reader with a ticket was told, if nothing has come between.
func (o *owned) learn(t *ticket, kv *mvccpb.KeyValue) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := t.entry
	if o.all[e.key] == e && e.writes == 0 && e.changes == t.changes {
		o.holdLocked(e, kv)
	}
}

// holdLocked keeps what a key holds. What has a lease is given up: it may vanish
// without anybody's writing it; and so is what is too big.
func (o *owned) holdLocked(e *entry, kv *mvccpb.KeyValue) {
	if kv.GetLease() != 0 {
		o.giveUpLocked(e)
		return
	}
	o.bytes -= e.size()
	e.kv, e.whole, e.known = kv, composed(nil, kv, kv != nil), true
	o.bytes += e.size()
	if e.size() > ownedBytes/4 {
		o.giveUpLocked(e)
		return
	}
	for o.bytes > ownedBytes {
		o.giveUpLocked(o.order.Back().Value.(*entry))
	}
}

// ask reports that a key may be asked for, and notes that it is. A key is worth a
// write at the members when it is read for the second time.
func (o *owned) ask(key string) *acquisition {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.session == 0 || !o.watching || o.all[key] != nil || o.asking[key] != nil || !o.trust.holds(time.Now()):
		return nil
	case o.leaving[key] != 0, o.restsLocked(key):
		return nil
	case !o.once[key]:
		if len(o.once) >= readOnce {
			clear(o.once)
		}
		o.once[key] = true
		return nil
	case len(o.all)+len(o.asking)+len(o.leaving) >= maxOwned:
		if last := o.order.Back(); last != nil {
			o.giveUpLocked(last.Value.(*entry))
		}
		return nil
	}
	delete(o.once, key)
	a := &acquisition{key: key, session: o.session}
	o.asking[key] = a
	return a
}

// refused is that a key was not had, or that it is not known.
func (o *owned) refused(a *acquisition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asking[a.key] == a {
		delete(o.asking, a.key)
		o.restLocked(a.key)
	}
}

// add is that a key is owned since a revision, at which it held kv.
func (o *owned) add(a *acquisition, created int64, kv *mvccpb.KeyValue) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asking[a.key] != a || o.session != a.session {
		return // its session is over, and with it the ownership
	}
	delete(o.asking, a.key)
	if a.lost > created {
		o.leaveLocked(a.key, created)
		return
	}
	e := &entry{key: a.key, created: created}
	o.all[e.key], e.place = e, o.order.PushFront(e)
	o.bytes += e.size()
	o.holdLocked(e, kv)
}

// orphan gives up an ownership of ours that was not known.
func (o *owned) orphan(key string, created int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.orphanLocked(key, created)
}

func (o *owned) orphanLocked(key string, created int64) {
	if e := o.all[key]; e != nil && e.created <= created {
		o.outLocked(e)
	}
	if a := o.asking[key]; a != nil {
		a.lost = max(a.lost, created+1)
	}
	o.leaveLocked(key, created)
}

// wanted is that somebody has asked for an ownership key that is ours.
func (o *owned) wanted(key string, created, revision, lease int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if lease != o.session || o.session == 0 {
		return
	}
	if a := o.asking[key]; a != nil {
		a.lost = max(a.lost, revision)
	}
	o.orphanLocked(key, created)
}

// deleted is that an ownership key is gone, by whomever.
func (o *owned) deleted(key string, revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.all[key]; e != nil && e.created < revision {
		o.outLocked(e)
		o.restLocked(key)
	}
	if a := o.asking[key]; a != nil {
		a.lost = max(a.lost, revision)
	}
}

// holds reports whether an ownership key is the one of an entry.
func (o *owned) holds(key string, created int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[key]
	return e != nil && e.created == created
}

// ours reports whether a lease is that of the session, or of one before.
func (o *owned) ours(lease int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return lease != 0 && (lease == o.session || slices.Contains(o.past, lease))
}

// restsLocked reports whether a key was wanted by somebody else a short time ago.
func (o *owned) restsLocked(key string) bool {
	now := time.Now()
	if len(o.resting) >= maxResting && now.Sub(o.swept) > restFor {
		o.swept = now
		for k, since := range o.resting {
			if now.Sub(since) >= restFor {
				delete(o.resting, k)
			}
		}
	}
	since, ok := o.resting[key]
	return ok && now.Sub(since) < restFor || len(o.resting) >= maxResting
}

func (o *owned) restLocked(key string) {
	if len(o.resting) < maxResting { // else none is asked for at all
		o.resting[key] = time.Now()
	}
}

func (o *owned) giveUpLocked(e *entry) {
	o.outLocked(e)
	o.leaveLocked(e.key, e.created)
}

func (o *owned) leaveLocked(key string, created int64) {
	o.restLocked(key)
	o.leaving[key] = max(o.leaving[key], created)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *owned) outLocked(e *entry) {
	if o.all[e.key] != e {
		return
	}
	delete(o.all, e.key)
	o.order.Remove(e.place)
	o.bytes -= e.size()
}

// goes are at most limit ownership keys to delete.
func (o *owned) goes(limit int) map[string]int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	some := map[string]int64{}
	for key, created := range o.leaving {
		if len(some) == limit {
			break
		}
		some[key] = created
	}
	return some
}

// went is that ownership keys have been deleted.
func (o *owned) went(some map[string]int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, created := range some {
		if o.leaving[key] == created {
			delete(o.leaving, key)
		}
	}
}

// counts are how many keys are owned, and how many being given up.
func (o *owned) counts() (held, leaving int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.all), len(o.leaving)
}
