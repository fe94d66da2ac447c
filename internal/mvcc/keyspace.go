package mvcc

import (
	"fmt"
	"sync/atomic"

	"github.com/tidwall/btree"

	"kvd/internal/store"
)

const (
	// degree of the index: 32 keeps a copied path at about 3 KiB.
	degree = 32
	// tailGroups and tailBytes bound what is kept in memory of what is on disk
	// already, so that a watcher that lags a little is served without reading
	// rows.
	tailGroups = 512
	tailBytes  = 8 << 20

	defaultCacheBytes = 64 << 20
)

// Options tune a keyspace. A zero field takes the default named beside it.
type Options struct {
	CacheBytes int64 // values kept in memory, by their serialized size; 64 MiB; negative: none
}

// Rows opens the rows as they are on disk now.
type Rows func() (store.Reader, error)

// Keyspace is every key with its past. One goroutine owns it.
type Keyspace struct {
	index   *btree.BTreeG[*entry]
	points  *points
	shown   *btree.BTreeG[*entry] // copy of index that views share; nil after a change
	current int64                 // newest main revision
	// compacted is the revision of the last compaction, -1 before the first.
	compacted int64
	swept     int64 // compaction whose removals are complete, -1 before the first
	garbage   fifo[removal]
	tail      []*Group      // revisions not on disk and some before them, ascending
	spare     int           // bytes of the tail that are on disk
	stored    int64         // newest main revision whose rows are on disk
	hashing   *hashing      // of the compaction under way; nil: none, or done
	hashes    []CompactHash // of the last compactions, ascending; replaced, never edited
	living    int           // keys that are not deleted
	removed   int64         // records that compactions have removed since the start
	cache     *cache
	shared    *shared
	rows      Rows
	batch     *store.Batch // where changes leave their rows
	write     Write
}

// shared is what views and the writer tell each other.
type shared struct {
	// collected is the compaction that removals have been begun for: what a
	// view finds below it may be incomplete.
	collected atomic.Int64
}

// removal is a record that a compaction at revision at or later removes.
type removal struct {
	entry  *entry
	record *record
	at     int64
}

func newKeyspace(o Options, rows Rows) *Keyspace {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	return &Keyspace{
		index:     btree.NewBTreeGOptions(byKey, btree.Options{Degree: degree, NoLocks: true}),
		current:   1,
		compacted: -1,
		swept:     -1,
		cache:     newCache(max(o.CacheBytes, 0)),
		shared:    &shared{},
		rows:      rows,
		batch:     &store.Batch{},
	}
}

// Revision is the newest main revision.
func (k *Keyspace) Revision() int64 { return k.current }

// Compacted is the revision of the last compaction, -1 before the first.
func (k *Keyspace) Compacted() int64 { return k.compacted }

// Swept is the newest compaction whose rows are all removed.
func (k *Keyspace) Swept() int64 { return k.swept }

// Removed is how many records compactions have removed since the start.
func (k *Keyspace) Removed() int64 { return k.removed }

// Batch is where changes leave their rows; the machine takes it.
func (k *Keyspace) Batch() *store.Batch { return k.batch }

// Use makes b the batch that later changes leave their rows in.
func (k *Keyspace) Use(b *store.Batch) { k.batch = b }

// Stored tells that the rows of all revisions up to rev are on disk: their
// values may leave memory.
func (k *Keyspace) Stored(rev int64) {
	if rev < k.stored || rev > k.current {
		panic(fmt.Sprintf("mvcc: stored %d, was %d, current %d", rev, k.stored, k.current))
	}
	for _, g := range k.tail[k.tailIndex(k.stored+1):k.tailIndex(rev+1)] {
		for _, r := range g.records {
			k.cache.add(r)
		}
		g.records = nil
		k.spare += g.bytes
	}
	k.stored = rev
	cut := 0
	for have := k.tailIndex(rev + 1); cut < have && (have-cut > tailGroups || k.spare > tailBytes); cut++ {
		k.spare -= k.tail[cut].bytes
	}
	k.tail = k.tail[cut:]
	k.cache.evict()
}

// Tidy takes over what readers put into the cache and evicts what is over the
// budget.
func (k *Keyspace) Tidy() { k.cache.evict() }

// tailIndex is the place in the tail of the first group at or after rev.
func (k *Keyspace) tailIndex(rev int64) int { return groupIndex(k.tail, rev) }

func groupIndex(groups []*Group, rev int64) int {
	lo, hi := 0, len(groups)
	for lo < hi {
		if mid := (lo + hi) / 2; groups[mid].Revision < rev {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// View is the keyspace as it is now, immutable, for any goroutine.
func (k *Keyspace) View() *View {
	if k.shown == nil {
		k.shown = k.index.Copy()
	}
	return &View{
		index:     k.shown,
		points:    k.points,
		revision:  k.current,
		compacted: k.compacted,
		tail:      k.tail,
		hashes:    k.hashes,
		living:    k.living,
		cache:     k.cache,
		shared:    k.shared,
		rows:      k.rows,
	}
}

// fifo is a queue that lets go of what has been taken.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) push(v T) { q.items = append(q.items, v) }

func (q *fifo[T]) front() (v T, ok bool) {
	if q.head == len(q.items) {
		return v, false
	}
	return q.items[q.head], true
}

func (q *fifo[T]) pop() {
	var zero T
	q.items[q.head] = zero
	q.head++
	if q.head*2 > len(q.items) && q.head > 1024 || q.head == len(q.items) {
		q.items = append(q.items[:0:0], q.items[q.head:]...)
		q.head = 0
	}
}
