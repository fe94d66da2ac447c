package peer

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Field numbers of raftpb.Message and raftpb.Entry. Their codec is written by
// hand: a put costs two or three messages, and reflection would cost more than
// all else here.
const (
	messageType       = 1
	messageTo         = 2
	messageFrom       = 3
	messageTerm       = 4
	messageLogTerm    = 5
	messageIndex      = 6
	messageEntries    = 7
	messageCommit     = 8
	messageSnapshot   = 9
	messageReject     = 10
	messageRejectHint = 11
	messageContext    = 12
	messageVote       = 13
	messageResponses  = 14

	entryType  = 1
	entryTerm  = 2
	entryIndex = 3
	entryData  = 4
)

var errMalformed = errors.New("malformed message")

func appendVarint(b []byte, num protowire.Number, v *uint64) []byte {
	if v == nil {
		return b
	}
	return protowire.AppendVarint(append(b, byte(num)<<3|byte(protowire.VarintType)), *v)
}

// appendMessage appends the encoding of m, as package proto would.
func appendMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.Responses != nil || len(m.ProtoReflect().GetUnknown()) > 0 {
		return proto.MarshalOptions{}.MarshalAppend(b, m) // never of our own raft
	}
	if m.Type != nil {
		b = protowire.AppendVarint(append(b, messageType<<3), uint64(*m.Type))
	}
	b = appendVarint(b, messageTo, m.To)
	b = appendVarint(b, messageFrom, m.From)
	b = appendVarint(b, messageTerm, m.Term)
	b = appendVarint(b, messageLogTerm, m.LogTerm)
	b = appendVarint(b, messageIndex, m.Index)
	for _, e := range m.Entries {
		b = append(b, messageEntries<<3|byte(protowire.BytesType))
		b = appendEntry(protowire.AppendVarint(b, uint64(entrySize(e))), e)
	}
	b = appendVarint(b, messageCommit, m.Commit)
	if m.Snapshot != nil {
		snapshot, err := proto.Marshal(m.Snapshot)
		if err != nil {
			return b, err
		}
		b = protowire.AppendBytes(append(b, messageSnapshot<<3|byte(protowire.BytesType)), snapshot)
	}
	if m.Reject != nil {
		b = protowire.AppendVarint(append(b, messageReject<<3), protowire.EncodeBool(*m.Reject))
	}
	b = appendVarint(b, messageRejectHint, m.RejectHint)
	if m.Context != nil {
		b = protowire.AppendBytes(append(b, messageContext<<3|byte(protowire.BytesType)), m.Context)
	}
	return appendVarint(b, messageVote, m.Vote), nil
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	if e.Type != nil {
		b = protowire.AppendVarint(append(b, entryType<<3), uint64(*e.Type))
	}
	b = appendVarint(b, entryTerm, e.Term)
	b = appendVarint(b, entryIndex, e.Index)
	if e.Data != nil {
		b = protowire.AppendBytes(append(b, entryData<<3|byte(protowire.BytesType)), e.Data)
	}
	return append(b, e.ProtoReflect().GetUnknown()...)
}

// entrySize is how many bytes appendEntry appends.
func entrySize(e *raftpb.Entry) int {
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
	return n
}

// messageBox is a message and what its pointers point to: one allocation.
type messageBox struct {
	message                                                  raftpb.Message
	kind                                                     raftpb.MessageType
	to, from, term, logTerm, index, commit, vote, rejectHint uint64
	reject                                                   bool
}

// parseMessage decodes a message, which aliases b from then on.
func parseMessage(b []byte) (*raftpb.Message, error) {
	entries := 0
	for rest := b; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, errMalformed
		}
		size := protowire.ConsumeFieldValue(num, typ, rest[n:])
		if size < 0 {
			return nil, errMalformed
		}
		if num == messageEntries {
			entries++
		}
		rest = rest[n+size:]
	}
	box := &messageBox{}
	if entries > 0 {
		box.message.Entries = make([]*raftpb.Entry, 0, entries)
	}
	boxes := make([]entryBox, entries)
	for rest := b; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		rest = rest[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(rest)
			if !box.number(num, v) {
				return parseOddMessage(b)
			}
			rest = rest[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(rest)
			rest = rest[n:]
			switch num {
			case messageEntries:
				e, err := boxes[0].parse(v)
				if err != nil {
					return nil, err
				}
				box.message.Entries, boxes = append(box.message.Entries, e), boxes[1:]
			case messageContext:
				box.message.Context = v[:len(v):len(v)]
			default:
				return parseOddMessage(b)
			}
		default:
			return parseOddMessage(b)
		}
	}
	return &box.message, nil
}

// number sets a field that is a number; false if it does not know it.
func (box *messageBox) number(num protowire.Number, v uint64) bool {
	m := &box.message
	set := func(to *uint64, field **uint64) { *to, *field = v, to }
	switch num {
	case messageType:
		if v > uint64(raftpb.MsgForgetLeader) {
			return false
		}
		box.kind = raftpb.MessageType(v)
		m.Type = &box.kind
	case messageTo:
		set(&box.to, &m.To)
	case messageFrom:
		set(&box.from, &m.From)
	case messageTerm:
		set(&box.term, &m.Term)
	case messageLogTerm:
		set(&box.logTerm, &m.LogTerm)
	case messageIndex:
		set(&box.index, &m.Index)
	case messageCommit:
		set(&box.commit, &m.Commit)
	case messageReject:
		box.reject = protowire.DecodeBool(v)
		m.Reject = &box.reject
	case messageRejectHint:
		set(&box.rejectHint, &m.RejectHint)
	case messageVote:
		set(&box.vote, &m.Vote)
	default:
		return false
	}
	return true
}

// parseOddMessage decodes a message with something in it that is rare or not
// known: slower, but nothing gets lost.
func parseOddMessage(b []byte) (*raftpb.Message, error) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, errMalformed
	}
	return m, nil
}

// entryBox is an entry and what its pointers point to.
type entryBox struct {
	entry       raftpb.Entry
	term, index uint64
	kind        raftpb.EntryType
}

// parse decodes an entry, which aliases b and lies in the box from then on.
func (box *entryBox) parse(b []byte) (*raftpb.Entry, error) {
	e := &box.entry
	for rest := b; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, errMalformed
		}
		rest = rest[n:]
		if num == entryData && typ == protowire.BytesType {
			data, n := protowire.ConsumeBytes(rest)
			if n < 0 {
				return nil, errMalformed
			}
			e.Data, rest = data[:len(data):len(data)], rest[n:]
			continue
		}
		if typ != protowire.VarintType {
			return parseOddEntry(b)
		}
		v, n := protowire.ConsumeVarint(rest)
		if n < 0 {
			return nil, errMalformed
		}
		rest = rest[n:]
		switch {
		case num == entryType && v <= uint64(raftpb.EntryConfChangeV2):
			box.kind = raftpb.EntryType(v)
			e.Type = &box.kind
		case num == entryTerm:
			box.term = v
			e.Term = &box.term
		case num == entryIndex:
			box.index = v
			e.Index = &box.index
		default:
			return parseOddEntry(b)
		}
	}
	return e, nil
}

func parseOddEntry(b []byte) (*raftpb.Entry, error) {
	e := &raftpb.Entry{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, errMalformed
	}
	return e, nil
}
