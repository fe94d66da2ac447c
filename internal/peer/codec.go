package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// errTooLarge says that a message claims to be larger than is allowed.
var errTooLarge = errors.New("too large")

// kind is one of the two streams that a member sends messages on.
type kind int

const (
	everything kind = iota // any message
	appends                // MsgApp alone, shorter
)

// String is the stream's name in paths and logs.
func (k kind) String() string {
	if k == appends {
		return "msgapp"
	}
	return "message"
}

// An encoder turns messages into the bytes of one stream.
type encoder interface {
	message(b []byte, m *raftpb.Message) ([]byte, error)
	heartbeat(b []byte) []byte // a sign of life of the link, not of raft
}

// A decoder reads the messages of one stream. A sign of life of the link is a nil
// message.
type decoder interface {
	next() (*raftpb.Message, error)
}

func (k kind) encoder() encoder {
	if k == appends {
		return &appendsEncoder{}
	}
	return frames{}
}

// decoder reads what member from sends to member to.
func (k kind) decoder(r *source, from, to member.ID) decoder {
	if k == appends {
		return &appendsDecoder{source: r, from: uint64(from), to: uint64(to)}
	}
	return frameDecoder{r}
}

// frames is the codec of the stream of everything: a length and a message.
type frames struct{}

func (frames) message(b []byte, m *raftpb.Message) ([]byte, error) {
	at := len(b)
	b, err := appendMessage(append(b, 0, 0, 0, 0, 0, 0, 0, 0), m)
	binary.BigEndian.PutUint64(b[at:], uint64(len(b)-at-8))
	return b, err
}

func (frames) heartbeat(b []byte) []byte {
	return append(b, 0, 0, 0, 0, 0, 0, 0, 2, messageType<<3, byte(raftpb.MsgHeartbeat))
}

type frameDecoder struct{ *source }

func (d frameDecoder) next() (*raftpb.Message, error) {
	m, err := d.frame()
	if err == nil && m.GetType() == raftpb.MsgHeartbeat && m.GetFrom() == 0 && m.GetTo() == 0 {
		return nil, nil
	}
	return m, err
}

// Tags of the stream of appends.
const (
	tagHeartbeat = 0
	tagEntries   = 1 // they follow what was sent last, in the same term
	tagMessage   = 2
)

// position is what both ends of a stream of appends know of the last message.
type position struct{ term, index uint64 }

func (p *position) take(m *raftpb.Message) {
	p.term, p.index = m.GetTerm(), m.GetIndex()
	if n := len(m.Entries); n > 0 {
		p.index = m.Entries[n-1].GetIndex()
	}
}

// appendsEncoder is etcd's "msgappv2".
type appendsEncoder struct{ at position }

func (*appendsEncoder) heartbeat(b []byte) []byte { return append(b, tagHeartbeat) }

func (e *appendsEncoder) message(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.GetIndex() != e.at.index || m.GetLogTerm() != e.at.term || m.GetTerm() != e.at.term {
		e.at.take(m)
		return frames{}.message(append(b, tagMessage), m)
	}
	b = binary.BigEndian.AppendUint64(append(b, tagEntries), uint64(len(m.Entries)))
	for _, entry := range m.Entries {
		b = appendEntry(binary.BigEndian.AppendUint64(b, uint64(entrySize(entry))), entry)
	}
	e.at.index += uint64(len(m.Entries))
	return binary.BigEndian.AppendUint64(b, m.GetCommit()), nil
}

type appendsDecoder struct {
	*source
	from, to uint64
	at       position
}

func (d *appendsDecoder) next() (*raftpb.Message, error) {
	if _, err := io.ReadFull(d.r, d.word[:1]); err != nil {
		return nil, err
	}
	d.read++
	switch tag := d.word[0]; tag {
	case tagHeartbeat:
		return nil, nil
	case tagEntries:
		return d.entries()
	case tagMessage:
		m, err := d.frame()
		if err == nil {
			d.at.take(m)
		}
		return m, err
	default:
		return nil, fmt.Errorf("%w: tag %d", errMalformed, tag)
	}
}

func (d *appendsDecoder) entries() (*raftpb.Message, error) {
	count, err := d.number()
	if err != nil {
		return nil, err
	}
	box := &messageBox{
		kind: raftpb.MsgApp, from: d.from, to: d.to,
		term: d.at.term, logTerm: d.at.term, index: d.at.index,
	}
	m := &box.message
	m.Type, m.From, m.To, m.Term, m.LogTerm, m.Index, m.Commit = &box.kind, &box.from, &box.to, &box.term, &box.logTerm, &box.index, &box.commit
	var boxes []entryBox
	if count > 0 {
		m.Entries = make([]*raftpb.Entry, 0, min(count, 64))
	}
	for left := count; left > 0; left-- {
		if len(boxes) == 0 {
			boxes = make([]entryBox, min(left, 64)) // not count: only what came is believed
		}
		b, err := d.bytes()
		if err != nil {
			return nil, err
		}
		e, err := boxes[0].parse(b)
		if err != nil {
			return nil, err
		}
		m.Entries, boxes = append(m.Entries, e), boxes[1:]
	}
	if box.commit, err = d.number(); err != nil {
		return nil, err
	}
	d.at.index += count
	return m, nil
}

// source reads the parts of a stream.
type source struct {
	r     io.Reader
	limit uint64 // of one part
	read  int    // bytes since it was last set to 0
	slab  []byte // room for small parts
	word  [8]byte
}

const (
	readBuffer = 64 << 10
	slabBytes  = 16 << 10
	smallPart  = 2 << 10 // what shares a slab
	firstStep  = 1 << 20 // of a large part, until it has come
)

func newSource(r io.Reader, limit int) *source {
	return &source{r: bufio.NewReaderSize(r, readBuffer), limit: uint64(limit)}
}

func (s *source) number() (uint64, error) {
	if _, err := io.ReadFull(s.r, s.word[:]); err != nil {
		return 0, err
	}
	s.read += len(s.word)
	return binary.BigEndian.Uint64(s.word[:]), nil
}

// frame reads a length and a message.
func (s *source) frame() (*raftpb.Message, error) {
	b, err := s.bytes()
	if err != nil {
		return nil, err
	}
	return parseMessage(b)
}

// bytes reads a length and as many bytes. They are the caller's. Memory is taken
// as they come, whatever the length says.
func (s *source) bytes() ([]byte, error) {
	size, err := s.number()
	if err != nil {
		return nil, err
	}
	if size > s.limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", errTooLarge, size, s.limit)
	}
	s.read += int(size)
	if size > smallPart {
		return s.large(int(size))
	}
	if int(size) > len(s.slab) {
		s.slab = make([]byte, slabBytes)
	}
	b := s.slab[:size:size]
	s.slab = s.slab[size:]
	return b, s.fill(b)
}

func (s *source) large(size int) ([]byte, error) {
	b := make([]byte, min(size, firstStep))
	if err := s.fill(b); err != nil {
		return nil, err
	}
	for len(b) < size {
		more := make([]byte, min(size, 2*len(b)))
		if err := s.fill(more[copy(more, b):]); err != nil {
			return nil, err
		}
		b = more
	}
	return b, nil
}

func (s *source) fill(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	if errors.Is(err, io.EOF) && len(b) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}
