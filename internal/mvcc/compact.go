package mvcc

import (
	"fmt"
	"hash/crc32"
	"math"

	"kvd/internal/store"
)

// The rows of bucket "meta" that belong to compaction.
const (
	scheduledCompact = "scheduledCompactRev"
	finishedCompact  = "finishedCompactRev"
)

// hashBytes is how much of rows a piece of a hash reads at most, but for the row that
// exceeds it: a thousand large ones would take a second.
const hashBytes = 1 << 20

// keptHashes is how many compactions' hashes are remembered, as etcd does.
const keptHashes = 10

// CompactHash is the hash of what lay before a compaction, taken when it
// happened: members compare it long after the rows are gone.
type CompactHash struct {
	Revision int64 // of the compaction
	Previous int64 // the compaction before it, -1 if there was none
	Hash     uint32
}

// hashing is a CompactHash in the making.
type hashing struct {
	CompactHash
	keep bool
	next Revision // the first row not yet read
}

// Compact makes revisions before rev unreachable and leaves the row that lets a
// restart go on with the removal. The removal itself is Sweep's.
func (k *Keyspace) Compact(rev int64) error {
	if rev <= k.compacted {
		return ErrCompacted
	}
	if rev > k.current {
		return ErrFuture
	}
	k.hashing = nil
	if k.swept == k.compacted && rev > 0 { // else rows that belong to the hash may be gone
		k.hashing = &hashing{CompactHash: CompactHash{Revision: rev, Previous: k.compacted, Hash: crc32.Checksum([]byte(store.Key), castagnoli)}}
	}
	k.compacted = rev
	k.batch.Put(store.Meta, []byte(scheduledCompact), Revision{Main: rev}.Append(nil))
	return nil
}

// Sweep does a piece of the last compaction: first its hash is taken, over at
// most limit rows (or hashBytes of them) a call and not before all of them are on disk, then up to
// limit records a call are removed from the index and the deletion of their
// rows left in the batch. It reports whether there is more to do; the call that
// removes the last record notes the compaction as finished. An error means that
// the store cannot be read.
func (k *Keyspace) Sweep(limit int) (more bool, err error) {
	if k.swept >= k.compacted {
		return false, nil
	}
	if k.hashing != nil {
		if k.stored < k.compacted {
			return true, nil
		}
		return true, k.hash(limit)
	}
	k.shared.collected.Store(k.compacted) // before anything is removed: see View.overtaken
	for range limit {
		next, ok := k.garbage.front()
		if !ok || next.at > k.compacted {
			break
		}
		k.garbage.pop()
		k.removed++
		if next.entry.drop(next.record) {
			k.index.Delete(next.entry)
			k.points.remove(next.entry)
			k.shown = nil
		}
		k.cache.forget(next.record, next.record.main <= k.stored)
		k.batch.Delete(store.Key, next.record.rowKey(make([]byte, 0, tombstoneBytes)))
	}
	if next, ok := k.garbage.front(); ok && next.at <= k.compacted {
		return true, nil
	}
	k.swept = k.compacted
	k.batch.Put(store.Meta, []byte(finishedCompact), Revision{Main: k.compacted}.Append(nil))
	return false, nil
}

// hash feeds up to limit more rows to the hash of the compaction under way.
func (k *Keyspace) hash(limit int) (err error) {
	defer store.Catch(&err)
	h := k.hashing
	reader, err := k.rows()
	if err != nil {
		return fmt.Errorf("hash for compaction: %w", err)
	}
	defer reader.Close()
	s := sum{index: k.index, points: k.points, rev: h.Revision, compacted: h.Previous, hash: h.Hash}
	if h.next == (Revision{}) {
		h.keep = s.keepsAny(true)
	}
	s.keep = h.keep
	read, size, over := 0, 0, false
	reader.Scan(store.Key, h.next.Append(nil), Revision{Main: h.Revision + 1}.Append(nil), func(key, value []byte) bool {
		if over = read == limit || size > hashBytes; over {
			h.next, _, err = ParseKey(key)
			return false
		}
		read, size = read+1, size+len(key)+len(value)
		err = s.add(key, value)
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("hash for compaction: %w", err)
	}
	h.Hash = s.hash
	if !over {
		k.hashing = nil
		k.hashes = append(k.hashes[max(0, len(k.hashes)-keptHashes+1):len(k.hashes):len(k.hashes)], h.CompactHash)
	}
	return nil
}

// Retire tells everybody who still reads a view of this keyspace that what they
// find in the store may be missing: another keyspace takes its place. Nothing
// else may be done with it afterwards.
func (k *Keyspace) Retire() { k.shared.collected.Store(math.MaxInt64) }

// Bump adds to rows what raises the revision of the keyspace in r by that much,
// and marks all before as compacted, in the way of etcd's restore: a row of the
// empty key without a value, that the compaction leaves. Clients that have seen
// later revisions than r has are then told to list again. It returns the new
// revision.
func Bump(r store.Reader, by uint64, rows *store.Batch) (rev int64, err error) {
	last := LastRevision(r)
	if by > uint64(math.MaxInt64-1-last) {
		return 0, fmt.Errorf("the revision %d cannot be raised by %d: it would be past the last one", last, by)
	}
	at := Revision{Main: last + int64(by)}.Append(nil)
	rows.Put(store.Key, at, []byte{})
	rows.Put(store.Meta, []byte(scheduledCompact), at)
	return last + int64(by), nil
}
