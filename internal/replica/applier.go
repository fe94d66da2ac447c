package replica

import (
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
)

// tidyInterval is how often the machine's caches are looked after.
const tidyInterval = 100 * time.Millisecond

// manyEntries in a batch are worth telling the loop of at once: raft hands out
// only so much that has not been reported as applied.
const manyEntries = 256

// applier runs committed entries through the machine.
type applier struct {
	r       *Replica
	machine *state.Machine
	queue   *queue[order]
	ended   chan struct{}

	orders   []order // reused, as all below
	entries  []*raftpb.Entry
	ids      []uint64
	claimed  []*waiter
	changes  []*raftpb.ConfChange // of entries; nil for the others
	answered []late
	tokens   []state.TokenChange
	note     applied
	swept    []late // compactions that wait for their removals
	sweeping bool
	timed    bool        // the sweep timer runs
	stored   int64       // revision that the machine knows to be stored
	leaving  atomic.Bool // rows of the last piece of a removal are not committed yet
}

// order is one thing for the applier.
type order struct {
	message  *raftpb.Message  // MsgStorageApply
	snapshot *raftpb.Snapshot // of another member: the machine is replaced
	pulse    func()
}

func newApplier(r *Replica) *applier {
	return &applier{
		r: r, machine: r.parts.Machine, queue: newQueue[order](), ended: make(chan struct{}),
		sweeping: true, // a compaction may have been cut short by the last stop
		timed:    true,
	}
}

func (a *applier) stop()  { a.queue.stop() }
func (a *applier) abort() { a.queue.abort(); a.r.flusher.letGo() }

func (a *applier) run() error {
	defer close(a.ended)
	defer a.leave()
	tidy := time.NewTicker(tidyInterval)
	defer tidy.Stop()
	sweep := time.NewTimer(a.r.options.CompactionPause)
	defer sweep.Stop()
	for {
		select {
		case <-a.queue.wake:
			over, err := a.work()
			if err != nil || over {
				return err
			}
		case <-sweep.C:
			if err := a.sweep(); err != nil {
				return err
			}
		case <-tidy.C:
			a.tell()
			a.machine.Tidy()
		}
		if a.sweeping && !a.timed {
			a.timed = true
			sweep.Reset(a.r.options.CompactionPause)
		}
	}
}

// work applies all that waits.
func (a *applier) work() (over bool, err error) {
	var then next
	if a.orders, then = a.queue.take(a.orders); then == quit {
		return true, nil
	}
	a.note = applied{}
	for _, o := range a.orders {
		switch {
		case o.message != nil:
			a.entries = append(a.entries, o.message.GetEntries()...)
			a.note.answers = append(a.note.answers, o.message.GetResponses()...)
		case o.snapshot != nil:
			if err = a.batch(); err == nil {
				err = a.install(o.snapshot)
			}
			if err != nil {
				return false, err
			}
		}
	}
	if err = a.batch(); err != nil {
		return false, err
	}
	for _, o := range a.orders {
		if o.pulse != nil {
			o.pulse()
		}
	}
	return then == finish, nil
}

// batch applies the entries that were gathered.
func (a *applier) batch() error {
	if len(a.entries) == 0 {
		return nil
	}
	err := a.apply()
	clear(a.entries)
	a.entries = a.entries[:0]
	return err
}

// apply runs a batch. The order of its last part is what readers and callers
// rely on: rows to the flusher, the view, the events, the answers.
func (a *applier) apply() (err error) {
	defer store.Catch(&err) // the machine may have to read a row
	if !a.r.flusher.room() {
		return nil // aborted
	}
	if err := a.claim(); err != nil {
		return err
	}
	events, err := a.execute()
	if err != nil {
		return err
	}
	a.tell()
	if len(a.tokens) > 0 {
		a.r.parts.Tokens(a.tokens)
		clear(a.tokens)
		a.tokens = a.tokens[:0]
	}
	view := a.publish()
	if len(a.note.changes) > 0 {
		a.r.parts.Members(view.Members) // before raft sends anything to who is new
	}
	if len(events) > 0 {
		a.r.parts.Publish(view.Keys, view.Keys.Revision(), events)
	}
	if view.Swept < view.Keys.Compacted() {
		a.sweeping = true
		if len(a.swept) > 0 { // somebody waits for the removals, and they for the rows
			a.r.flusher.afterFlush(func(error) {})
		}
	}
	if len(a.swept) > 0 { // also where a compaction was refused, and nothing is to be removed
		a.sweeping = true
	}
	for _, l := range a.answered {
		l.w.done <- l.a
	}
	clear(a.answered)
	a.answered = a.answered[:0]
	// The loop is asked after the new index is published, and looks at the
	// index after it has said that it waits: one of the two sees the other.
	a.r.intake.apply(a.note, a.note.urgent() || a.r.loop.waits.Load() || len(a.entries) > manyEntries)
	a.note = applied{}
	return nil
}

// publish gives the rows to the flusher and makes the view the current one.
func (a *applier) publish() *state.View {
	view := a.machine.View()
	a.r.flusher.put(a.machine.Take(), view)
	a.r.view.Store(view)
	a.r.applied.Store(view.Applied)
	a.r.metrics.applied.Set(float64(view.Applied))
	return view
}

