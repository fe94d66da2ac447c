package mvcc

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/store"
)

// Event is one change of one key, as watchers are told of it. It never
// changes; any goroutine may use it.
type Event struct {
	entry    *entry // nil when read from a row
	key      string
	revision Revision
	create   int64
	dead     bool
	row      []byte // the row's value; of a tombstone only the key
	kv       atomic.Pointer[[]byte]
}

// Group is the events of one main revision, in order.
type Group struct {
	Revision int64
	Events   []*Event
	records  []*record // the writer's, until their rows are on disk
	bytes    int       // of the rows; the writer's
}

func newEvent(e *entry, r *record, wire []byte) *Event {
	return &Event{entry: e, key: e.key, revision: r.revision(), create: r.create, dead: r.dead, row: wire}
}

// Key is the key that changed.
func (e *Event) Key() string { return e.key }

// Revision is where in history it changed.
func (e *Event) Revision() Revision { return e.revision }

// Delete reports whether the key was deleted.
func (e *Event) Delete() bool { return e.dead }

// Created reports whether the key did not exist before.
func (e *Event) Created() bool { return !e.dead && e.create == e.revision.Main }

// KV is the serialized KeyValue that watchers see: all of it for a put, key and
// mod revision for a deletion. Read-only.
func (e *Event) KV() []byte {
	if !e.dead {
		return e.row
	}
	if kv := e.kv.Load(); kv != nil {
		return *kv
	}
	kv := encode(e.key, 0, e.revision.Main, 0, nil, 0)
	e.kv.Store(&kv)
	return kv
}

// Previous returns the serialized KeyValue that the key had before the event's
// revision; ok is false if there was none or it lies behind the compaction.
func (v *View) Previous(e *Event) (kv []byte, ok bool, err error) {
	if e.Created() || e.revision.Main-1 < v.compacted {
		return nil, false, nil
	}
	entry := e.entry
	if entry == nil {
		if entry = v.points.find([]byte(e.key)); entry == nil {
			return nil, false, nil
		}
	}
	r := entry.at(e.revision.Main - 1)
	if r == nil || r.dead {
		return nil, false, nil
	}
	s := session{view: v}
	defer s.close()
	kv, err = s.wire(r)
	if err == ErrCollected { //nolint:errorlint // wire returns it bare
		return nil, false, nil
	}
	return kv, err == nil, err
}

// Events returns history from revision from on, whole revisions in order, of
// the keys in span: at most maxRevisions revisions that have such events and
// about maxBytes of them. Next is the first revision that was not looked at;
// it is past Revision once everything was read.
func (v *View) Events(span Span, from int64, maxRevisions, maxBytes int) (groups []*Group, next int64, err error) {
	if from < v.compacted || v.overtaken(from) {
		return nil, from, ErrCompacted
	}
	first := v.revision + 1
	if len(v.tail) > 0 {
		first = v.tail[0].Revision
	}
	g := gathering{span: span, maxRevisions: maxRevisions, maxBytes: maxBytes, next: from}
	if from < first {
		if err := v.scan(&g, from, first); err != nil {
			return nil, from, err
		}
		if v.overtaken(from) {
			return nil, from, ErrCompacted
		}
	}
	for _, group := range v.tail[groupIndex(v.tail, g.next):] {
		if g.full {
			break
		}
		for _, e := range group.Events {
			if span.Contains([]byte(e.key)) {
				g.add(e)
			}
		}
		g.end(group.Revision)
	}
	if !g.full {
		g.next = v.revision + 1
	}
	return g.groups, g.next, nil
}

// gathering collects events into groups up to its bounds.
type gathering struct {
	span                   Span
	maxRevisions, maxBytes int
	groups                 []*Group
	open                   []*Event // of the revision being read
	bytes                  int
	next                   int64
	full                   bool
}

func (g *gathering) add(e *Event) {
	g.open = append(g.open, e)
	g.bytes += len(e.row)
}

// end closes revision rev.
func (g *gathering) end(rev int64) {
	if len(g.open) > 0 {
		g.groups = append(g.groups, &Group{Revision: rev, Events: g.open})
		g.open = nil
	}
	g.next = rev + 1
	g.full = len(g.groups) >= g.maxRevisions || g.bytes >= g.maxBytes
}

// scan gathers from the rows of revisions from <= rev < to.
func (v *View) scan(g *gathering, from, to int64) error {
	reader, err := v.rows()
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	defer reader.Close()
	var bad error
	var last int64
	reader.Scan(store.Key, Revision{Main: from}.Append(nil), Revision{Main: to}.Append(nil), func(k, value []byte) bool {
		rev, dead, err := ParseKey(k)
		if err != nil {
			bad = err
			return false
		}
		if rev.Main != last && last != 0 {
			if g.end(last); g.full {
				return false
			}
		}
		last = rev.Main
		f, err := decode(value)
		if err != nil {
			bad = fmt.Errorf("row %v: %w", rev, err)
			return false
		}
		if g.span.Contains(f.key) {
			g.add(&Event{key: string(f.key), revision: rev, create: f.create, dead: dead, row: append([]byte(nil), value...)})
		}
		return true
	})
	if bad != nil {
		return fmt.Errorf("read history: %w", bad)
	}
	if !g.full && last != 0 {
		g.end(last)
	}
	return nil
}

// mvccpb.Event's fields: 1 type, 2 kv, 3 prev_kv.
const (
	eventType     = 1
	eventKV       = 2
	eventPrevious = 3
)

// Append appends the serialized mvccpb.Event, with previous if it is not nil.
func (e *Event) Append(b, previous []byte) []byte {
	if e.dead {
		b = appendInt(b, eventType, 1)
	}
	b = appendMessage(b, eventKV, e.KV())
	if previous != nil {
		b = appendMessage(b, eventPrevious, previous)
	}
	return b
}

// Size is the length of what Append appends.
func (e *Event) Size(previous []byte) int {
	n := 1 + protowire.SizeBytes(len(e.KV()))
	if e.dead {
		n += 2
	}
	if previous != nil {
		n += 1 + protowire.SizeBytes(len(previous))
	}
	return n
}

func appendMessage(b []byte, field protowire.Number, message []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, message)
}
