package mvcc

import (
	"fmt"
	"hash/crc32"

	"kvd/internal/store"
)

// HashKV is etcd's hash of the keyspace's history at revision rev (0: the
// newest), equal on all members: CRC-32C over the row keys and values that a
// compaction at rev would keep. Revisions that are not on disk yet are not
// seen: flush the store through the view first. A negative rev hashes nothing.
func (v *View) HashKV(rev int64) (hash uint32, compacted, at int64, err error) {
	switch {
	case rev == 0:
		rev = v.revision
	case rev > v.revision:
		return 0, 0, 0, ErrFuture
	case rev > 0 && rev < v.compacted:
		return 0, 0, 0, ErrCompacted
	}
	reader, err := v.rows()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("hash: %w", err)
	}
	defer reader.Close()
	table := crc32.MakeTable(crc32.Castagnoli)
	hash = crc32.Update(0, table, []byte(store.Key))
	keep := v.keepsAny(rev)
	var bad error
	reader.Scan(store.Key, nil, nil, func(k, value []byte) bool {
		var row Revision
		var dead, counts bool
		if row, dead, bad = ParseKey(k); bad != nil || row.Main > rev {
			return false
		}
		if counts, bad = v.counts(row, dead, rev, keep, value); bad != nil {
			return false
		}
		if counts {
			hash = crc32.Update(crc32.Update(hash, table, k), table, value)
		}
		return true
	})
	if bad != nil {
		return 0, 0, 0, fmt.Errorf("hash: %w", bad)
	}
	if v.overtaken(rev) {
		return 0, 0, 0, ErrCollected
	}
	return hash, v.compacted, rev, nil
}

// keepsAny reports whether a compaction at rev would keep anything. While it
// would not, etcd leaves nothing out of the hash that is still there.
func (v *View) keepsAny(rev int64) (found bool) {
	v.index.Scan(func(e *entry) bool {
		r := e.at(rev)
		found = r != nil && !r.dead
		return !found
	})
	return found
}

// counts reports whether a row belongs to the hash at rev. Rows behind the
// compaction count if they are the newest of a key alive at rev; if no key is
// alive then (keep is false), if the compaction has left them.
func (v *View) counts(row Revision, dead bool, rev int64, keep bool, value []byte) (bool, error) {
	if row.Main == v.compacted && dead {
		return false, nil // kept by new versions of etcd, removed by old ones
	}
	if row.Main > v.compacted {
		return true, nil
	}
	if !keep {
		rev = v.compacted
	}
	f, err := decode(value)
	if err != nil {
		return false, fmt.Errorf("row %v: %w", row, err)
	}
	e, ok := v.index.Get(lookup(string(f.key)))
	if !ok {
		return false, nil
	}
	r := e.at(rev)
	return r != nil && !r.dead && r.revision() == row, nil
}
