package store

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
)

// Mem is a store in memory, for tests: what a File does, without the file.
// Its contents are gone with it.
type Mem struct {
	mu     sync.Mutex
	live   *tables
	closed bool
}

// tables is one moment. Once shared with a Reader it changes no more: the next
// commit works on a copy.
type tables struct {
	rows   map[Bucket][]row // in key order
	shared bool
}

// NewMem returns a store with every bucket and no row.
func NewMem() *Mem {
	return &Mem{live: &tables{rows: map[Bucket][]row{}}}
}

// Commit applies the batches, in order, and the stamp.
func (m *Mem) Commit(s Stamp, batches ...*Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if m.live.shared {
		next := &tables{rows: make(map[Bucket][]row, len(m.live.rows))}
		for bucket, rows := range m.live.rows {
			next.rows[bucket] = slices.Clone(rows)
		}
		m.live = next
	}
	for _, b := range batches {
		for i := range b.groups {
			g := &b.groups[i]
			g.settle()
			for _, r := range g.rows {
				m.live.set(g.bucket, r)
			}
		}
	}
	m.live.set(Meta, row{key: []byte(indexKey), value: binary.BigEndian.AppendUint64(nil, s.Index)})
	if s.Term > 0 {
		m.live.set(Meta, row{key: []byte(termKey), value: binary.BigEndian.AppendUint64(nil, s.Term)})
	}
	return nil
}

// Read opens the present moment.
func (m *Mem) Read() (Reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	m.live.shared = true
	return memReader{m.live}, nil
}

// Close refuses new readers; those that are open go on.
func (m *Mem) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (t *tables) set(bucket Bucket, r row) {
	rows := t.rows[bucket]
	at, found := find(rows, r.key)
	switch {
	case r.gone && found:
		rows = slices.Delete(rows, at, at+1)
	case r.gone:
	case found:
		rows[at] = r
	default:
		rows = slices.Insert(rows, at, r)
	}
	t.rows[bucket] = rows
}

func find(rows []row, key []byte) (int, bool) {
	return slices.BinarySearchFunc(rows, key, func(r row, key []byte) int { return bytes.Compare(r.key, key) })
}

type memReader struct{ t *tables }

func (r memReader) Value(bucket Bucket, key []byte) []byte {
	rows := r.t.rows[bucket]
	at, found := find(rows, key)
	if !found {
		return nil
	}
	return present(rows[at].value)
}

func (r memReader) Scan(bucket Bucket, from, to []byte, visit func(key, value []byte) bool) {
	rows := r.t.rows[bucket]
	at, _ := find(rows, from)
	for _, row := range rows[at:] {
		if to != nil && bytes.Compare(row.key, to) >= 0 || !visit(row.key, present(row.value)) {
			return
		}
	}
}

func (r memReader) Stamp() Stamp { return stampOf(r.Value) }

func (r memReader) Close() error { return nil }

// present tells an empty value from a row that is not there.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
