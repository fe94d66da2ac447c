package mvcc

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sort"
	"unsafe"

	"kvd/internal/store"
)

// Part is what one interval of rows says. Parts of one store may be read by
// several goroutines at once, each with a reader of its own.
type Part struct {
	entries []*entry // by key
	hashes  []uint64 // of the entries' keys
	garbage []removal
	last    int64 // newest main revision, 0 if there is none
}

// Bounds cuts the rows of r into n intervals of revisions of about as many rows
// each; interval i is bounds[i] <= main < bounds[i+1].
func Bounds(r store.Reader, n int) ([]int64, error) {
	const pieces = 64 // whose rows are reckoned from a sample of each
	last := LastRevision(r)
	width := last/pieces + 1
	var weights [pieces]float64
	total := 0.0
	for i := range weights {
		weight, err := reckon(r, width*int64(i), width)
		if err != nil {
			return nil, err
		}
		weights[i] = weight
		total += weight
	}
	bounds := make([]int64, 1, n+1)
	sum := 0.0
	for i, weight := range weights {
		if sum += weight; sum*float64(n) >= total*float64(len(bounds)) && len(bounds) < n {
			bounds = append(bounds, width*int64(i+1))
		}
	}
	for len(bounds) < n {
		bounds = append(bounds, last+1)
	}
	return append(bounds, last+1), nil
}

// reckon estimates how many rows the revisions from <= main < from+width have.
func reckon(r store.Reader, from, width int64) (rows float64, err error) {
	const sample = 256
	seen, newest := 0, from
	r.Scan(store.Key, Revision{Main: from}.Append(nil), Revision{Main: from + width}.Append(nil), func(k, _ []byte) bool {
		var rev Revision
		if rev, _, err = ParseKey(k); err != nil {
			return false
		}
		newest = rev.Main
		seen++
		return seen < sample
	})
	if seen < sample {
		return float64(seen), err
	}
	return float64(seen) * float64(width) / float64(newest-from+1), err
}

// LastRevision finds the newest row's main revision by halving, as a Reader
// only scans upward.
func LastRevision(r store.Reader) int64 {
	return int64(sort.Search(math.MaxInt64-1, func(rev int) (none bool) {
		none = true
		r.Scan(store.Key, Revision{Main: int64(rev) + 1}.Append(nil), nil, func(_, _ []byte) bool {
			none = false
			return false
		})
		return none
	}))
}

// Hash is what single keys are found by. All parts of a store are read with the
// same one.
type Hash struct{ seed maphash.Seed }

// NewHash chooses one.
func NewHash() Hash { return Hash{maphash.MakeSeed()} }

// ReadPart reads the rows of main revisions from <= rev < to.
func ReadPart(h Hash, r store.Reader, from, to int64) (*Part, error) {
	l := loader{hash: h}
	var bad error
	r.Scan(store.Key, Revision{Main: from}.Append(nil), Revision{Main: to}.Append(nil), func(k, value []byte) bool {
		bad = l.read(k, value)
		return bad == nil
	})
	if bad != nil {
		return nil, fmt.Errorf("read the key index: %w", bad)
	}
	return l.part(), nil
}

// loader gathers rows, to be sorted by key once all are there: that takes half
// the time of looking every key up.
type loader struct {
	hash    Hash
	rows    chunks
	records slab[record]
	entries slab[entry]
	keys    []byte // the next keys are copied here
}

// slabItems are allocated at once while loading. They can only be freed
// together, so that what is loaded may hold as much memory later as it did at
// first, and never more.
const slabItems = 64

type slab[T any] struct{ free []T }

func (s *slab[T]) next() *T {
	if len(s.free) == 0 {
		s.free = make([]T, slabItems)
	}
	item := &s.free[0]
	s.free = s.free[1:]
	return item
}

func (l *loader) read(k, value []byte) error {
	rev, dead, err := ParseKey(k)
	if err != nil {
		return err
	}
	f, err := decode(value)
	if err != nil {
		return fmt.Errorf("row %v: %w", rev, err)
	}
	r := l.records.next()
	r.main, r.sub, r.dead, r.size = rev.Main, int32(rev.Sub), dead, uint32(len(value))
	r.create, r.version, r.lease = f.create, f.version, f.lease
	l.rows.add(loaded{key: l.copy(f.key), record: r})
	return nil
}

// copy copies a key next to the one before it.
func (l *loader) copy(key []byte) string {
	if len(key) > cap(l.keys)-len(l.keys) {
		l.keys = make([]byte, 0, max(len(key), 4<<10))
	}
	at := len(l.keys)
	l.keys = append(l.keys, key...)
	return unsafe.String(unsafe.SliceData(l.keys[at:]), len(key)) // never written again
}

