package mvcc

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

type (
	// Order is the direction that a range is sorted in; the values are etcd's.
	Order int32
	// Target is what a range is sorted by; the values are etcd's.
	Target int32
)

// The orders and targets of a query.
const (
	Unsorted   Order = 0
	Ascending  Order = 1
	Descending Order = 2

	ByKey     Target = 0
	ByVersion Target = 1
	ByCreate  Target = 2
	ByMod     Target = 3
	ByValue   Target = 4
)

// Query asks for the keys of a span at a revision.
type Query struct {
	Span
	Revision  int64 // 0: the newest
	Limit     int64 // 0 and below: all
	KeysOnly  bool  // values, and leases with them, are left out
	CountOnly bool
	// Partial stops looking at the limit: Count is then what was seen until
	// there, and says nothing of the rest.
	Partial bool
	Order   Order
	Target  Target
	// Bounds on the revisions of a key, inclusive; 0: none.
	MinMod, MaxMod, MinCreate, MaxCreate int64
}

// Page is the answer to a Query.
type Page struct {
	KVs      [][]byte // each a serialized KeyValue, read-only
	Count    int64    // keys of the span alive at the revision, whatever the bounds and the limit
	More     bool     // the limit left some out
	Revision int64    // the newest revision when the query ran
}

// plain reports whether the answer is the keys as they come, whole.
func (q *Query) plain() bool {
	return !q.CountOnly && !q.KeysOnly && !q.bounded() && q.Target == ByKey && q.Order != Descending
}

// list answers a plain query: most are, and long ones want no second pass.
func (s *session) list(q *Query, rev int64, page *Page) (err error) {
	limit, most := int64(math.MaxInt64), q.fetch()
	if q.Limit > 0 {
		limit = q.Limit
	}
	walk(s.view.index, s.view.points, q.Span, func(e *entry) bool {
		r := e.at(rev)
		if r == nil || r.dead {
			return true
		}
		if page.Count++; page.Count <= limit {
			var wire []byte
			if wire, err = s.wire(r); err != nil {
				return false
			}
			page.KVs = append(page.KVs, wire)
		}
		return !q.Partial || page.Count < most
	})
	page.More = page.Count > limit
	return err
}

// hit is a key that the query found.
type hit struct {
	entry  *entry
	record *record
}

func (q *Query) sorted() bool {
	return q.Order != Unsorted && (q.Target != ByKey || q.Order != Ascending)
}

func (q *Query) bounded() bool {
	return q.MinMod != 0 || q.MaxMod != 0 || q.MinCreate != 0 || q.MaxCreate != 0
}

// fetch is how many keys are gathered before bounds, sort and limit; one more
// than the limit tells whether there are more. Without a sort order the first
// keys are taken and then sorted by the target, as etcd does.
func (q *Query) fetch() int64 {
	if q.sorted() || q.bounded() || q.Limit <= 0 || q.Limit == math.MaxInt64 {
		return math.MaxInt64
	}
	return q.Limit + 1
}

// Range answers q. The order of its steps is etcd's: gather in key order,
// apply the bounds, sort, cut at the limit, drop the values.
func (v *View) Range(q Query) (Page, error) {
	rev, err := v.check(q.Revision)
	if err != nil {
		return Page{}, err
	}
	page := Page{Revision: v.revision}
	s := session{view: v}
	defer s.close()
	switch {
	case q.plain():
		if err := s.list(&q, rev, &page); err != nil {
			return Page{}, err
		}
	case q.CountOnly:
		_, page.Count = v.gather(&q, rev)
	default:
		var hits []hit
		hits, page.Count = v.gather(&q, rev)
		if hits, err = s.arrange(&q, hits); err != nil {
			return Page{}, err
		}
		if q.Limit > 0 && int64(len(hits)) > q.Limit {
			hits, page.More = hits[:q.Limit], true
		}
		if page.KVs, err = s.wires(&q, hits); err != nil {
			return Page{}, err
		}
	}
	if v.overtaken(rev) {
		return Page{}, ErrCollected
	}
	return page, nil
}

func (v *View) gather(q *Query, rev int64) (hits []hit, count int64) {
	limit := q.fetch()
	if q.CountOnly {
		limit = 0
	}
	walk(v.index, v.points, q.Span, func(e *entry) bool {
		if r := e.at(rev); r != nil && !r.dead {
			if count++; count <= limit {
				hits = append(hits, hit{e, r})
			}
		}
		return !q.Partial || count < limit
	})
	return hits, count
}

// arrange applies the bounds and the sort order.
func (s *session) arrange(q *Query, hits []hit) ([]hit, error) {
	if q.bounded() {
		hits = slices.DeleteFunc(hits, func(h hit) bool { return q.outside(h.record) })
	}
	if q.Order == Unsorted && q.Target == ByKey || q.Order == Ascending && q.Target == ByKey {
		return hits, nil // gathered in this order
	}
	compare, err := s.comparison(q.Target, hits)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(hits, func(a, b hit) int {
		if q.Order == Descending {
			return compare(b, a)
		}
		return compare(a, b)
	})
	return hits, nil
}

func (q *Query) outside(r *record) bool {
	return q.MaxMod != 0 && r.main > q.MaxMod || q.MinMod != 0 && r.main < q.MinMod ||
		q.MaxCreate != 0 && r.create > q.MaxCreate || q.MinCreate != 0 && r.create < q.MinCreate
}

func (s *session) comparison(target Target, hits []hit) (func(a, b hit) int, error) {
	switch target {
	case ByVersion:
		return func(a, b hit) int { return cmp.Compare(a.record.version, b.record.version) }, nil
	case ByCreate:
		return func(a, b hit) int { return cmp.Compare(a.record.create, b.record.create) }, nil
	case ByMod:
		return func(a, b hit) int { return cmp.Compare(a.record.main, b.record.main) }, nil
	case ByValue:
		values := make(map[*record][]byte, len(hits))
		for _, h := range hits {
			wire, err := s.wire(h.record)
			if err != nil {
				return nil, err
			}
			f, err := decode(wire)
			if err != nil {
				return nil, err
			}
			values[h.record] = f.value
		}
		return func(a, b hit) int { return bytes.Compare(values[a.record], values[b.record]) }, nil
	default:
		return func(a, b hit) int { return cmp.Compare(a.entry.key, b.entry.key) }, nil
	}
}

// wires serializes the hits. With KeysOnly the answer comes from the index,
// which does not show leases (as in etcd 3.7), unless the values were read for
// sorting anyway.
func (s *session) wires(q *Query, hits []hit) ([][]byte, error) {
	if len(hits) == 0 {
		return nil, nil
	}
	kvs := make([][]byte, len(hits))
	for i, h := range hits {
		if q.KeysOnly {
			lease := h.record.lease
			if q.Target != ByValue {
				lease = 0
			}
			kvs[i] = encode(h.entry.key, h.record.create, h.record.main, h.record.version, nil, lease)
			if err := s.spent(kvs[i]); err != nil {
				return nil, err
			}
			continue
		}
		wire, err := s.wire(h.record)
		if err != nil {
			return nil, err
		}
		kvs[i] = wire
	}
	return kvs, nil
}
