package mvcc

import (
	"fmt"
	"sort"
	"strings"
	"sync/atomic"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// record is one change of one key. All but wire and used are set before it is
// published and never change.
type record struct {
	main    int64
	create  int64 // 0 for a tombstone
	version int64 // 0 for a tombstone
	lease   int64
	// held is the row's value, the serialized KeyValue: there from the write
	// until the row is on disk, afterwards as long as the cache keeps it. It
	// points to size bytes; a slice of its own would be one more thing to fetch
	// for every key of a long range.
	held atomic.Pointer[byte]
	size uint32
	sub  int32
	used atomic.Bool // read since the cache last looked at it
	dead bool        // a tombstone
}

// wire returns the row's value if it is in memory, else nil. Every value has
// at least a key, or is the empty one of a bumped revision, which is never in
// memory.
func (r *record) wire() []byte {
	if p := r.held.Load(); p != nil {
		return unsafe.Slice(p, r.size)
	}
	return nil
}

// hold makes wire the value in memory. Only who makes the record calls it.
func (r *record) hold(wire []byte) {
	r.size = uint32(len(wire))
	r.held.Store(unsafe.SliceData(wire))
}

// holdAgain does the same for a value read back, unless another has been faster.
func (r *record) holdAgain(wire []byte) bool {
	return uint32(len(wire)) == r.size && r.held.CompareAndSwap(nil, unsafe.SliceData(wire))
}

// letGo takes the value out of memory and returns its size, 0 if it was not there.
func (r *record) letGo() int64 {
	if r.held.Swap(nil) == nil {
		return 0
	}
	return int64(r.size)
}

func (r *record) revision() Revision { return Revision{r.main, int64(r.sub)} }

// rowKey appends the key of the record's row.
func (r *record) rowKey(b []byte) []byte {
	b = r.revision().Append(b)
	if r.dead {
		b = append(b, tombstoneMark)
	}
	return b
}

// entry is one key and its records. The writer publishes a new record by
// moving the head into past first and replacing the head second; a reader
// loads in the other order, so it finds every record in one of the two.
type entry struct {
	key  string
	head atomic.Pointer[record]
	past atomic.Pointer[past]
}

// past holds the older records of a key, oldest first. A published past is
// never changed in place but for appends behind its length.
type past struct {
	records []*record
	dropped int // records cut off in front that the array still holds
}

// at returns the newest record whose main revision is at most rev.
func (e *entry) at(rev int64) *record {
	if r := e.head.Load(); r.main <= rev {
		return r
	}
	p := e.past.Load()
	if p == nil {
		return nil
	}
	i := sort.Search(len(p.records), func(i int) bool { return p.records[i].main > rev })
	if i == 0 {
		return nil
	}
	return p.records[i-1]
}

// find returns the record at exactly rev.
func (e *entry) find(rev Revision) *record {
	if r := e.head.Load(); r.revision() == rev {
		return r
	}
	p := e.past.Load()
	if p == nil {
		return nil
	}
	i := sort.Search(len(p.records), func(i int) bool { return !p.records[i].revision().Before(rev) })
	if i < len(p.records) && p.records[i].revision() == rev {
		return p.records[i]
	}
	return nil
}

// push makes r the newest record. Only the writer calls it.
func (e *entry) push(r *record) {
	if old := e.head.Load(); old != nil {
		next := &past{}
		if p := e.past.Load(); p != nil {
			next.records, next.dropped = p.records, p.dropped
		}
		next.records = append(next.records, old)
		e.past.Store(next)
	}
	e.head.Store(r)
}

// drop removes r, which is in past or, as a tombstone, the head; it reports
// whether nothing is left. Only the writer calls it.
func (e *entry) drop(r *record) (gone bool) {
	p := e.past.Load()
	if p == nil {
		if e.head.Load() != r {
			panic(fmt.Sprintf("mvcc: record %v of key %q collected twice", r.revision(), e.key))
		}
		return true
	}
	if p.records[0] != r {
		return e.dropWithin(p, r)
	}
	next := &past{records: p.records[1:], dropped: p.dropped + 1}
	switch {
	case len(next.records) == 0:
		next = nil
	case next.dropped > len(next.records): // let go of the array's front
		next = &past{records: append([]*record(nil), next.records...)}
	}
	e.past.Store(next)
	return false
}

// dropWithin removes r from the middle of p: a tombstone that a put of the
// same transaction followed is collected one revision later than its
// neighbours.
func (e *entry) dropWithin(p *past, r *record) (gone bool) {
	kept := make([]*record, 0, len(p.records))
	for _, old := range p.records {
		if old != r {
			kept = append(kept, old)
		}
	}
	if len(kept) == len(p.records) {
		panic(fmt.Sprintf("mvcc: record %v of key %q collected twice", r.revision(), e.key))
	}
	e.past.Store(&past{records: kept})
	return false
}

func byKey(a, b *entry) bool { return strings.Compare(a.key, b.key) < 0 }

// The fields of mvccpb.KeyValue.
const (
	fieldKey     = 1
	fieldCreate  = 2
	fieldMod     = 3
	fieldVersion = 4
	fieldValue   = 5
	fieldLease   = 6
)

func sizeInt(field protowire.Number, v int64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeVarint(uint64(v))
}

func appendInt(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

func appendBytes[T string | []byte](b []byte, field protowire.Number, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(v)))
	return append(b, v...)
}

