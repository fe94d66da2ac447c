package mvcc

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// few rows are sorted by comparing whole keys.
const few = 16

// place is a row's place in the order of keys. Places are sorted instead of rows:
// they are smaller, and hold nothing that the collector has to hear of.
type place struct {
	word uint64 // the eight bytes of the key that the sort looks at
	row  uint32
	rest uint8 // how many bytes of the key there are from these on, 9 for more than 8
}

// inKeyOrder returns the rows' places in the order of keys, those of one key in the
// order of the rows. It sorts by eight bytes at a time, as keys tend to share long
// beginnings that a comparison would read again each time.
func inKeyOrder(rows []loaded) []place {
	places := make([]place, len(rows))
	for i := range places {
		places[i].row = uint32(i)
	}
	sortPlaces(rows, places, 0)
	return places
}

// sortPlaces sorts places of rows whose keys agree in the first depth bytes.
func sortPlaces(rows []loaded, places []place, depth int) {
	for len(places) > few {
		for i := range places {
			places[i].look(rows[places[i].row].key[depth:])
		}
		slices.SortFunc(places, place.compare)
		depth += 8
		if !places[0].agrees(places[len(places)-1]) {
			sortRuns(rows, places, depth)
			return
		}
		if places[0].rest <= 8 {
			return // all are of one key
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(rows[a.row].key[depth:], rows[b.row].key[depth:]), cmp.Compare(a.row, b.row))
	})
}

// sortRuns sorts on those whose keys agree so far and have more bytes.
func sortRuns(rows []loaded, places []place, depth int) {
	for len(places) > 0 {
		n := 1
		for n < len(places) && places[n].agrees(places[0]) {
			n++
		}
		if n > 1 && places[0].rest > 8 {
			sortPlaces(rows, places[:n], depth)
		}
		places = places[n:]
	}
}

// look takes in the first eight bytes of what there is of a key.
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
