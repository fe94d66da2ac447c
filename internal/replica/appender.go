package replica

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/wal"
)

// appender writes to the log: all that waits with one write and one sync.
type appender struct {
	r     *Replica
	queue *queue[job]
	ended chan struct{}

	jobs    []job // reused
	entries []*raftpb.Entry
	hard    *raftpb.HardState // newest that the log has not been given
	answers []*raftpb.Message
	appends int
}

// job is one thing for the appender: a MsgStorageAppend, or something done to
// the log.
type job struct {
	message *raftpb.Message
	run     func(*wal.Log) error
	done    chan<- error
}

func newAppender(r *Replica) *appender {
	return &appender{r: r, queue: newQueue[job](), ended: make(chan struct{})}
}

func (a *appender) stop()  { a.queue.stop() }
func (a *appender) abort() { a.queue.abort() }

func (a *appender) run() error {
	defer close(a.ended)
	for range a.queue.wake {
		var then next
		if a.jobs, then = a.queue.take(a.jobs); then == quit {
			return nil
		}
		for _, j := range a.jobs {
			if err := a.do(j); err != nil {
				return err
			}
		}
		if err := a.write(); err != nil {
			return err
		}
		if then == finish {
			return nil
		}
	}
	return nil
}

// do gathers a message, or does the job.
func (a *appender) do(j job) error {
	if j.message != nil {
		return a.gather(j.message)
	}
	if err := a.write(); err != nil { // jobs see the log with all that came before
		return err
	}
	err := j.run(a.r.parts.Log)
	j.done <- err
	return err
}

// gather adds a message to what the next write holds.
func (a *appender) gather(m *raftpb.Message) error {
	hard := m.GetTerm() != 0
	if m.GetSnapshot() != nil {
		if err := a.restart(m); err != nil {
			return err
		}
		hard = false // it is in the log already
	}
	if entries := m.GetEntries(); len(entries) > 0 {
		if n := len(a.entries); n > 0 && entries[0].GetIndex() != a.entries[n-1].GetIndex()+1 {
			if err := a.write(); err != nil { // a suffix is replaced
				return err
			}
		}
		a.entries = append(a.entries, entries...)
		a.appends++
	}
	if hard {
		a.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	a.answers = append(a.answers, m.GetResponses()...)
	return nil
}

// write writes what was gathered and then delivers the answers. The log syncs
// what has to be: entries, a term, a vote. A commit index alone is kept back
// there until something else is written; raft finds it again.
func (a *appender) write() error {
	if len(a.entries) > 0 || a.hard != nil {
		if err := a.r.parts.Log.Append(a.hard, a.entries, len(a.entries) > 0); err != nil {
			return fmt.Errorf("write the log: %w", err)
		}
	}
	clear(a.entries)
	a.entries, a.hard = a.entries[:0], nil
	a.deliver()
	return nil
}

// deliver takes the answers to whom they are for.
func (a *appender) deliver() {
	var own, others []*raftpb.Message
	for _, m := range a.answers {
		if m.GetTo() == a.r.parts.Member {
			own = append(own, m)
		} else {
			others = append(others, m)
		}
	}
	clear(a.answers)
	a.answers = a.answers[:0]
	if len(others) > 0 {
		a.r.parts.Send(others)
	}
	if len(own) > 0 || a.appends > 0 {
		a.r.intake.wrote(written{a.appends, own})
	}
	a.appends = 0
}

// ask has the appender do something to the log, and waits for it.
func (a *appender) ask(run func(*wal.Log) error) error {
	done := make(chan error, 1)
	a.queue.put(job{run: run, done: done})
	select {
	case err := <-done:
		return err
	case <-a.ended:
	}
	select {
	case err := <-done:
		return err
	default:
		return ErrStopped
	}
}
