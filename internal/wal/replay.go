package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"
)

// replay collects what the records after a start position add up to.
type replay struct {
	start    Snapshot
	explicit bool // the caller chose start; an entry may vouch for it, too
	matched  bool // a record of start was found
	term     uint64
	termSeen bool // the entry at start.Index was seen, of term
	entries  []*raftpb.Entry
	void     []*raftpb.Entry // dropped by the last snapshot; see entry
	state    State
	metadata []byte
	identity Identity
}

func (p *replay) read(in *reader) error {
	for {
		rec, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.record(rec); err != nil {
			return corrupt(in.path, rec.offset, "%v", err)
		}
	}
}

func (p *replay) record(rec record) (err error) {
	switch rec.kind {
	case KindCRC:
		return nil
	case KindMetadata:
		return p.own(rec.data)
	case KindState:
		if p.state, err = parseState(rec.data); err != nil {
			return fmt.Errorf("hard state: %w", err)
		}
		return nil
	case KindEntry:
		e, err := parseEntry(rec.data)
		if err != nil {
			return fmt.Errorf("entry: %w", err)
		}
		return p.entry(e)
	case KindSnapshot:
		s, err := parseSnapshot(rec.data)
		if err != nil {
			return fmt.Errorf("snapshot record: %w", err)
		}
		return p.snapshot(s)
	}
	return fmt.Errorf("a record of unknown %v: a newer version wrote it", rec.kind)
}

// own takes the metadata, which must be the same in all segments.
func (p *replay) own(data []byte) (err error) {
	if p.metadata != nil {
		if !bytes.Equal(p.metadata, data) {
			return errors.New("the segment belongs to another member or cluster than those before it")
		}
		return nil
	}
	p.metadata = append([]byte{}, data...)
	if p.identity, err = parseIdentity(data); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}

// entry appends, or replaces everything from the entry's index on.
func (p *replay) entry(e *raftpb.Entry) error {
	index := e.GetIndex()
	if e.Index == nil || e.Term == nil || e.GetType() != raftpb.EntryNormal && len(e.Data) == 0 {
		// The CRC does not cover a record's kind; a state would look like this.
		return errors.New("an entry without index, term, or a membership change without data")
	}
	if index <= p.start.Index {
		p.entries, p.void = nil, nil
		p.term, p.termSeen = e.GetTerm(), index == p.start.Index
		return nil
	}
	keep := index - p.start.Index - 1
	if keep > 0 && keep > uint64(len(p.entries)) && keep <= uint64(len(p.void)) {
		// An etcd wrote this: after a restart it goes on behind entries that a
		// leader's snapshot had made void.
		p.entries = p.void
	}
	p.void = nil
	if have := uint64(len(p.entries)); keep > have {
		return fmt.Errorf("entry %d follows entry %d: those between are missing", index, p.start.Index+have)
	}
	p.entries = append(p.entries[:keep], e)
	return nil
}

func (p *replay) snapshot(s Snapshot) error {
	if s.Index != p.start.Index {
		return nil
	}
	if s.Term != p.start.Term {
		return fmt.Errorf("snapshot record of index %d has term %d, not %d", s.Index, s.Term, p.start.Term)
	}
	p.matched = true
	p.start.ConfState = s.ConfState
	if s.Index > 0 && (!p.termSeen || p.term != s.Term) {
		p.entries, p.void = nil, p.entries // it came from a leader: what we had does not lead there
	}
	return nil
}

// finish checks that the parts fit together.
func (p *replay) finish(dir string) error {
	if !p.matched && !(p.explicit && p.termSeen && p.term == p.start.Term) {
		return corrupt(dir, -1, "nothing in it vouches for the position index %d, term %d, which it is to start at", p.start.Index, p.start.Term)
	}
	if p.metadata == nil {
		return corrupt(dir, -1, "no record says whose log it is")
	}
	last := p.start.Index + uint64(len(p.entries))
	if p.state.Commit > last {
		return corrupt(dir, -1, "entries up to %d were committed, but it ends with entry %d", p.state.Commit, last)
	}
	p.state.Commit = max(p.state.Commit, p.start.Index) // commits alone are not synced; the store may be ahead
	return nil
}
