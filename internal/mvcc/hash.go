package mvcc

import (
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/tidwall/btree"

	"kvd/internal/store"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// HashKV is etcd's hash of the keyspace's history at revision rev (0: the
// newest), equal on all members: CRC-32C over the row keys and values that a
// compaction at rev would keep. Asked for the revision of one of the last
// compactions, it is the hash that was taken then. Revisions that are not on disk yet are
// not seen: flush the store through the view first. A negative rev hashes
// nothing.
func (v *View) HashKV(rev int64) (hash uint32, compacted, at int64, err error) {
	defer store.Catch(&err)
	for _, h := range v.hashes {
		if h.Revision == rev {
			return h.Hash, h.Previous, rev, nil
		}
	}
	switch {
	case rev == 0:
		rev = v.revision
	case rev > v.revision:
		return 0, 0, 0, ErrFuture
	case rev < 0: // before everything
		return crc32.Checksum([]byte(store.Key), castagnoli), v.compacted, rev, nil
	case rev < v.compacted:
		return 0, 0, 0, ErrCompacted
	}
	reader, err := v.rows()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("hash: %w", err)
	}
	defer reader.Close()
	s := sum{index: v.index, points: v.points, rev: rev, compacted: v.compacted, hash: crc32.Checksum([]byte(store.Key), castagnoli)}
	s.keep = s.keepsAny(false)
	reader.Scan(store.Key, nil, Revision{Main: rev + 1}.Append(nil), func(key, value []byte) bool {
		err = s.add(key, value)
		return err == nil
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("hash: %w", err)
	}
	if v.overtaken(rev) {
		return 0, 0, 0, ErrCollected
	}
	return s.hash, v.compacted, rev, nil
}

// CompactHashes are the hashes of the last compactions, the newest first.
func (v *View) CompactHashes() []CompactHash {
	all := slices.Clone(v.hashes)
	slices.Reverse(all)
	return all
}

// sum is a hash at revision rev in the making.
type sum struct {
	index          *btree.BTreeG[*entry]
	points         *points
	rev, compacted int64
	keep           bool // some key is alive at rev
	hash           uint32
}

// keepsAny reports whether a compaction at rev would keep anything. While it
// would not, etcd leaves nothing out of the hash that is still there. The hash
// of a compaction counts the tombstones of its own revision as kept.
func (s *sum) keepsAny(tombstones bool) (found bool) {
	s.index.Scan(func(e *entry) bool {
		r := kept(e, s.rev)
		found = r != nil && (!r.dead || tombstones)
		return !found
	})
	return found
}

// kept returns the record of e that etcd counts as kept by a compaction at
// rev: the newest, and a tombstone only if it is of that very revision. A key
// that one transaction has deleted and put again counts as deleted.
func kept(e *entry, rev int64) *record {
	r := e.at(rev)
	switch {
	case r == nil || r.dead && r.main < rev:
		return nil
	case r.dead || r.main < rev || r.create < rev:
		return r
	}
	for sub := int64(r.sub) - 1; sub >= 0; sub-- {
		if before := e.find(Revision{rev, sub}); before != nil && before.dead {
			return before
		}
	}
	return r
}

// add feeds one row, if it belongs to the hash.
func (s *sum) add(key, value []byte) error {
	row, dead, err := ParseKey(key)
	if err != nil {
		return err
	}
	counts, err := s.counts(row, dead, value)
	if err == nil && counts {
		s.hash = crc32.Update(crc32.Update(s.hash, castagnoli, key), castagnoli, value)
	}
	return err
}

// counts reports whether a row belongs to the hash. Rows behind the compaction
// count if they are the newest of a key alive at rev; if no key is alive then,
// if the compaction has left them.
func (s *sum) counts(row Revision, dead bool, value []byte) (bool, error) {
	if row.Main == s.compacted && dead {
		return false, nil // kept by new versions of etcd, removed by old ones
	}
	if row.Main > s.compacted {
		return true, nil
	}
	f, err := decode(value)
	if err != nil {
		return false, fmt.Errorf("row %v: %w", row, err)
	}
	e := s.points.find(f.key)
	if e == nil {
		return false, nil
	}
	r := kept(e, s.rev)
	if !s.keep {
		r = e.at(s.compacted)
	}
	return r != nil && !r.dead && r.revision() == row, nil
}
