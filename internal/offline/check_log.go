package offline

import (
	"errors"
	"fmt"
	"os"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/bootstrap"
	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/vfs"
	"kvd/internal/wal"
)

// log checks the log: first as a start would read it, then every record of every
// segment, also those that a start has no use for.
func (c *checker) log() error {
	health, err := wal.Check(c.Log, wal.Options{})
	damage, damaged := errors.AsType[*wal.CorruptError](err)
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("%w: another process writes to the log in %s; stop it first", bootstrap.ErrHeld, c.Log)
	case damaged:
		c.damage(Fault, damage)
		return nil
	case errors.Is(err, wal.ErrNotFound), errors.Is(err, os.ErrNotExist):
		c.add(Fault, c.Log, "put the log back; else "+remedyReplace, "there is no log")
		return nil
	case err != nil:
		c.add(Fault, c.Log, remedyReplace, "%v", err)
		return nil
	}
	c.health = &health
	c.Member, c.Cluster = member.ID(health.Identity.Member).String(), member.ClusterID(health.Identity.Cluster).String()
	c.First, c.Last, c.Commit = health.Start.Index+1, health.Last, health.State.Commit
	if health.Torn != "" {
		c.add(Remark, c.Log, "start the member: it cuts the end off, of which nothing was acknowledged", "a crash has left the end of the log half written: %s", health.Torn)
	}
	c.records(&health)
	return nil
}

func (c *checker) damage(w Weight, d *wal.CorruptError) {
	where := d.File
	if d.Offset >= 0 {
		where = fmt.Sprintf("%s at offset %d", d.File, d.Offset)
	}
	c.add(w, where, d.Remedy, "%s", d.Reason)
}

// records reads every record.
func (c *checker) records(h *wal.Health) {
	p := &perusal{c: c, needed: h.Start.Index}
	err := wal.Dump(c.Log, func(r wal.Record) error {
		p.record(r)
		return nil
	})
	damage, damaged := errors.AsType[*wal.CorruptError](err)
	switch {
	case err == nil, h.Torn != "" && p.last >= h.Last:
	case damaged: // the part that a start needs was found in order
		damage.Remedy = "start the member: it does not need this part any more, and removes it some day"
		c.damage(Doubt, damage)
	default:
		c.add(Doubt, c.Log, "", "%v", err)
	}
}

// perusal looks at what the records of a log say.
type perusal struct {
	c      *checker
	needed uint64 // entries behind it are
	last   uint64 // index of the entry before
	term   uint64
	faults int
}

// mostFaults bounds how many findings of a kind are listed.
const mostFaults = 10

func (p *perusal) fault(r *wal.Record, format string, args ...any) {
	p.faults++
	if p.faults > mostFaults {
		return
	}
	where := fmt.Sprintf("%s at offset %d", r.File, r.Offset)
	if r.Entry != nil && r.Entry.GetIndex() <= p.needed {
		p.c.add(Doubt, where, "", format, args...)
		return
	}
	p.c.add(Fault, where, remedyReplace, format, args...)
}

func (p *perusal) record(r wal.Record) {
	switch r.Kind {
	case wal.KindState:
		if r.State.Term < p.term {
			p.fault(&r, "the term goes back from %d to %d", p.term, r.State.Term)
		}
		p.term = max(p.term, r.State.Term)
	case wal.KindSnapshot:
		p.last = max(p.last, r.Snapshot.Index)
	case wal.KindEntry:
		p.entry(&r)
	}
}

func (p *perusal) entry(r *wal.Record) {
	e := r.Entry
	if p.last > 0 && e.GetIndex() > p.last+1 {
		p.fault(r, "entry %d follows entry %d", e.GetIndex(), p.last)
	}
	p.last = e.GetIndex()
	if err := decodable(e); err != nil {
		p.fault(r, "entry %d: %v", e.GetIndex(), err)
	}
}

// decodable says whether a member could apply an entry.
func decodable(e *raftpb.Entry) error {
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.GetData()) == 0 {
			return nil
		}
		_, err := state.Decode(e.GetData())
		return err
	case raftpb.EntryConfChange:
		cc := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return err
		}
		_, err := member.ParseChange(cc)
		return err
	}
	return fmt.Errorf("it is of type %v, which no member of a cluster writes", e.GetType())
}
