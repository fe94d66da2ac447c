package offline

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/bootstrap"
	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/vfs"
	"kvd/internal/wal"
)

// Dump says which records of a log are shown.
type Dump struct {
	Dir   string   // of the log
	First uint64   // index of the first entry
	Last  uint64   // and of the last; 0: all
	Types []string // of entries, as Line.Type and Line.Request name them; none: all
	All   bool     // also records that are no entries
	Full  bool     // values whole, whatever their length
}

// Line is one record of a log, for a person.
type Line struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"`
	Kind    string `json:"kind"` // entry, state, snapshot, metadata, crc
	Term    uint64 `json:"term,omitempty"`
	Index   uint64 `json:"index,omitempty"`
	Type    string `json:"type,omitempty"`    // of an entry: norm or conf
	Request string `json:"request,omitempty"` // of a norm entry: put, txn, …
	Text    string `json:"text"`
	// Fault says why an entry cannot be decoded.
	Fault string `json:"fault,omitempty"`
}

// Run shows the records, in order. Passwords are not shown. At damage it stops,
// when it has shown what lies before.
func (d *Dump) Run(visit func(Line) error) error {
	release, err := wal.Hold(d.Dir)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: another process writes to the log in %s; stop it first", bootstrap.ErrHeld, d.Dir)
	}
	if err != nil {
		return err
	}
	defer release() //nolint:errcheck // nothing was written
	return wal.Dump(d.Dir, func(r wal.Record) error {
		line, show := d.line(&r)
		if !show {
			return nil
		}
		return visit(line)
	})
}

func (d *Dump) line(r *wal.Record) (l Line, show bool) {
	l = Line{File: r.File, Offset: r.Offset, Kind: r.Kind.String()}
	switch r.Kind {
	case wal.KindEntry:
		l.Term, l.Index = r.Entry.GetTerm(), r.Entry.GetIndex()
		if l.Index < d.First || d.Last > 0 && l.Index > d.Last {
			return l, false
		}
		d.entry(&l, r.Entry)
		return l, len(d.Types) == 0 || slices.Contains(d.Types, l.Type) || slices.Contains(d.Types, l.Request)
	case wal.KindState:
		l.Term, l.Text = r.State.Term, fmt.Sprintf("vote=%s commit=%d", member.ID(r.State.Vote), r.State.Commit)
	case wal.KindSnapshot:
		l.Term, l.Index, l.Text = r.Snapshot.Term, r.Snapshot.Index, confText(r.Snapshot.ConfState)
	case wal.KindMetadata:
		l.Text = fmt.Sprintf("member=%s cluster=%s", member.ID(r.Identity.Member), member.ClusterID(r.Identity.Cluster))
	case wal.KindCRC:
		l.Text = fmt.Sprintf("crc=%08x", r.CRC)
	}
	return l, d.All
}

func confText(conf *raftpb.ConfState) string {
	var b strings.Builder
	for _, group := range []struct {
		name string
		ids  []uint64
	}{{"voters", conf.GetVoters()}, {"learners", conf.GetLearners()}} {
		if len(group.ids) == 0 {
			continue
		}
		var ids []string
		for _, id := range group.ids {
			ids = append(ids, member.ID(id).String())
		}
		fmt.Fprintf(&b, " %s=%s", group.name, strings.Join(ids, ","))
	}
	return strings.TrimPrefix(b.String(), " ")
}

// entry decodes what an entry says.
func (d *Dump) entry(l *Line, e *raftpb.Entry) {
	switch e.GetType() {
	case raftpb.EntryNormal:
		l.Type = "norm"
		if len(e.GetData()) == 0 {
			return // what a leader begins its term with
		}
		r, err := state.Decode(e.GetData())
		if err != nil {
			l.Fault = err.Error()
			return
		}
		t := texter{longest: d.longest()}
		l.Request = requestName(r.ProtoReflect())
		l.Text = t.message(r.ProtoReflect())
	case raftpb.EntryConfChange:
		l.Type = "conf"
		cc := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			l.Fault = err.Error()
			return
		}
		l.Text = changeText(cc)
		if _, err := member.ParseChange(cc); err != nil {
			l.Fault = err.Error()
		}
	default:
		l.Type = e.GetType().String()
		l.Fault = "no member of a cluster writes such an entry"
	}
}

// longest is how many bytes of a key or value are shown.
func (d *Dump) longest() int {
	if d.Full {
		return math.MaxInt
	}
	return 64
}

func changeText(cc *raftpb.ConfChange) string {
	text := fmt.Sprintf("method=%v id=%s", cc.GetType(), member.ID(cc.GetNodeId()))
	if cc.GetId() != 0 {
		text += fmt.Sprintf(" request=%016x", cc.GetId())
	}
	if len(cc.GetContext()) > 0 {
		text += " context=" + strings.ToValidUTF8(string(cc.GetContext()), "\uFFFD")
	}
	return text
}
