// Package lease keeps the cluster's leases: who holds one, for how long, and
// which keys go when it ends. It has no clock and no goroutine: callers pass
// the time in. The machine alone may change the Book; a View is for anyone. The
// leader's loop owns the Deadlines.
package lease

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tidwall/btree"

	"kvd/internal/store"
)

// MaxTTL is the longest lease that is granted, in seconds.
const MaxTTL = 9_000_000_000

var (
	// ErrNotFound means that there is no lease of that ID.
	ErrNotFound = errors.New("requested lease not found")
	// ErrTooLarge means that a lease would outlast MaxTTL.
	ErrTooLarge = errors.New("too large lease TTL")
	// ErrExists means that the ID is taken.
	ErrExists = errors.New("lease already exists")
)

// ID names a lease. Zero is no lease; negative ones are as good as others.
type ID int64

// Lease is what the cluster has agreed on about a lease. When it ends is the
// leader's to say.
type Lease struct {
	ID        ID
	TTL       int64 // seconds, as granted
	Remaining int64 // seconds left at the last checkpoint; 0 when there was none
}

// Left is the time in seconds that a new leader gives the lease.
func (l Lease) Left() int64 {
	if l.Remaining > 0 {
		return l.Remaining
	}
	return l.TTL
}

// attachment orders the keys by lease, so that the keys of one stand together.
type attachment struct {
	id  ID
	key string
}

func before(a, b attachment) bool {
	if a.id != b.id {
		return a.id < b.id
	}
	return a.key < b.key
}

// Book holds every lease and the keys attached to it.
type Book struct {
	leases *btree.Map[ID, Lease]
	keys   *btree.BTreeG[attachment]
	view   View // the last one given out; empty when something has changed since
}

// Load reads the leases. The keys are not in their rows: who reads the keyspace
// attaches them again.
func Load(r store.Reader) (*Book, error) {
	b := &Book{
		leases: btree.NewMap[ID, Lease](8), // small nodes: each view makes the next change copy a path of them
		keys:   btree.NewBTreeGOptions(before, btree.Options{NoLocks: true}),
	}
	var err error
	r.Scan(store.Lease, nil, nil, func(key, value []byte) bool {
		var l Lease
		if l, err = decode(value); err != nil {
			err = fmt.Errorf("load lease %x: %w", key, err)
			return false
		}
		b.leases.Set(l.ID, l)
		return true
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Raise lifts every TTL below minTTL to it, in memory alone: the least TTL is
// an option of each member, and may have changed since the grant.
func (b *Book) Raise(minTTL int64) {
	var low []Lease
	b.leases.Scan(func(_ ID, l Lease) bool {
		if l.TTL < minTTL {
			low = append(low, l)
		}
		return true
	})
	for _, l := range low {
		l.TTL = minTTL
		b.set(l)
	}
}

// Grant begins a lease of ttl seconds, or of minTTL if that is more.
func (b *Book) Grant(id ID, ttl, minTTL int64, rows *store.Batch) (Lease, error) {
	if id == 0 {
		return Lease{}, fmt.Errorf("grant lease 0: %w", ErrNotFound)
	}
	if ttl > MaxTTL {
		return Lease{}, fmt.Errorf("grant lease %x for %d s: %w", id, ttl, ErrTooLarge)
	}
	if _, ok := b.leases.Get(id); ok {
		return Lease{}, fmt.Errorf("grant lease %x: %w", id, ErrExists)
	}
	l := Lease{ID: id, TTL: max(ttl, minTTL)}
	b.set(l)
	key, value := l.encode()
	rows.Put(store.Lease, key, value)
	return l, nil
}

// Revoke ends a lease and returns the keys that go with it, in key order. They
// are detached.
func (b *Book) Revoke(id ID, rows *store.Batch) (keys []string, err error) {
	if _, ok := b.leases.Get(id); !ok {
		return nil, fmt.Errorf("revoke lease %x: %w", id, ErrNotFound)
	}
	keys = b.Keys(id)
	for _, key := range keys {
		b.Detach(id, key)
	}
	b.leases.Delete(id)
	b.view = View{}
	rows.Delete(store.Lease, row(id))
	return keys, nil
}

// Checkpoint notes how many seconds a lease had left; 0 takes the note away.
// An unknown lease is passed over. With rows nil the note is in memory only.
func (b *Book) Checkpoint(id ID, remaining int64, rows *store.Batch) {
	l, ok := b.leases.Get(id)
	if !ok {
		return
	}
	l.Remaining = remaining
	b.set(l)
	if rows != nil {
		key, value := l.encode()
		rows.Put(store.Lease, key, value)
	}
}

func (b *Book) set(l Lease) {
	b.leases.Set(l.ID, l)
	b.view = View{}
}

// Attach lets key go when the lease ends. It reports whether there is such a
// lease. A key belongs to one lease at most: callers detach it from the last.
func (b *Book) Attach(id ID, key string) bool {
	if _, ok := b.leases.Get(id); !ok {
		return false
	}
	b.keys.Set(attachment{id, key})
	b.view = View{}
	return true
}

// Detach takes key from the lease, if it is there.
func (b *Book) Detach(id ID, key string) {
	if _, ok := b.keys.Delete(attachment{id, key}); ok {
		b.view = View{}
	}
}

// Lease finds a lease.
func (b *Book) Lease(id ID) (Lease, bool) { return b.leases.Get(id) }

// Keys returns the keys of a lease in key order.
func (b *Book) Keys(id ID) []string { return keysOf(b.keys, id) }

// Len is the number of leases.
func (b *Book) Len() int { return b.leases.Len() }

// View returns the leases and keys as they are now. It costs the same for any
// number of them, and nothing when there was no change since the last.
func (b *Book) View() View {
	if b.view.leases == nil {
		b.view = View{leases: b.leases.Copy(), keys: b.keys.Copy()}
	}
	return b.view
}

// row is the key of a lease's row.
func row(id ID) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(id))
}