// part sorts the rows and makes one entry of all that have the same key.
func (l *loader) part() *Part {
	p := &Part{entries: make([]*entry, 0, l.rows.n), hashes: make([]uint64, 0, l.rows.n)}
	if n := l.rows.n; n > 0 {
		p.last = l.rows.at(uint32(n - 1)).record.main // rows come in the order of revisions
	}
	var e *entry
	for _, place := range l.rows.byKey() {
		row := l.rows.at(place.row)
		if e == nil || e.key != row.key {
			e = l.entries.next()
			e.key = row.key
			p.entries = append(p.entries, e)
			p.hashes = append(p.hashes, maphash.String(l.hash.seed, row.key))
		}
		p.add(e, row.record)
	}
	return p
}

// add makes r the newest record of e.
func (p *Part) add(e *entry, r *record) {
	if old := e.head.Load(); old != nil && !old.dead {
		p.garbage = append(p.garbage, removal{e, old, r.main})
	}
	if r.dead {
		p.garbage = append(p.garbage, removal{e, r, r.main + 1})
	}
	e.push(r)
}

// Whole is all that the rows say, joined of its parts.
type Whole struct {
	entries []*entry // by key
	hashes  []uint64 // of the entries' keys
	garbage []removal
	last    int64
	points  *points // empty until FindByHash
}

// Join joins the parts of one store, read with h, in ascending order of revisions.
func Join(h Hash, parts ...*Part) *Whole {
	w := &Whole{}
	for _, p := range parts {
		m := merger{into: map[*entry]*entry{}}
		w.entries, w.hashes = m.merge(keyed{w.entries, w.hashes}, keyed{p.entries, p.hashes})
		for i, g := range p.garbage {
			if e, ok := m.into[g.entry]; ok {
				p.garbage[i].entry = e
			}
		}
		w.garbage = append(append(w.garbage, m.garbage...), p.garbage...)
		w.last = max(w.last, p.last)
	}
	slices.SortStableFunc(w.garbage, func(a, b removal) int { return cmp.Compare(a.at, b.at) })
	w.points = newPoints(h, len(w.entries))
	return w
}

// FindByHash prepares finding single keys: the i-th share of n. All must be done
// before the keyspace is used; they may run at the same time, and beside Assemble.
func (w *Whole) FindByHash(i, n int) {
	w.points.load(w.entries, w.hashes, i*shardCount/n, (i+1)*shardCount/n)
}

// Assemble makes a keyspace of what was read. Visit is called for every living
// key that hangs on a lease, in key order.
func Assemble(o Options, rows Rows, meta store.Reader, visit func(key string, lease int64), w *Whole) (*Keyspace, error) {
	k := newKeyspace(o, rows)
	k.points = w.points
	k.current = max(k.current, w.last)
	k.garbage.items = w.garbage
	for _, e := range w.entries {
		k.index.Load(e) // they come in order
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

// keyed is entries in key order, with the hashes of their keys.
type keyed struct {
	entries []*entry
	hashes  []uint64
}

// merge joins two lists; of a key in both, the older entry takes over the newer
// one's records.
func (m *merger) merge(older, newer keyed) ([]*entry, []uint64) {
	if len(older.entries) == 0 {
		return newer.entries, newer.hashes
	}
	merged := keyed{
		make([]*entry, 0, len(older.entries)+len(newer.entries)),
		make([]uint64, 0, len(older.entries)+len(newer.entries)),
	}
	for len(older.entries) > 0 && len(newer.entries) > 0 {
		switch c := cmp.Compare(older.entries[0].key, newer.entries[0].key); {
		case c < 0:
			merged.take(&older, 1)
		case c > 0:
			merged.take(&newer, 1)
		default:
			m.join(older.entries[0], newer.entries[0])
			merged.take(&older, 1)
			newer.entries, newer.hashes = newer.entries[1:], newer.hashes[1:]
		}
	}
	merged.take(&older, len(older.entries))
	merged.take(&newer, len(newer.entries))
	return merged.entries, merged.hashes
}

// take moves the first n of others to the end.
func (k *keyed) take(others *keyed, n int) {
	k.entries, k.hashes = append(k.entries, others.entries[:n]...), append(k.hashes, others.hashes[:n]...)
	others.entries, others.hashes = others.entries[n:], others.hashes[n:]
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
	h := NewHash()
	part, err := ReadPart(h, r, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	w := Join(h, part)
	w.FindByHash(0, 1)
	return Assemble(o, rows, r, visit, w)
}
