package mvcc

import (
	"encoding/binary"
	"slices"
)

// rowsInChunk rows lie side by side. What grows by chunks is never copied.
const rowsInChunk = 1 << 12

// loaded is one row on its way into the index.
type loaded struct {
	key    string
	record *record
}

// chunks are the rows of a part, in the order of revisions.
type chunks struct {
	full [][]loaded
	n    int
}

func (c *chunks) add(row loaded) {
	if c.n%rowsInChunk == 0 {
		c.full = append(c.full, make([]loaded, 0, rowsInChunk))
	}
	last := &c.full[len(c.full)-1]
	*last = append(*last, row)
	c.n++
}

func (c *chunks) at(row uint32) *loaded { return &c.full[row/rowsInChunk][row%rowsInChunk] }

// place stands for a row while they are sorted: small, and without a pointer
// that the collector would have to hear of.
type place struct {
	word uint64 // the eight bytes of the key that the sort looks at
	row  uint32
	rest uint8 // how many bytes of the key there are from these on, 9 for more than 8
}

// byKey returns the rows in the order of their keys; those of one key stay in the
// order of revisions.
func (c *chunks) byKey() []place {
	places := make([]place, c.n)
	for i := range places {
		places[i].row = uint32(i)
	}
	c.sort(places, 0)
	return places
}

// sort sorts rows whose keys agree in the first depth bytes. It looks at eight
// bytes at a time, and not at what all of the rows share, as keys tend to have
// long beginnings that a comparison would read again each time.
func (c *chunks) sort(places []place, depth int) {
	if len(places) < 2 {
		return
	}
	depth += c.shared(places, depth)
	for i := range places {
		places[i].look(c.at(places[i].row).key[depth:])
	}
	slices.SortFunc(places, place.compare)
	for len(places) > 0 {
		same := 1
		for same < len(places) && places[same].agrees(places[0]) {
			same++
		}
		if places[0].rest > 8 {
			c.sort(places[:same], depth+8)
		}
		places = places[same:]
	}
}

// shared is how many bytes behind depth all keys have in common.
func (c *chunks) shared(places []place, depth int) int {
	first := c.at(places[0].row).key[depth:]
	n := len(first)
	for _, p := range places[1:] {
		key := c.at(p.row).key[depth:]
		if n = min(n, len(key)); key[:n] == first[:n] {
			continue
		}
		i := 0
		for key[i] == first[i] {
			i++
		}
		n = i
	}
	return n
}

// look takes in the first eight bytes of rest, what is left of the key.
func (p *place) look(rest string) {
	p.rest = uint8(min(len(rest), 9))
	if len(rest) >= 8 {
		p.word = binary.BigEndian.Uint64([]byte(rest[:8]))
		return
	}
	var b [8]byte
	copy(b[:], rest)
	p.word = binary.BigEndian.Uint64(b[:])
}

func (p place) compare(o place) int {
	switch {
	case p.word < o.word:
		return -1
	case p.word > o.word:
		return 1
	case p.rest != o.rest:
		return int(p.rest) - int(o.rest)
	default:
		return int(p.row) - int(o.row)
	}
}

func (p place) agrees(o place) bool { return p.word == o.word && p.rest == o.rest }
