package wal

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Identity says whose log it is. It stands in every segment.
type Identity struct{ Member, Cluster uint64 }

// Snapshot is a position that the log can start at: everything up to Index is
// in the store.
type Snapshot struct {
	Index, Term uint64
	ConfState   *raftpb.ConfState // as of Index; nil only at index 0
}

// State is raft's hard state as plain values.
type State struct{ Term, Vote, Commit uint64 }

func stateOf(hs *raftpb.HardState) State {
	return State{Term: hs.GetTerm(), Vote: hs.GetVote(), Commit: hs.GetCommit()}
}

func (s State) message() *raftpb.HardState {
	if s == (State{}) {
		return nil // raft's way to say that there was none
	}
	return &raftpb.HardState{Term: &s.Term, Vote: &s.Vote, Commit: &s.Commit}
}

var errMessage = errors.New("malformed")

func appendVarintField(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(append(b, byte(num)<<3|byte(protowire.VarintType)), v)
}

func appendIdentity(b []byte, id Identity) []byte {
	return appendVarintField(appendVarintField(b, 1, id.Member), 2, id.Cluster)
}

func appendState(b []byte, s State) []byte {
	return appendVarintField(appendVarintField(appendVarintField(b, 1, s.Term), 2, s.Vote), 3, s.Commit)
}

func appendSnapshot(b []byte, s Snapshot) ([]byte, error) {
	b = appendVarintField(appendVarintField(b, 1, s.Index), 2, s.Term)
	if s.ConfState == nil {
		return b, nil
	}
	conf, err := proto.Marshal(s.ConfState)
	if err != nil {
		return nil, fmt.Errorf("encode conf state: %w", err)
	}
	return protowire.AppendBytes(append(b, 3<<3|byte(protowire.BytesType)), conf), nil
}

// appendEntryHead appends an entry's encoding up to, not including, the bytes
// of its data: they end the encoding and are copied only once, by the caller.
// At most 44 bytes.
func appendEntryHead(b []byte, e *raftpb.Entry) []byte {
	if e.Type != nil {
		b = appendVarintField(b, 1, uint64(*e.Type))
	}
	if e.Term != nil {
		b = appendVarintField(b, 2, *e.Term)
	}
	if e.Index != nil {
		b = appendVarintField(b, 3, *e.Index)
	}
	if e.Data != nil {
		b = protowire.AppendVarint(append(b, 4<<3|byte(protowire.BytesType)), uint64(len(e.Data)))
	}
	return b
}

// appendEntry appends the whole encoding, unknown fields too.
func appendEntry(b []byte, e *raftpb.Entry) []byte {
	b = append(appendEntryHead(b, e), e.Data...)
	return append(b, e.ProtoReflect().GetUnknown()...)
}

// entrySize is the encoded size, as raft counts it for its size limits.
func entrySize(e *raftpb.Entry) uint64 {
	n := len(e.ProtoReflect().GetUnknown())
	if e.Type != nil {
		n += 1 + protowire.SizeVarint(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + protowire.SizeVarint(*e.Term)
	}
	if e.Index != nil {
		n += 1 + protowire.SizeVarint(*e.Index)
	}
	if e.Data != nil {
		n += 1 + protowire.SizeBytes(len(e.Data))
	}
	return uint64(n)
}

// fields visits the fields of a message. visit gets a varint's value or the
// bytes of a length-delimited field.
func fields(b []byte, visit func(num protowire.Number, typ protowire.Type, v uint64, data []byte)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		var v uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		visit(num, typ, v, data)
	}
	return nil
}

func parseIdentity(b []byte) (id Identity, err error) {
	err = fields(b, func(num protowire.Number, typ protowire.Type, v uint64, _ []byte) {
		switch {
		case num == 1 && typ == protowire.VarintType:
			id.Member = v
		case num == 2 && typ == protowire.VarintType:
			id.Cluster = v
		}
	})
	return id, err
}

// parseState is strict, because the CRC covers a record's data but not its
// kind: an entry must not pass for a state.
func parseState(b []byte) (s State, err error) {
	var seen [5]bool
	err = fields(b, func(num protowire.Number, typ protowire.Type, v uint64, _ []byte) {
		switch {
		case num == 1 && typ == protowire.VarintType:
			s.Term = v
		case num == 2 && typ == protowire.VarintType:
			s.Vote = v
		case num == 3 && typ == protowire.VarintType:
			s.Commit = v
		}
		seen[min(num, 4)] = true
	})
	if err == nil && seen != [5]bool{false, true, true, true, false} {
		err = errMessage
	}
	return s, err
}

func parseSnapshot(b []byte) (s Snapshot, err error) {
	var inner error
	var index, term bool
	err = fields(b, func(num protowire.Number, typ protowire.Type, v uint64, data []byte) {
		switch {
		case num == 1 && typ == protowire.VarintType:
			s.Index, index = v, true
		case num == 2 && typ == protowire.VarintType:
			s.Term, term = v, true
		case num == 3 && typ == protowire.BytesType:
			s.ConfState = &raftpb.ConfState{}
			inner = proto.Unmarshal(data, s.ConfState)
		}
	})
	if err == nil && !(index && term) {
		err = errMessage
	}
	return s, errors.Join(err, inner)
}

// entryBox holds an entry and what its pointers point to: one allocation.
type entryBox struct {
	entry       raftpb.Entry
	term, index uint64
	kind        raftpb.EntryType
}

// parseEntry decodes an entry. The result does not alias b.
func parseEntry(b []byte) (*raftpb.Entry, error) {
	box := &entryBox{}
	e := &box.entry
	for rest := b; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, errMessage
		}
		rest = rest[n:]
		if num == 4 && typ == protowire.BytesType {
			data, n := protowire.ConsumeBytes(rest)
			if n < 0 {
				return nil, errMessage
			}
			e.Data = append(make([]byte, 0, len(data)), data...)
			rest = rest[n:]
			continue
		}
		if num > 3 || typ != protowire.VarintType {
			return parseNewerEntry(b)
		}
		v, n := protowire.ConsumeVarint(rest)
		if n < 0 {
			return nil, errMessage
		}
		rest = rest[n:]
		switch num {
		case 1:
			if v > uint64(raftpb.EntryConfChangeV2) {
				return nil, fmt.Errorf("type %d is not known", v)
			}
			box.kind = raftpb.EntryType(v)
			e.Type = &box.kind
		case 2:
			box.term = v
			e.Term = &box.term
		case 3:
			box.index = v
			e.Index = &box.index
		}
	}
	return e, nil
}

// parseNewerEntry decodes an entry with something in it that we do not know:
// slower, but nothing gets lost.
func parseNewerEntry(b []byte) (*raftpb.Entry, error) {
	e := &raftpb.Entry{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, errMessage
	}
	return e, nil
}
