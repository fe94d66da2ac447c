package mvcc

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/tidwall/btree"

	"kvd/internal/store"
)

// Part is what one interval of rows says. Parts of one store may be read by
// several goroutines at once, each with a reader of its own.
type Part struct {
	entries []*entry // by key
	garbage []removal
	last    int64 // newest main revision, 0 if there is none
	rows    int
}

// Bounds cuts the rows of r into n intervals of revisions of about equal
// length; interval i is bounds[i] <= main < bounds[i+1].
func Bounds(r store.Reader, n int) ([]int64, error) {
	last := lastRevision(r)
	bounds := make([]int64, 0, n+1)
	for i := range int64(n) {
		bounds = append(bounds, last/int64(n)*i)
	}
	return append(bounds, last+1), nil
}

// lastRevision finds the newest row's main revision by halving, as a Reader
// only scans upward.
func lastRevision(r store.Reader) int64 {
	return int64(sort.Search(math.MaxInt64-1, func(rev int) (none bool) {
		none = true
		r.Scan(store.Key, Revision{Main: int64(rev) + 1}.Append(nil), nil, func(_, _ []byte) bool {
			none = false
			return false
		})
		return none
	}))
}

// ReadPart reads the rows of main revisions from <= rev < to.
func ReadPart(r store.Reader, from, to int64) (*Part, error) {
	p := &Part{}
	known := map[string]*entry{}
	var bad error
	r.Scan(store.Key, Revision{Main: from}.Append(nil), Revision{Main: to}.Append(nil), func(k, value []byte) bool {
		bad = p.read(known, k, value)
		return bad == nil
	})
	if bad != nil {
		return nil, fmt.Errorf("read the key index: %w", bad)
	}
	p.entries = make([]*entry, 0, len(known))
	for _, e := range known {
		p.entries = append(p.entries, e)
	}
	slices.SortFunc(p.entries, func(a, b *entry) int { return cmp.Compare(a.key, b.key) })
	return p, nil
}

func (p *Part) read(known map[string]*entry, k, value []byte) error {
	rev, dead, err := ParseKey(k)
	if err != nil {
		return err
	}
	f, err := decode(value)
	if err != nil {
		return fmt.Errorf("row %v: %w", rev, err)
	}
	r := &record{main: rev.Main, sub: int32(rev.Sub), dead: dead, create: f.create, version: f.version, lease: f.lease}
	e := known[string(f.key)]
	if e == nil {
		e = &entry{key: string(f.key)}
		known[e.key] = e
	}
	if old := e.head.Load(); old != nil && !old.dead {
		p.garbage = append(p.garbage, removal{e, old, rev.Main})
	}
	if dead {
		p.garbage = append(p.garbage, removal{e, r, rev.Main + 1})
	}
	e.push(r)
	p.last = rev.Main
	p.rows++
	return nil
}

// Assemble makes a keyspace of the parts, in ascending order of revisions.
// Visit is called for every living key that hangs on a lease, in key order.
func Assemble(o Options, rows Rows, meta store.Reader, visit func(key string, lease int64), parts ...*Part) (*Keyspace, error) {
	k := newKeyspace(o, rows)
	var garbage []removal
	var merged []*entry
	for _, p := range parts {
		m := merger{into: map[*entry]*entry{}}
		merged = m.merge(merged, p.entries)
		for i, g := range p.garbage {
			if e, ok := m.into[g.entry]; ok {
				p.garbage[i].entry = e
			}
		}
		garbage = append(append(garbage, m.garbage...), p.garbage...)
		k.current = max(k.current, p.last)
	}
	slices.SortStableFunc(garbage, func(a, b removal) int { return cmp.Compare(a.at, b.at) })
	k.garbage.items = garbage
	var hint btree.PathHint
	for _, e := range merged {
		k.index.SetHint(e, &hint)
		r := e.head.Load()
		if r.dead {
			continue
		}
		k.living++
		if r.lease != 0 {
			visit(e.key, r.lease)
		}
	}
	if err := k.loadCompaction(meta); err != nil {
		return nil, err
	}
	k.stored = k.current
	return k, nil
}

// merger joins the entries of two parts.
type merger struct {
	into    map[*entry]*entry // entries of the newer part that were joined into one of the older
	garbage []removal         // what follows from the joins
}

// merge joins two lists in key order; of a key in both, the older entry takes
// over the newer one's records.
func (m *merger) merge(older, newer []*entry) []*entry {
	if len(older) == 0 {
		return newer
	}
	merged := make([]*entry, 0, len(older)+len(newer))
	for len(older) > 0 && len(newer) > 0 {
		switch c := cmp.Compare(older[0].key, newer[0].key); {
		case c < 0:
			merged, older = append(merged, older[0]), older[1:]
		case c > 0:
			merged, newer = append(merged, newer[0]), newer[1:]
		default:
			m.join(older[0], newer[0])
			merged, older, newer = append(merged, older[0]), older[1:], newer[1:]
		}
	}
	merged = append(merged, older...)
	return append(merged, newer...)
}

func (m *merger) join(a, b *entry) {
	m.into[b] = a
	var records []*record
	if p := b.past.Load(); p != nil {
		records = p.records
	}
	records = append(records[:len(records):len(records)], b.head.Load())
	if old := a.head.Load(); !old.dead {
		m.garbage = append(m.garbage, removal{a, old, records[0].main})
	}
	for _, r := range records {
		a.push(r)
	}
}

// loadCompaction reads how far the past was compacted. A compaction that was
// scheduled but not finished is gone on with by Sweep.
func (k *Keyspace) loadCompaction(meta store.Reader) error {
	for _, row := range []struct {
		name string
		to   *int64
	}{{finishedCompact, &k.swept}, {scheduledCompact, &k.compacted}} {
		value := meta.Value(store.Meta, []byte(row.name))
		if value == nil {
			continue
		}
		rev, _, err := ParseKey(value)
		if err != nil {
			return fmt.Errorf("read meta/%s: %w", row.name, err)
		}
		*row.to = rev.Main
	}
	k.compacted = max(k.compacted, k.swept)
	k.current = max(k.current, k.compacted)
	k.shared.collected.Store(max(k.swept, 0))
	return nil
}

// Load reads a whole keyspace with one reader.
func Load(o Options, rows Rows, r store.Reader, visit func(key string, lease int64)) (*Keyspace, error) {
	whole, err := ReadPart(r, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return Assemble(o, rows, r, visit, whole)
}
