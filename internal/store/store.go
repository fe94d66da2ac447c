// Package store keeps named buckets of rows in one bbolt file, in etcd's
// layout, and in memory for tests. A commit is a set of batches and the stamp
// of the last log entry they hold; it is on disk whole or not at all. The
// package knows no key and no value: what a row means is the model's business.
//
// One goroutine at a time may commit; any may read. DESIGN.md
// says what may be on disk after a crash.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Bucket names a group of rows.
type Bucket string

// The buckets that every file has, as etcd 3.7 names them.
const (
	Key            Bucket = "key"
	Meta           Bucket = "meta"
	Lease          Bucket = "lease"
	Alarm          Bucket = "alarm"
	Auth           Bucket = "auth"
	AuthUsers      Bucket = "authUsers"
	AuthRoles      Bucket = "authRoles"
	Members        Bucket = "members"
	MembersRemoved Bucket = "members_removed"
	Cluster        Bucket = "cluster"
)

// buckets lists what Open makes sure of.
var buckets = [...]Bucket{
	Alarm, Auth, AuthRoles, AuthUsers, Cluster, Key, Lease, Members, MembersRemoved, Meta,
}

// Rows of bucket meta that hold the stamp.
const (
	indexKey = "consistent_index"
	termKey  = "term"
)

var (
	// ErrClosed answers every call after Close.
	ErrClosed = errors.New("store is closed")
	// ErrLocked means that another process has the file open.
	ErrLocked = errors.New("locked by another process")
	// ErrReadOnly answers Commit and Defragment on a file opened to be read.
	ErrReadOnly = errors.New("opened read-only")
	// ErrRewriting answers Rewrite while another is under way.
	ErrRewriting = errors.New("a defragmentation is under way")
	// ErrReplaced ends a Rewrite whose file Replace has put another in the place of.
	ErrReplaced = errors.New("another file has taken its place meanwhile")
	// ErrMemoryLimit means that a Resident file is too large for what the
	// process may lock in memory.
	ErrMemoryLimit = errors.New("the process may not lock so much memory")
)

// CorruptError says that a file does not hold what was once written to it.
type CorruptError struct {
	File   string
	Reason string
}

// Error names the file, what is wrong and the ways out.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt: %s; keep a copy of it, then restore this member from a snapshot (kvd snapshot restore), "+
		"or remove it from the cluster and add it again with an empty data directory", e.File, e.Reason)
}

// Stamp is the last log entry whose effects a file holds. A zero Term is one
// that is not known, and is not written.
type Stamp struct{ Index, Term uint64 }

// Reader is one moment of a store. Many may be open at once; each is used by
// one goroutine. A damaged page met on the way panics with a *CorruptError
// (see Catch): half an answer would be taken for a whole one.
type Reader interface {
	// Value returns nil when there is no such row. Valid until Close.
	Value(bucket Bucket, key []byte) []byte
	// Scan visits the rows from <= key < to in key order until visit returns
	// false; to nil means the end. The slices are valid until Close.
	Scan(bucket Bucket, from, to []byte, visit func(key, value []byte) bool)
	// Stamp is what the last commit before this moment carried.
	Stamp() Stamp
	// Close lets go of the moment; a second Close does nothing.
	Close() error
}

// Catch turns the panic of a Reader that met damage into err; defer it. Any
// other panic goes on.
func Catch(err *error) {
	switch p := recover().(type) {
	case nil:
	case *CorruptError:
		*err = p
	default:
		panic(p)
	}
}

func stampOf(value func(Bucket, []byte) []byte) Stamp {
	return Stamp{Index: number(value(Meta, []byte(indexKey))), Term: number(value(Meta, []byte(termKey)))}
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
