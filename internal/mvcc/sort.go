package mvcc

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// few rows are sorted by comparing whole keys.
const few = 24

// sortByKey sorts rows whose keys agree in the first depth bytes. It is
// quicksort on eight bytes at a time, as keys tend to share long beginnings
// that a comparison would read again each time.
func sortByKey(rows []loaded, depth int) {
	if len(rows) > few {
		for i := range rows {
			rows[i].look(depth)
		}
		sortByWord(rows, depth)
		return
	}
	slices.SortFunc(rows, func(a, b loaded) int { return cmp.Compare(a.key[depth:], b.key[depth:]) })
}

// look takes in the eight bytes at depth.
func (l *loaded) look(depth int) {
	rest := l.key[depth:]
	l.rest = uint8(min(len(rest), 9))
	if len(rest) >= 8 {
		l.word = binary.BigEndian.Uint64([]byte(rest[:8]))
		return
	}
	var b [8]byte
	copy(b[:], rest)
	l.word = binary.BigEndian.Uint64(b[:])
}

func (l *loaded) compare(o *loaded) int {
	return cmp.Or(cmp.Compare(l.word, o.word), cmp.Compare(l.rest, o.rest))
}

// sortByWord sorts rows that have looked at depth.
func sortByWord(rows []loaded, depth int) {
	for len(rows) > few {
		pivot := median(rows)
		// rows[:lo] < pivot, rows[lo:i] == pivot, rows[hi:] > pivot
		lo, i, hi := 0, 0, len(rows)
		for i < hi {
			switch c := rows[i].compare(&pivot); {
			case c < 0:
				rows[lo], rows[i] = rows[i], rows[lo]
				lo++
				i++
			case c > 0:
				hi--
				rows[i], rows[hi] = rows[hi], rows[i]
			default:
				i++
			}
		}
		if pivot.rest > 8 {
			sortByKey(rows[lo:hi], depth+8)
		}
		// The shorter side on the stack, the longer one in the loop.
		if lo < len(rows)-hi {
			sortByWord(rows[:lo], depth)
			rows = rows[hi:]
		} else {
			sortByWord(rows[hi:], depth)
			rows = rows[:lo]
		}
	}
	slices.SortFunc(rows, func(a, b loaded) int { return cmp.Compare(a.key[depth:], b.key[depth:]) })
}

// median of three, spread over the rows.
func median(rows []loaded) loaded {
	a, b, c := &rows[0], &rows[len(rows)/2], &rows[len(rows)-1]
	if a.compare(b) > 0 {
		a, b = b, a
	}
	if b.compare(c) > 0 {
		b = c
	}
	if a.compare(b) > 0 {
		b = a
	}
	return *b
}
