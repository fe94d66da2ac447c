package wal

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/invariant"
)

// view is the log as raft sees it, in memory. The appender changes it after
// the disk; raft's loop reads it. Entries are never changed once published:
// slices of them are out with raft.
type view struct {
	mu       sync.Mutex
	base     position // the entry before the first; its term is still known
	entries  []*raftpb.Entry
	dropped  int // entries before entries[0] that still sit in its array
	state    State
	conf     *raftpb.ConfState
	snapshot *raftpb.Snapshot // nil: none was set yet
}

type position struct{ index, term uint64 }

func (v *view) lastLocked() uint64 { return v.base.index + uint64(len(v.entries)) }

// last returns the index of the last entry.
func (v *view) last() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lastLocked()
}

// mustFollow panics unless entries can be appended: consecutive, no gap before
// the first, nothing that is compacted.
func (v *view) mustFollow(entries []*raftpb.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := entries[0].GetIndex()
	if first <= v.base.index || first > v.lastLocked()+1 {
		panic(fmt.Sprintf("wal: append at %d to a log of entries (%d,%d]", first, v.base.index, v.lastLocked()))
	}
	for i, e := range entries {
		if e.GetIndex() != first+uint64(i) {
			panic(fmt.Sprintf("wal: entry %d where %d should be", e.GetIndex(), first+uint64(i)))
		}
	}
}

// append replaces everything from the first new entry on.
func (v *view) append(state State, entries []*raftpb.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	commit := max(v.state.Commit, state.Commit)
	v.state = state
	v.state.Commit = commit
	if len(entries) == 0 {
		return
	}
	keep := entries[0].GetIndex() - v.base.index - 1
	if keep < uint64(len(v.entries)) {
		// The full slice expression makes append copy: readers hold the rest.
		v.entries, v.dropped = append(v.entries[:keep:keep], entries...), 0
	} else {
		before := cap(v.entries)
		v.entries = append(v.entries, entries...)
		if cap(v.entries) > before {
			v.dropped = 0 // a new array
		}
	}
	v.checkLocked()
}

// restart empties the log: it goes on behind at.
func (v *view) restart(at position, state State, snapshot *raftpb.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.base, v.entries, v.dropped = at, nil, 0
	v.state, v.snapshot = state, snapshot
}

func (v *view) compact(index uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if index <= v.base.index {
		return nil
	}
	if index > v.lastLocked() {
		return fmt.Errorf("compact log to %d: it ends at %d", index, v.lastLocked())
	}
	n := int(index - v.base.index)
	v.base = position{index, v.entries[n-1].GetTerm()}
	v.entries = v.entries[n:]
	v.dropped += n
	if v.dropped > len(v.entries) {
		// More than half of the array is dead weight. Copying only then makes
		// frequent small compactions cheap.
		v.entries, v.dropped = append(make([]*raftpb.Entry, 0, len(v.entries)), v.entries...), 0
	}
	v.state.Commit = max(v.state.Commit, index) // what is compacted was applied
	v.checkLocked()
	return nil
}

func (v *view) checkLocked() {
	if !invariant.On {
		return
	}
	for i := max(0, len(v.entries)-64); i < len(v.entries); i++ {
		at := v.base.index + uint64(i) + 1
		invariant.Check(v.entries[i].GetIndex() == at, "entry %d where %d should be", v.entries[i].GetIndex(), at)
	}
}

// InitialState returns the hard state, nil if there is none yet, and the conf
// state given to SetConfState. Part of raft.Storage.
func (v *view) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state.message(), raftpb.EnsureConfState(v.conf), nil
}

// Entries returns the entries in [lo, hi), fewer if they exceed size bytes,
// but at least one. Part of raft.Storage.
func (v *view) Entries(lo, hi, size uint64) ([]*raftpb.Entry, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if lo <= v.base.index {
		return nil, raft.ErrCompacted
	}
	if hi > v.lastLocked()+1 || lo >= hi {
		return nil, raft.ErrUnavailable
	}
	part := v.entries[lo-v.base.index-1 : hi-v.base.index-1]
	n, bytes := 1, entrySize(part[0])
	for ; n < len(part); n++ {
		if bytes += entrySize(part[n]); bytes > size {
			break
		}
	}
	return part[:n:n], nil
}

// Term returns the term of an entry, or of the one before the first. Part of
// raft.Storage.
func (v *view) Term(index uint64) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case index < v.base.index:
		return 0, raft.ErrCompacted
	case index == v.base.index:
		return v.base.term, nil
	case index > v.lastLocked():
		return 0, raft.ErrUnavailable
	}
	return v.entries[index-v.base.index-1].GetTerm(), nil
}

// LastIndex returns the index of the last entry. Part of raft.Storage.
func (v *view) LastIndex() (uint64, error) { return v.last(), nil }

// FirstIndex returns the index of the first entry. Part of raft.Storage.
func (v *view) FirstIndex() (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.base.index + 1, nil
}

// Snapshot returns the memory snapshot, or raft.ErrSnapshotTemporarilyUnavailable
// while there is none. Part of raft.Storage.
func (v *view) Snapshot() (*raftpb.Snapshot, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if raft.IsEmptySnap(v.snapshot) {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return proto.Clone(v.snapshot).(*raftpb.Snapshot), nil
}

// SetMemorySnapshot says which snapshot raft may offer to a member that is too
// far behind. It is not written anywhere. The log owns s from here on.
func (v *view) SetMemorySnapshot(s *raftpb.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshot = s
}

// SetConfState says what InitialState returns: the membership is kept by the
// store, not by the log. Call it before raft starts.
func (v *view) SetConfState(conf *raftpb.ConfState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conf = proto.Clone(conf).(*raftpb.ConfState)
}
