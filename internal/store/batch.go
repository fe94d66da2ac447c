package store

import (
	"bytes"
	"slices"
)

// rowOverhead is what a row costs beside its bytes, for Bytes.
const rowOverhead = 64

// Batch gathers rows for one commit. Of rows with the same bucket and key the
// last one wins. A Batch owns the slices it is given and is not safe for
// concurrent use. The zero value is empty.
type Batch struct {
	groups []group
	rows   int
	bytes  int
}

// group is the rows of one bucket, in the order they were given.
type group struct {
	bucket Bucket
	rows   []row
	sorted bool // keys strictly ascend, so that order and last-wins hold as is
}

type row struct {
	key, value []byte
	gone       bool
}

// Put sets a row.
func (b *Batch) Put(bucket Bucket, key, value []byte) {
	b.add(bucket, row{key: key, value: value})
}

// Delete removes a row; a row that is not there may be deleted.
func (b *Batch) Delete(bucket Bucket, key []byte) {
	b.add(bucket, row{key: key, gone: true})
}

// Len is the number of rows.
func (b *Batch) Len() int { return b.rows }

// Bytes is about what the batch takes in memory.
func (b *Batch) Bytes() int { return b.bytes }

// Append moves the rows of more to the end of b and leaves more empty.
func (b *Batch) Append(more *Batch) {
	for _, from := range more.groups {
		to := b.group(from.bucket)
		switch {
		case len(to.rows) == 0:
			to.rows, to.sorted = from.rows, from.sorted
		case len(from.rows) > 0:
			last := to.rows[len(to.rows)-1].key
			to.sorted = to.sorted && from.sorted && bytes.Compare(last, from.rows[0].key) < 0
			to.rows = append(to.rows, from.rows...)
		}
	}
	b.rows += more.rows
	b.bytes += more.bytes
	*more = Batch{}
}

func (b *Batch) add(bucket Bucket, r row) {
	g := b.group(bucket)
	if n := len(g.rows); n > 0 && bytes.Compare(g.rows[n-1].key, r.key) >= 0 {
		g.sorted = false
	}
	g.rows = append(g.rows, r)
	b.rows++
	b.bytes += len(r.key) + len(r.value) + rowOverhead
}

// group finds the bucket's group or begins it. A batch has a handful of
// buckets, and nearly always the one asked for last.
func (b *Batch) group(bucket Bucket) *group {
	for i := len(b.groups) - 1; i >= 0; i-- {
		if b.groups[i].bucket == bucket {
			return &b.groups[i]
		}
	}
	b.groups = append(b.groups, group{bucket: bucket, sorted: true})
	return &b.groups[len(b.groups)-1]
}

// settle puts the rows in key order and keeps only the last of each key, so
// that a commit walks the tree once from left to right.
func (g *group) settle() {
	if g.sorted {
		return
	}
	slices.SortStableFunc(g.rows, func(a, b row) int { return bytes.Compare(a.key, b.key) })
	kept := g.rows[:0]
	for i, r := range g.rows {
		if i+1 < len(g.rows) && bytes.Equal(r.key, g.rows[i+1].key) {
			continue
		}
		kept = append(kept, r)
	}
	clear(g.rows[len(kept):])
	g.rows, g.sorted = kept, true
}