// claim finds out who waits for the entries.
func (a *applier) claim() error {
	a.ids, a.claimed, a.changes = a.ids[:0], a.claimed[:0], a.changes[:0]
	for _, e := range a.entries {
		var id uint64
		var change *raftpb.ConfChange
		switch {
		case e.GetType() == raftpb.EntryConfChange:
			change = &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), change); err != nil {
				return fmt.Errorf("decode entry %d, a change of members: %w", e.GetIndex(), err)
			}
			id = change.GetId()
		case e.GetType() != raftpb.EntryNormal:
			return fmt.Errorf("entry %d is of type %s, which this version does not know", e.GetIndex(), e.GetType())
		default:
			id = requestID(e.GetData())
		}
		a.ids = append(a.ids, id)
		a.changes = append(a.changes, change)
		a.claimed = append(a.claimed, nil)
	}
	a.r.metrics.pending.Set(float64(a.r.intake.claim(a.ids, a.claimed)))
	return nil
}

// execute runs the entries.
func (a *applier) execute() (events []*mvcc.Event, err error) {
	begin := time.Now()
	for i, e := range a.entries {
		w, change := a.claimed[i], a.changes[i]
		in := state.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Change: change, Wanted: w != nil}
		switch {
		case change != nil:
		case len(e.GetData()) == 0:
			a.note.begun = e.GetTerm()
		case w != nil:
			in.Request = w.request
		default:
			if in.Request, err = state.Decode(e.GetData()); err != nil {
				return nil, fmt.Errorf("decode entry %d: %w", e.GetIndex(), err)
			}
		}
		out := a.machine.Apply(in)
		if out.Fatal != nil {
			return nil, out.Fatal
		}
		end := time.Now()
		a.r.metrics.apply(in.Request, out.Reply, out.Err, end.Sub(begin))
		if took := end.Sub(begin); took > a.r.options.SlowApply {
			a.r.metrics.slowApply.Inc()
			a.r.log.Warn("apply request took too long", "took", took, "expected-duration", a.r.options.SlowApply,
				"request", operationOf(in.Request).String(), "index", in.Index)
		}
		begin = end
		a.collect(i, out)
		events = append(events, out.Events...)
	}
	return events, nil
}

// collect sorts what came of an entry.
func (a *applier) collect(i int, out state.Outcome) {
	if change := a.changes[i]; change != nil {
		if out.Change != nil {
			change = out.Change
		}
		a.note.changes = append(a.note.changes, change)
	}
	a.note.leases = append(a.note.leases, out.Leases...)
	a.tokens = append(a.tokens, out.Tokens...)
	w := a.claimed[i]
	if w == nil {
		return
	}
	a.claimed[i] = nil
	l := late{w, answer{out.Reply, out.Err}}
	switch {
	case a.changes[i] != nil:
		a.note.late = append(a.note.late, l)
	case out.AfterSweep:
		a.swept = append(a.swept, l)
	default:
		a.answered = append(a.answered, l)
	}
}

// tell lets the machine know what has reached the store.
func (a *applier) tell() {
	if stored := a.r.flusher.revision.Load(); stored > a.stored {
		a.stored = stored
		a.machine.Stored(stored)
	}
}

// sweep removes a piece of what a compaction has left behind it, so small that
// nobody waits for it. The next one comes when its rows are committed: they lie all
// over the file, and what many of them give the disk to write at once holds up the log.
func (a *applier) sweep() (err error) {
	defer store.Catch(&err)
	a.timed = false
	if !a.sweeping || a.leaving.Load() {
		return nil
	}
	a.tell() // what is on disk decides how far it goes
	view, began := a.r.view.Load(), time.Now()
	if a.sweeping, err = a.machine.Sweep(a.r.options.CompactionBatch); err != nil {
		return fmt.Errorf("remove what was compacted: %w", err)
	}
	if to := view.Keys.Compacted(); view.Swept < to && (a.stored >= to || !a.sweeping) { // else it only waits
		a.r.metrics.swept(began, time.Now(), !a.sweeping)
	}
	if a.publish().Counts().Removed > view.Counts().Removed {
		a.leaving.Store(true)
		a.r.flusher.afterFlush(func(error) { a.leaving.Store(false) })
	}
	if a.sweeping || len(a.swept) == 0 {
		return nil
	}
	waiting := a.swept
	a.swept = nil
	a.r.flusher.afterFlush(func(err error) {
		for _, l := range waiting {
			if err != nil {
				l.a = answer{err: err}
			}
			l.w.done <- l.a
		}
	})
	return nil
}

// leave answers those whose answer will not come.
func (a *applier) leave() {
	for _, w := range a.claimed {
		if w != nil {
			w.done <- answer{err: ErrStopped}
		}
	}
	for _, l := range append(append(a.answered, a.swept...), a.note.late...) {
		l.w.done <- answer{err: ErrStopped}
	}
}

// requestID reads the ID out of a command without decoding it: its own field of
// old times, or the header's.
func requestID(data []byte) (id uint64) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0
		}
		data = data[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(data)
			if v != 0 {
				return v
			}
		case num == headerField && typ == protowire.BytesType:
			header, _ := protowire.ConsumeBytes(data)
			if len(header) > 0 && header[0] == 1<<3 {
				id, _ = protowire.ConsumeVarint(header[1:])
			}
		}
		if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
			return 0
		}
		data = data[n:]
	}
	return id
}

const headerField = 100 // of InternalRaftRequest
