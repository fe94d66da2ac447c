package mvcc

import (
	"hash/maphash"
	"sync/atomic"
)

// points finds one key without walking the index: most requests name one, and
// a walk down a large tree misses the processor's cache at every step.
//
// The writer changes it in place while readers look things up; it is no part
// of a view. That is sound because a view asks an entry for its record at the
// view's revision: of a key that is newer it finds none, and one that has been
// removed was collected, which View.overtaken tells.
type points struct {
	seed   maphash.Seed
	shards [shardCount]atomic.Pointer[shard] // apart, so that growing one takes no time
}

const (
	shardBits  = 8
	shardCount = 1 << shardBits
	leastSlots = 8
)

// shard is a table with open addressing. A slot holds nil, an entry, or gone.
type shard struct {
	tags  []atomic.Uint32 // of the entries' hashes; written before the slot
	slots []atomic.Pointer[entry]
	used  int // slots that are not nil; the writer's
}

// gone marks a slot that readers must search past.
var gone = &entry{}

// newPoints makes room for n entries.
func newPoints(h Hash, n int) *points {
	slots := leastSlots
	for slots*shardCount*5 < n*8 { // as shards differ a little in what they hold
		slots *= 2
	}
	p := &points{seed: h.seed}
	for i := range p.shards {
		p.shards[i].Store(newShard(slots))
	}
	return p
}

func newShard(slots int) *shard {
	return &shard{tags: make([]atomic.Uint32, slots), slots: make([]atomic.Pointer[entry], slots)}
}

func (p *points) hash(key []byte) (shard int, tag uint32, at uint64) {
	return cut(maphash.Bytes(p.seed, key))
}

func cut(h uint64) (shard int, tag uint32, at uint64) {
	return int(h >> (64 - shardBits)), uint32(h >> 24), h
}

// load takes in the entries whose shards are from <= shard < to. It goes from shard
// to shard, each of which fits the processor's cache.
func (p *points) load(entries []*entry, hashes []uint64, from, to int) {
	var ends [shardCount]int // of each shard's numbers
	for _, h := range hashes {
		i, _, _ := cut(h)
		ends[i]++
	}
	n := 0
	for i := from; i < to; i++ {
		n, ends[i] = n+ends[i], n
	}
	numbers := make([]uint32, n)
	for number, h := range hashes {
		if i, _, _ := cut(h); i >= from && i < to {
			numbers[ends[i]] = uint32(number)
			ends[i]++
		}
	}
	for _, number := range numbers {
		p.put(entries[number], hashes[number])
	}
}

// find returns the entry of key, nil if there is none. Any goroutine.
func (p *points) find(key []byte) *entry {
	i, tag, at := p.hash(key)
	return p.shards[i].Load().find(key, tag, at)
}

func (s *shard) find(key []byte, tag uint32, at uint64) *entry {
	mask := uint64(len(s.slots) - 1)
	for i := at & mask; ; i = (i + 1) & mask {
		e := s.slots[i].Load()
		if e == nil {
			return nil
		}
		if e != gone && s.tags[i].Load() == tag && e.key == string(key) {
			return e
		}
	}
}

// add takes in an entry whose key is not there.
func (p *points) add(e *entry) { p.put(e, maphash.String(p.seed, e.key)) }

func (p *points) put(e *entry, hash uint64) {
	i, tag, at := cut(hash)
	s := p.shards[i].Load()
	if (s.used+1)*4 > len(s.slots)*3 {
		s = p.grow(s)
		p.shards[i].Store(s)
	}
	s.add(e, tag, at)
}

func (s *shard) add(e *entry, tag uint32, at uint64) {
	mask := uint64(len(s.slots) - 1)
	for i := at & mask; ; i = (i + 1) & mask {
		switch s.slots[i].Load() {
		case nil:
			s.used++
		case gone:
		default:
			continue
		}
		s.tags[i].Store(tag)
		s.slots[i].Store(e)
		return
	}
}

// grow copies a shard into one with room. Readers go on with the old one.
func (p *points) grow(old *shard) *shard {
	live := 0
	for i := range old.slots {
		if e := old.slots[i].Load(); e != nil && e != gone {
			live++
		}
	}
	slots := len(old.slots)
	if live*2 >= slots {
		slots *= 2
	}
	s := newShard(slots)
	for i := range old.slots {
		if e := old.slots[i].Load(); e != nil && e != gone {
			_, tag, at := p.hash([]byte(e.key))
			s.add(e, tag, at)
		}
	}
	return s
}

// remove takes an entry out.
func (p *points) remove(e *entry) {
	i, _, at := p.hash([]byte(e.key))
	s := p.shards[i].Load()
	mask := uint64(len(s.slots) - 1)
	for i := at & mask; ; i = (i + 1) & mask {
		switch s.slots[i].Load() {
		case e:
			s.slots[i].Store(gone)
			return
		case nil:
			panic("mvcc: a key to be removed is not there")
		}
	}
}
