// Package mvcc keeps the keyspace and its past: every key's revisions in an
// index in memory, their values in rows that are written behind it, ranges and
// events at any revision since the last compaction.
//
// It has no goroutine, no lock and no clock. One caller, the machine, may
// change a Keyspace; any number of goroutines may read the Views it hands out.
// It knows nothing of leases, permissions or requests. DESIGN.md says how
// readers and the writer stay apart.
package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrCompacted says that the revision asked for lies behind the last
	// compaction.
	ErrCompacted = errors.New("required revision has been compacted")
	// ErrFuture says that the revision asked for has not been written yet.
	ErrFuture = errors.New("required revision is a future revision")
	// ErrCollected says that a view has been overtaken: a compaction past its
	// revision has begun to remove what it shows. Take a newer view and ask
	// again; there the answer is right or ErrCompacted.
	ErrCollected = errors.New("the view has been overtaken by a compaction")
)

// Revision is the place of one change in the history of the keyspace.
type Revision struct {
	Main int64 // one for every transaction that changed something
	Sub  int64 // 0, 1, … for the changes of one transaction, in order
}

// Before reports whether r comes before o in history.
func (r Revision) Before(o Revision) bool {
	return r.Main < o.Main || r.Main == o.Main && r.Sub < o.Sub
}

func (r Revision) String() string { return fmt.Sprintf("%d_%d", r.Main, r.Sub) }

const (
	revisionBytes  = 17  // main, '_', sub
	tombstoneBytes = 18  // the same and 't'
	tombstoneMark  = 't' // last byte of a tombstone's row key
)

// Append appends the row key of r: main and sub as 8 bytes big-endian, joined
// by an underscore (etcd's format).
func (r Revision) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Main))
	b = append(b, '_')
	return binary.BigEndian.AppendUint64(b, uint64(r.Sub))
}

// ParseKey reads a row key of the bucket "key".
func ParseKey(k []byte) (rev Revision, tombstone bool, err error) {
	if len(k) != revisionBytes && (len(k) != tombstoneBytes || k[revisionBytes] != tombstoneMark) || k[8] != '_' {
		return rev, false, fmt.Errorf("row key %x is not a revision", k)
	}
	rev.Main = int64(binary.BigEndian.Uint64(k))
	rev.Sub = int64(binary.BigEndian.Uint64(k[9:]))
	if rev.Main < 0 || rev.Sub < 0 {
		return rev, false, fmt.Errorf("row key %x is a negative revision", k)
	}
	return rev, len(k) == tombstoneBytes, nil
}

// Span is an interval of keys in etcd's notation: without End the one key,
// with End = {0} every key from Key on, else Key <= k < End.
type Span struct{ Key, End []byte }

// Single reports whether the span is one key.
func (s Span) Single() bool { return len(s.End) == 0 }

// Open reports whether the span has no upper end.
func (s Span) Open() bool { return len(s.End) == 1 && s.End[0] == 0 }

// Contains reports whether key lies in the span.
func (s Span) Contains(key []byte) bool {
	switch {
	case s.Single():
		return bytes.Equal(key, s.Key)
	case s.Open():
		return bytes.Compare(key, s.Key) >= 0
	default:
		return bytes.Compare(key, s.Key) >= 0 && bytes.Compare(key, s.End) < 0
	}
}

// Empty reports whether no key can lie in the span.
func (s Span) Empty() bool {
	return !s.Single() && !s.Open() && bytes.Compare(s.Key, s.End) >= 0
}
