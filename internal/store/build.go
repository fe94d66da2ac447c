package store

import (
	"bytes"
	"hash/fnv"
	"math"
	"os"
)

// build writes a bbolt file from its first page to its last: rows that come in
// order are laid on pages as they come, and the pages that lead to them behind.
// Nothing is read back and nothing is kept but the pages that are not full. The
// file is bbolt's once it is finished.
type build struct {
	file     *os.File
	pageSize int
	next     uint64       // the page to come
	buf      []byte       // pages before it that are not written yet
	most     int          // bytes of them
	written  func() error // is told after each write
}

// pageRow is a row of a page: of a branch with a child, of a leaf with flags and
// a value.
type pageRow struct {
	flags      uint32
	child      uint64
	key, value []byte
}

func (e *pageRow) size() int { return rowBytes + len(e.key) + len(e.value) }

// newBuild begins a file that is empty.
func newBuild(file *os.File, most int, written func() error) *build {
	return &build{file: file, pageSize: os.Getpagesize(), next: metaPages, most: most, written: written}
}

// page adds a page, which runs on over as many as the rows take.
func (b *build) page(flags uint16, rows []pageRow) (id uint64, err error) {
	size := headerBytes
	for i := range rows {
		size += rows[i].size()
	}
	pages := max(1, (size+b.pageSize-1)/b.pageSize)
	at := len(b.buf)
	b.buf = append(b.buf, make([]byte, pages*b.pageSize)...)
	id = b.next
	b.next += uint64(pages)
	lay(b.buf[at:], id, flags, rows, pages-1)
	if len(b.buf) >= b.most {
		err = b.flush()
	}
	return id, err
}

// lay writes a page that is zero.
func lay(page []byte, id uint64, flags uint16, rows []pageRow, overflow int) {
	head(page, id, flags, len(rows), overflow)
	data := headerBytes + len(rows)*rowBytes
	for i, e := range rows {
		from := headerBytes + i*rowBytes // positions count from the row's head
		row, pos := page[from:], uint32(data-from)
		if flags == branchPage {
			order.PutUint32(row, pos)
			order.PutUint32(row[4:], uint32(len(e.key)))
			order.PutUint64(row[8:], e.child)
		} else {
			order.PutUint32(row, e.flags)
			order.PutUint32(row[4:], pos)
			order.PutUint32(row[8:], uint32(len(e.key)))
			order.PutUint32(row[12:], uint32(len(e.value)))
		}
		data += copy(page[data:], e.key)
		data += copy(page[data:], e.value)
	}
}

func head(page []byte, id uint64, flags uint16, rows, overflow int) {
	order.PutUint64(page, id)
	order.PutUint16(page[8:], flags)
	order.PutUint16(page[10:], uint16(rows))
	order.PutUint32(page[12:], uint32(overflow))
}

func (b *build) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	at := int64(b.next)*int64(b.pageSize) - int64(len(b.buf))
	if _, err := b.file.WriteAt(b.buf, at); err != nil {
		return err
	}
	b.buf = b.buf[:0]
	return b.written()
}

// finish makes the file one with these buckets. The list of its free pages is
// there and empty, so that who opens it need not look for them.
func (b *build) finish(buckets []built) error {
	t := tree{build: b}
	for _, one := range buckets {
		if err := t.put(pageRow{flags: bucketRow, key: []byte(one.name), value: one.value}); err != nil {
			return err
		}
	}
	root, err := t.finish()
	if err != nil {
		return err
	}
	free, err := b.page(freelistPage, nil)
	if err != nil {
		return err
	}
	if err := b.flush(); err != nil {
		return err
	}
	metas := make([]byte, metaPages*b.pageSize)
	for tx := range metaPages {
		page := metas[tx*b.pageSize:]
		head(page, uint64(tx), metaPage, 0, 0)
		m := page[headerBytes:][:metaBytes]
		order.PutUint32(m, magic)
		order.PutUint32(m[4:], version)
		order.PutUint32(m[8:], uint32(b.pageSize))
		order.PutUint64(m[16:], root)
		order.PutUint64(m[32:], free)
		order.PutUint64(m[40:], b.next)
		order.PutUint64(m[48:], uint64(tx))
		sum := fnv.New64a()
		sum.Write(m[:56])
		order.PutUint64(m[56:], sum.Sum64())
	}
	if _, err := b.file.WriteAt(metas, 0); err != nil {
		return err
	}
	return b.written()
}

