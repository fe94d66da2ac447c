package mvcc

import (
	"fmt"

	"github.com/tidwall/btree"

	"kvd/internal/store"
)

// View is the keyspace at one revision, and its past back to the last
// compaction. It never changes; any goroutine may read it, without a lock.
//
// A compaction that begins later may remove what an old view shows. Every
// method notices that and returns ErrCollected: the caller takes a newer view.
type View struct {
	index     *btree.BTreeG[*entry]
	points    *points
	revision  int64
	compacted int64
	tail      []*Group
	hashes    []CompactHash
	living    int
	cache     *cache
	shared    *shared
	rows      Rows
	own       bool                  // a transaction's own view: nothing can be removed meanwhile
	spend     func(bytes int) error // is told of what answers gather; may be nil
}

// Within returns the view for one answer: spend is told of the bytes that it
// gathers, and may end it with an error.
func (v *View) Within(spend func(bytes int) error) *View {
	one := *v
	one.spend = spend
	return &one
}

// Revision is the newest main revision of the view.
func (v *View) Revision() int64 { return v.revision }

// Compacted is the last compaction's revision, -1 before the first.
func (v *View) Compacted() int64 { return v.compacted }

// Keys is the number of keys in the index, deleted ones that are not yet
// collected included.
func (v *View) Keys() int { return v.index.Len() }

// Living is the number of keys that are not deleted.
func (v *View) Living() int { return v.living }

// CacheBytes is what the value cache holds now, whenever the view was made.
func (v *View) CacheBytes() int64 { return v.cache.used.Load() }

// check says whether rev can be asked for, and which revision is meant: 0 and
// below mean the newest.
func (v *View) check(rev int64) (int64, error) {
	switch {
	case rev > v.revision:
		return 0, ErrFuture
	case rev <= 0:
		return v.revision, nil
	case rev < v.compacted:
		return 0, ErrCompacted
	}
	return rev, nil
}

// overtaken reports whether records that were visible at rev may have been
// removed. It is asked after the reading: removals are announced before they
// begin, so what was read is whole if nothing is announced by then.
func (v *View) overtaken(rev int64) bool {
	return !v.own && v.shared.collected.Load() > rev
}

// Overtaken reports whether a compaction past the view's revision has begun to
// remove records: what was read with Items and Wire before may be incomplete.
func (v *View) Overtaken() bool { return v.overtaken(v.revision) }

// walk visits the keys of span in order until visit returns false.
func walk(index *btree.BTreeG[*entry], points *points, span Span, visit func(*entry) bool) {
	if span.Single() {
		if e := points.find(span.Key); e != nil {
			visit(e)
		}
		return
	}
	end, open := string(span.End), span.Open()
	index.Ascend(&entry{key: string(span.Key)}, func(e *entry) bool {
		return (open || e.key < end) && visit(e)
	})
}

// Items visits the living keys of span, in order, until visit returns false.
func (v *View) Items(span Span, visit func(Item) bool) {
	items(v.index, v.points, span, v.revision, visit)
}

func items(index *btree.BTreeG[*entry], points *points, span Span, rev int64, visit func(Item) bool) {
	walk(index, points, span, func(e *entry) bool {
		r := e.at(rev)
		return r == nil || r.dead || visit(Item{r})
	})
}

// Wire returns the serialized KeyValue of an item, read-only.
func (v *View) Wire(i Item) ([]byte, error) {
	s := session{view: v}
	defer s.close()
	return s.wire(i.record)
}

// session reads values for one call: from memory, else from one moment of the
// store that is opened when the first is missing.
type session struct {
	view   *View
	reader store.Reader
	key    []byte
	slab   []byte // values read are copied here; the reader's memory ends with it
}

const slabBytes = 64 << 10

// spent tells of bytes that an answer is to hold.
func (s *session) spent(wire []byte) error {
	if s.view.spend == nil {
		return nil
	}
	return s.view.spend(len(wire) + kvOverhead)
}

// kvOverhead is what a key-value takes in an answer beside its bytes.
const kvOverhead = 32

// wire returns the serialized KeyValue of r, read-only.
func (s *session) wire(r *record) ([]byte, error) {
	wire, err := s.read(r)
	if err == nil {
		err = s.spent(wire)
	}
	return wire, err
}

func (s *session) read(r *record) ([]byte, error) {
	if wire := r.wire(); wire != nil {
		if !r.used.Load() {
			r.used.Store(true)
		}
		return wire, nil
	}
	if s.reader == nil {
		reader, err := s.view.rows()
		if err != nil {
			return nil, fmt.Errorf("read values: %w", err)
		}
		s.reader = reader
	}
	s.key = r.rowKey(s.key[:0])
	value := s.reader.Value(store.Key, s.key)
	if value == nil {
		if s.view.overtaken(r.main) {
			return nil, ErrCollected
		}
		return nil, fmt.Errorf("read values: the index knows revision %v, the store has no row for it: the database file is damaged; restore it from a snapshot or another member", r.revision())
	}
	wire := s.copy(value)
	s.view.cache.offer(r, wire)
	return wire, nil
}

func (s *session) copy(value []byte) []byte {
	if len(value) > slabBytes/8 {
		return append([]byte(nil), value...)
	}
	if len(value) > cap(s.slab)-len(s.slab) {
		s.slab = make([]byte, 0, slabBytes)
	}
	at := len(s.slab)
	s.slab = append(s.slab, value...)
	return s.slab[at:len(s.slab):len(s.slab)]
}

func (s *session) close() {
	if s.reader != nil {
		s.reader.Close()
	}
}