// encode serializes a KeyValue as etcd does: fields in ascending order,
// default values left out.
func encode(key string, create, mod, version int64, value []byte, lease int64) []byte {
	n := sizeInt(fieldCreate, create) + sizeInt(fieldMod, mod) + sizeInt(fieldVersion, version) + sizeInt(fieldLease, lease)
	if len(key) > 0 {
		n += 1 + protowire.SizeBytes(len(key))
	}
	if len(value) > 0 {
		n += 1 + protowire.SizeBytes(len(value))
	}
	b := make([]byte, 0, n)
	b = appendBytes(b, fieldKey, key)
	b = appendInt(b, fieldCreate, create)
	b = appendInt(b, fieldMod, mod)
	b = appendInt(b, fieldVersion, version)
	b = appendBytes(b, fieldValue, value)
	return appendInt(b, fieldLease, lease)
}

// fields is what a serialized KeyValue says.
type fields struct {
	key, value                  []byte // alias the input
	create, mod, version, lease int64
}

// decode reads a serialized KeyValue; unknown fields are passed over.
func decode(b []byte) (f fields, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return f, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType && num >= fieldCreate && num <= fieldLease && num != fieldValue:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return f, protowire.ParseError(n)
			}
			b = b[n:]
			switch num {
			case fieldCreate:
				f.create = int64(v)
			case fieldMod:
				f.mod = int64(v)
			case fieldVersion:
				f.version = int64(v)
			case fieldLease:
				f.lease = int64(v)
			}
		case typ == protowire.BytesType && (num == fieldKey || num == fieldValue):
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return f, protowire.ParseError(n)
			}
			b = b[n:]
			if num == fieldKey {
				f.key = v
			} else {
				f.value = v
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return f, protowire.ParseError(n)
			}
			b = b[n:]
		}
	}
	return f, nil
}

// KeyValue is a decoded record, for callers that need its parts.
type KeyValue struct {
	Key, Value                  []byte // read-only
	Create, Mod, Version, Lease int64
}

// Parse reads a serialized KeyValue; the result aliases b.
func Parse(b []byte) (KeyValue, error) {
	f, err := decode(b)
	if err != nil {
		return KeyValue{}, fmt.Errorf("parse key-value: %w", err)
	}
	return KeyValue{Key: f.key, Value: f.value, Create: f.create, Mod: f.mod, Version: f.version, Lease: f.lease}, nil
}