// built is a bucket that is written.
type built struct {
	name  string
	value []byte // that stands for it: its head, and its rows if they are few
}

// tree is a bucket being written: at each height the page that is not full yet,
// the leaf first.
type tree struct {
	build  *build
	levels []level
	last   []byte // key
}

type level struct {
	rows []pageRow
	size int
	keys []byte // those of rows of a branch, whose pages are written already
}

// put adds a row behind all others; a key that is not behind them is a *flaw. The
// slices have to last until finish.
func (t *tree) put(e pageRow) error {
	if t.last != nil && bytes.Compare(e.key, t.last) <= 0 {
		return flawed("key %x comes after %x", e.key, t.last)
	}
	t.last = e.key
	return t.add(0, e)
}

func (t *tree) add(height int, e pageRow) error {
	if height == len(t.levels) {
		t.levels = append(t.levels, level{size: headerBytes})
	}
	l := &t.levels[height]
	// Two at least, as in bbolt's own: large rows leave less room that way.
	if len(l.rows) >= 2 && (l.size+e.size() > int(keyFill*float64(t.build.pageSize)) || len(l.rows) == mostRows) {
		if err := t.close(height); err != nil {
			return err
		}
		l = &t.levels[height]
	}
	if height > 0 {
		at := len(l.keys)
		l.keys = append(l.keys, e.key...)
		e.key = l.keys[at:]
	}
	l.rows = append(l.rows, e)
	l.size += e.size()
	return nil
}

// close writes the page at a height and notes it in the one above.
func (t *tree) close(height int) error {
	id, err := t.write(height)
	if err != nil {
		return err
	}
	if err := t.add(height+1, pageRow{child: id, key: t.levels[height].rows[0].key}); err != nil {
		return err
	}
	l := &t.levels[height]
	clear(l.rows)
	l.rows, l.keys, l.size = l.rows[:0], l.keys[:0], headerBytes
	return nil
}

func (t *tree) write(height int) (id uint64, err error) {
	if height == 0 {
		return t.build.page(leafPage, t.levels[0].rows)
	}
	return t.build.page(branchPage, t.levels[height].rows)
}

// finish writes what is left, and returns the page of the root.
func (t *tree) finish() (root uint64, err error) {
	if len(t.levels) == 0 {
		return t.build.page(leafPage, nil)
	}
	// A height is there only if one below was full and has gone on, so the last
	// has several rows.
	for height := 0; height < len(t.levels)-1; height++ {
		if err := t.close(height); err != nil {
			return 0, err
		}
	}
	return t.write(len(t.levels) - 1)
}

// bucket finishes the tree of a bucket, and returns what stands for that. As bbolt
// does, it takes in a page of rows that fill no more than a quarter of one.
func (t *tree) bucket() (value []byte, err error) {
	if t.build.pageSize/4 < t.size() {
		root, err := t.finish()
		if err != nil {
			return nil, err
		}
		value = make([]byte, bucketBytes)
		order.PutUint64(value, root)
		return value, nil
	}
	value = make([]byte, bucketBytes+t.size())
	var rows []pageRow
	if len(t.levels) > 0 {
		rows = t.levels[0].rows
	}
	lay(value[bucketBytes:], 0, leafPage, rows, 0)
	return value, nil
}

// size is that of the one page of the tree, or more than any page's.
func (t *tree) size() int {
	switch len(t.levels) {
	case 0:
		return headerBytes
	case 1:
		return t.levels[0].size
	default:
		return math.MaxInt
	}
}
