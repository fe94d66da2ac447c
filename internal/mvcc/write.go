package mvcc

import (
	"fmt"

	"kvd/internal/store"
)

// Write is one transaction on the keyspace: all its changes get one main
// revision, if there are any. Begin it, change, End it; its own reads see its
// changes.
type Write struct {
	keys    *Keyspace
	main    int64
	changes int64
	events  []*Event
	records []*record
	bytes   int       // of the rows
	garbage []removal // tombstones: collected one revision after the others
}

// Begin starts a transaction. Only one is open at a time; the Write is reused.
func (k *Keyspace) Begin() *Write {
	if k.write.keys != nil {
		panic("mvcc: a write is open")
	}
	k.write = Write{keys: k, main: k.current + 1, garbage: k.write.garbage[:0]}
	return &k.write
}

// Revision is what a read inside the transaction shows: the revision before
// it, or its own once it has changed something.
func (w *Write) Revision() int64 {
	if w.changes == 0 {
		return w.main - 1
	}
	return w.main
}

// Changed reports whether the transaction has changed something.
func (w *Write) Changed() bool { return w.changes > 0 }

// Item is the newest state of a key.
type Item struct{ record *record }

// Create is the revision that brought the key into being.
func (i Item) Create() int64 { return i.record.create }

// Mod is the revision that changed it last.
func (i Item) Mod() int64 { return i.record.main }

// Version counts its changes since it came into being.
func (i Item) Version() int64 { return i.record.version }

// Lease is the lease that the key hangs on, 0 for none.
func (i Item) Lease() int64 { return i.record.lease }

// Item returns the newest state of key, if it is alive.
func (w *Write) Item(key []byte) (Item, bool) {
	e := w.keys.points.find(key)
	if e == nil {
		return Item{}, false
	}
	r := e.head.Load()
	return Item{r}, !r.dead
}

// Items visits the living keys of span, in order, until visit returns false.
func (w *Write) Items(span Span, visit func(Item) bool) {
	items(w.keys.index, w.keys.points, span, w.main, visit)
}

// Wire returns the serialized KeyValue of an item, read-only.
func (w *Write) Wire(i Item) ([]byte, error) {
	if wire := i.record.wire(); wire != nil {
		return wire, nil
	}
	return w.view().Wire(i)
}

// Compacted is the last compaction's revision, -1 before the first.
func (w *Write) Compacted() int64 { return w.keys.compacted }

// Put sets key to value under lease and returns what was there before. The
// bytes of key and value are copied.
func (w *Write) Put(key, value []byte, lease int64) (before Item, existed bool) {
	k := w.keys
	e := k.points.find(key)
	known := e != nil
	if !known {
		e = &entry{key: string(key)}
	}
	r := &record{main: w.main, sub: int32(w.changes), create: w.main, version: 1, lease: lease}
	old := e.head.Load()
	if old != nil && !old.dead {
		r.create, r.version = old.create, old.version+1
		before, existed = Item{old}, true
	}
	wire := encode(e.key, r.create, r.main, r.version, value, lease)
	w.push(e, old, r, wire)
	if !known { // not before it has a record: readers find it from here on
		k.index.Set(e)
		k.points.add(e)
		k.shown = nil
	}
	return before, existed
}

// Delete removes every living key of span and reports each, in key order, with
// what it was before.
func (w *Write) Delete(span Span, visit func(key string, before Item)) (deleted int64) {
	var doomed []*entry
	walk(w.keys.index, w.keys.points, span, func(e *entry) bool {
		if !e.head.Load().dead {
			doomed = append(doomed, e)
		}
		return true
	})
	for _, e := range doomed {
		old := e.head.Load()
		r := &record{main: w.main, sub: int32(w.changes), dead: true}
		w.push(e, old, r, encode(e.key, 0, 0, 0, nil, 0))
		visit(e.key, Item{old})
	}
	return int64(len(doomed))
}

// push makes r the newest record of e, leaves its row and notes the event.
func (w *Write) push(e *entry, old, r *record, wire []byte) {
	k := w.keys
	r.hold(wire)
	e.push(r)
	w.changes++
	k.batch.Put(store.Key, r.rowKey(make([]byte, 0, tombstoneBytes)), wire)
	if old != nil && !old.dead {
		k.garbage.push(removal{e, old, w.main})
		k.living--
	}
	if r.dead {
		w.garbage = append(w.garbage, removal{e, r, w.main + 1})
	} else {
		k.living++
	}
	w.records = append(w.records, r)
	w.bytes += len(wire)
	w.events = append(w.events, newEvent(e, r, wire))
}

// End closes the transaction and returns its revision and events; without
// changes the revision is the one before and there are no events.
func (w *Write) End() (rev int64, events []*Event) {
	k := w.keys
	w.keys = nil
	if w.changes == 0 {
		return w.main - 1, nil
	}
	for _, g := range w.garbage {
		k.garbage.push(g)
	}
	if w.main != k.current+1 {
		panic(fmt.Sprintf("mvcc: revision %d after %d", w.main, k.current))
	}
	k.current = w.main
	k.tail = append(k.tail, &Group{Revision: w.main, Events: w.events, records: w.records, bytes: w.bytes})
	return w.main, w.events
}

// view is what the transaction's own reads see. It must not outlive it.
func (w *Write) view() *View {
	k := w.keys
	return &View{
		index: k.index, points: k.points, revision: w.Revision(), compacted: k.compacted,
		cache: k.cache, shared: k.shared, rows: k.rows, own: true,
	}
}

// Range answers q with the transaction's own changes in sight.
func (w *Write) Range(q Query) (Page, error) { return w.view().Range(q) }
