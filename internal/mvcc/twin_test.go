package mvcc_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

var seed = flag.Uint64("mvcc.seed", 0, "seed of the random tests; 0: a new one")

// twin is the keyspace as plainly as it can be written: every record ever
// written, in order, and the last compaction.
type twin struct {
	rows      []row
	current   int64
	compacted int64
	swept     int64
	hashes    map[int64]mvcc.CompactHash
}

type row struct {
	key, value                  string
	main, sub                   int64
	create, mod, version, lease int64
	dead                        bool
}

func newTwin() *twin {
	return &twin{current: 1, compacted: -1, swept: -1, hashes: map[int64]mvcc.CompactHash{}}
}

// at finds the newest record of key at revision rev.
func (t *twin) at(key string, rev int64) (found row, ok bool) {
	for _, r := range t.rows {
		if r.key == key && r.main <= rev {
			found, ok = r, true
		}
	}
	return found, ok && !found.dead
}

func (t *twin) keys() (keys []string) {
	for _, r := range t.rows {
		if !slices.Contains(keys, r.key) {
			keys = append(keys, r.key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (t *twin) put(sub int64, key, value string, lease int64) {
	r := row{key: key, value: value, main: t.current + 1, sub: sub, create: t.current + 1, version: 1, lease: lease}
	if old, ok := t.at(key, t.current+1); ok {
		r.create, r.version = old.create, old.version+1
	}
	r.mod = r.main
	t.rows = append(t.rows, r)
}

func (t *twin) remove(sub int64, key string) bool {
	if _, ok := t.at(key, t.current+1); !ok {
		return false
	}
	t.rows = append(t.rows, row{key: key, main: t.current + 1, sub: sub, dead: true})
	return true
}

// kept reports whether a compaction leaves the record behind.
func (t *twin) kept(r row) bool {
	if r.main > t.compacted {
		return true
	}
	if r.dead {
		return r.main == t.compacted
	}
	newest, ok := t.at(r.key, t.compacted)
	return ok && newest == r
}

// doomed reports whether the last compaction removes the record at rev.
func (t *twin) doomed(rev mvcc.Revision) bool {
	for _, r := range t.rows {
		if r.main == rev.Main && r.sub == rev.Sub {
			return !t.kept(r)
		}
	}
	return false
}

// keeps is the living record of key that etcd counts as kept by a compaction at
// rev; one that was deleted at rev is not, even if it was put again.
func (t *twin) keeps(key string, rev int64) (row, bool) {
	for _, r := range t.rows {
		if r.key == key && r.main == rev && r.dead {
			return row{}, false
		}
	}
	return t.at(key, rev)
}

// hash is the hash at rev; that of a compaction counts the tombstones of its
// revision as kept.
func (t *twin) hash(rev int64, compaction bool) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	hash := crc32.Update(0, table, []byte("key"))
	any := false
	for _, key := range t.keys() {
		_, ok := t.keeps(key, rev)
		any = any || ok
	}
	for _, r := range t.rows {
		any = any || compaction && r.dead && r.main == rev
	}
	for _, r := range t.rows {
		if r.main > rev || r.dead && r.main == t.compacted {
			continue
		}
		if r.main <= t.compacted && any {
			if newest, ok := t.keeps(r.key, rev); !ok || newest != r {
				continue
			}
		} else if !t.kept(r) {
			continue
		}
		k := mvcc.Revision{Main: r.main, Sub: r.sub}.Append(nil)
		if r.dead {
			k = append(k, 't')
		}
		hash = crc32.Update(crc32.Update(hash, table, k), table, r.wire())
	}
	return hash
}

// wire is the serialized KeyValue, written field by field.
func (r row) wire() (b []byte) {
	text := func(tag byte, s string) {
		if s != "" {
			b = append(append(b, tag, byte(len(s))), s...)
		}
	}
	number := func(tag byte, v int64) {
		if v != 0 {
			b = append(b, tag)
			for ; v >= 0x80; v >>= 7 {
				b = append(b, byte(v)|0x80)
			}
			b = append(b, byte(v))
		}
	}
	text(0x0a, r.key)
	number(0x10, r.create)
	number(0x18, r.mod)
	number(0x20, r.version)
	text(0x2a, r.value)
	number(0x30, r.lease)
	return b
}

// pair is the keyspace and its twin, changed alike.
type pair struct {
	t     *testing.T
	rand  *rand.Rand
	keys  *mvcc.Keyspace
	twin  *twin
	disk  *store.Mem
	batch *store.Batch
	marks []mark // batches that wait for the disk
	index uint64
}

type mark struct {
	rev   int64
	batch *store.Batch
}

func newPair(t *testing.T, r *rand.Rand) *pair {
	p := &pair{t: t, rand: r, twin: newTwin(), disk: store.NewMem(), batch: &store.Batch{}}
	p.load()
	return p
}

func (p *pair) load() {
	p.t.Helper()
	reader, err := p.disk.Read()
	if err != nil {
		p.t.Fatal(err)
	}
	defer reader.Close()
	bounds, err := mvcc.Bounds(reader, 1+p.rand.IntN(3))
	if err != nil {
		p.t.Fatal(err)
	}
	hash := mvcc.NewHash()
	var parts []*mvcc.Part
	for i := range len(bounds) - 1 {
		part, err := mvcc.ReadPart(hash, reader, bounds[i], bounds[i+1])
		if err != nil {
			p.t.Fatal(err)
		}
		parts = append(parts, part)
	}
	o := mvcc.Options{CacheBytes: int64(p.rand.IntN(2000)) + 1}
	whole := mvcc.Join(hash, parts...)
	var hashing sync.WaitGroup
	for i := range parts {
		hashing.Go(func() { whole.FindByHash(i, len(parts)) })
	}
	p.keys, err = mvcc.Assemble(o, p.disk.Read, reader, func(string, int64) {}, whole)
	hashing.Wait()
	if err != nil {
		p.t.Fatal(err)
	}
	p.keys.Use(p.batch)
}

func (p *pair) key() string { return string(rune('a' + p.rand.IntN(12))) }

func (p *pair) change() {
	w := p.keys.Begin()
	sub := int64(0)
	for range 1 + p.rand.IntN(3) {
		key := p.key()
		if p.rand.IntN(3) > 0 {
			value, lease := fmt.Sprint(p.rand.IntN(1000)), int64(p.rand.IntN(3))
			w.Put([]byte(key), []byte(value), lease)
			p.twin.put(sub, key, value, lease)
			sub++
			continue
		}
		end := p.key()
		w.Delete(mvcc.Span{Key: []byte(key), End: []byte(end)}, func(string, mvcc.Item) {})
		for _, k := range p.twin.keys() {
			if k >= key && k < end && p.twin.remove(sub, k) {
				sub++
			}
		}
	}
	rev, events := w.End()
	if sub > 0 {
		p.twin.current++
	}
	if rev != p.twin.current || len(events) != int(sub) {
		p.t.Fatalf("write ended at %d with %d events; want %d with %d", rev, len(events), p.twin.current, sub)
	}
}

func (p *pair) take() {
	if p.batch.Len() > 0 {
		p.marks = append(p.marks, mark{p.keys.Revision(), p.batch})
		p.batch = &store.Batch{}
		p.keys.Use(p.batch)
	}
}

func (p *pair) flush() {
	p.take()
	for _, m := range p.marks {
		p.index++
		if err := p.disk.Commit(store.Stamp{Index: p.index, Term: 1}, m.batch); err != nil {
			p.t.Fatal(err)
		}
		p.keys.Stored(m.rev)
	}
	p.marks = nil
}

func (p *pair) compact() {
	rev := p.twin.compacted + int64(p.rand.IntN(6))
	err := p.keys.Compact(rev)
	switch {
	case rev <= p.twin.compacted:
		if !errors.Is(err, mvcc.ErrCompacted) {
			p.t.Fatalf("compact at %d after %d: %v", rev, p.twin.compacted, err)
		}
	case rev > p.twin.current:
		if !errors.Is(err, mvcc.ErrFuture) {
			p.t.Fatalf("compact at %d, current %d: %v", rev, p.twin.current, err)
		}
	case err != nil:
		p.t.Fatalf("compact at %d: %v", rev, err)
	default:
		if p.twin.swept == p.twin.compacted && rev > 0 {
			p.twin.hashes[rev] = mvcc.CompactHash{Revision: rev, Previous: p.twin.compacted, Hash: p.twin.hash(rev, true)}
		}
		p.twin.compacted = rev
	}
}

// compare asks the view and the twin the same questions.
func (p *pair) compare(v *mvcc.View) {
	p.t.Helper()
	if v.Revision() != p.twin.current || v.Compacted() != p.twin.compacted {
		p.t.Fatalf("view at %d, compacted %d; want %d, %d", v.Revision(), v.Compacted(), p.twin.current, p.twin.compacted)
	}
	living := 0
	for _, k := range p.twin.keys() {
		if _, ok := p.twin.at(k, p.twin.current); ok {
			living++
		}
	}
	if v.Living() != living {
		p.t.Fatalf("view at %d has %d living keys, want %d", v.Revision(), v.Living(), living)
	}
	rev := max(p.twin.compacted, 1) + p.rand.Int64N(p.twin.current-max(p.twin.compacted, 1)+1)
	span := mvcc.Span{Key: []byte(p.key()), End: []byte{0}}
	page, err := v.Range(mvcc.Query{Span: span, Revision: rev})
	if err != nil {
		p.t.Fatalf("range at %d: %v", rev, err)
	}
	var want [][]byte
	for _, k := range p.twin.keys() {
		if r, ok := p.twin.at(k, rev); ok && k >= string(span.Key) {
			want = append(want, r.wire())
		}
	}
	if !slices.EqualFunc(page.KVs, want, bytes.Equal) || page.Count != int64(len(want)) {
		p.t.Fatalf("range from %q at %d (compacted %d):\n got %x\nwant %x", span.Key, rev, p.twin.compacted, page.KVs, want)
	}
	p.compareEvents(v, span, rev)
}

func (p *pair) compareEvents(v *mvcc.View, span mvcc.Span, from int64) {
	p.t.Helper()
	var got, want []string
	for next := from; next <= v.Revision(); {
		groups, after, err := v.Events(span, next, 1+p.rand.IntN(5), 1+p.rand.IntN(200))
		if err != nil {
			p.t.Fatalf("events from %d: %v", next, err)
		}
		if after <= next {
			p.t.Fatalf("events from %d did not advance", next)
		}
		next = after
		for _, g := range groups {
			for _, e := range g.Events {
				if p.twin.doomed(e.Revision()) {
					continue // may be there or not, until it is swept
				}
				previous, _, err := v.Previous(e)
				if err != nil {
					p.t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%v %x %x", e.Revision(), e.KV(), previous))
			}
		}
	}
	for _, r := range p.twin.rows {
		if r.main < from || r.key < string(span.Key) || !p.twin.kept(r) {
			continue
		}
		var previous []byte
		if old, ok := p.twin.at(r.key, r.main-1); ok && r.main-1 >= p.twin.compacted && r.create != r.main {
			previous = old.wire()
		}
		kv := r.wire()
		if r.dead {
			kv = row{key: r.key, mod: r.main}.wire()
		}
		want = append(want, fmt.Sprintf("%v %x %x", mvcc.Revision{Main: r.main, Sub: r.sub}, kv, previous))
	}
	if !slices.Equal(got, want) {
		p.t.Fatalf("events from %d (compacted %d):\n got %v\nwant %v", from, p.twin.compacted, got, want)
	}
}

func (p *pair) compareHash() {
	p.t.Helper()
	p.flush()
	rev := max(p.twin.compacted, 1) + p.rand.Int64N(p.twin.current-max(p.twin.compacted, 1)+1)
	hash, compacted, at, err := p.keys.View().HashKV(rev)
	if err != nil {
		p.t.Fatal(err)
	}
	if taken, ok := p.twin.hashes[rev]; ok && compacted == taken.Previous {
		if hash != taken.Hash {
			p.t.Fatalf("hash of the compaction at %d: %d, want %d", rev, hash, taken.Hash)
		}
		return
	}
	if hash != p.twin.hash(rev, false) || compacted != p.twin.compacted || at != rev {
		p.t.Fatalf("hash at %d: %d (compacted %d, at %d); want %d (compacted %d)", rev, hash, compacted, at, p.twin.hash(rev, false), p.twin.compacted)
	}
}

func TestKeyspaceAgreesWithItsTwin(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	for i := range uint64(20) {
		t.Logf("replay with -mvcc.seed=%d", s+i)
		p := newPair(t, rand.New(rand.NewPCG(s+i, 1)))
		for range 200 {
			switch p.rand.IntN(12) {
			case 0:
				p.compact()
			case 1, 2:
				more, err := p.keys.Sweep(1 + p.rand.IntN(4))
				if err != nil {
					t.Fatal(err)
				}
				if !more {
					p.twin.swept = p.twin.compacted
				}
			case 3:
				p.flush()
			case 4:
				p.take()
			case 5:
				p.compareHash()
			case 6:
				if p.rand.IntN(4) == 0 { // a restart: only what is on disk is left
					p.flush()
					p.load()
				}
			default:
				p.change()
			}
			if t.Failed() {
				return
			}
			p.compare(p.keys.View())
		}
		if *seed != 0 {
			return
		}
	}
}
