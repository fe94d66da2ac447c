package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The format of a bbolt file, as far as reading it without trust needs it. All
// numbers are in the byte order of the machine.
const (
	magic       = 0xED0CDAED
	version     = 2
	headerBytes = 16 // of a page: id u64, flags u16, count u16, overflow u32
	metaBytes   = 64 // magic, version, page size, flags u32; root, sequence, freelist, high, tx, checksum u64
	rowBytes    = 16 // of a branch: pos, ksize u32, page u64; of a leaf: flags, pos, ksize, vsize u32
	bucketBytes = 16 // root, sequence u64

	metaPages = 2
	mostRows  = 0xFFFE // of a page

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
	bucketRow    = 0x01

	noFreelist = ^uint64(0)
	deepest    = 64 // a tree of this height does not fit a disk

	letGo = 16 << 10 // pages are read between two times that memory is let go of
)

var order = binary.NativeEndian

// flaw is something that cannot be in a sound file.
type flaw struct{ what string }

func (f *flaw) Error() string { return f.what }

func flawed(format string, args ...any) error { return &flaw{fmt.Sprintf(format, args...)} }

// walk reads the pages of a file by itself and trusts none of them.
type walk struct {
	helpers  int // goroutines that read at the same time; 0 is as 1
	ctx      context.Context
	data     []byte // at least up to high
	mapped   bool   // data is a file
	pageSize int
	root     uint64
	high     uint64 // pages in use are below
	free     uint64 // the page of the free list; noFreelist when there is none
	tx       uint64

	seen  []uint64      // a bit for each page met; all helpers'
	pages *atomic.Int64 // read; all helpers'
}

// newWalk finds the newer of the two meta pages.
func newWalk(ctx context.Context, data []byte) (*walk, error) {
	first, ok := parseMeta(data, 0)
	if !ok {
		// The page size is on the other one, which is where the page size says.
		for size := 1 << 10; size <= 16<<20; size <<= 1 {
			if w, ok := parseMeta(data, size); ok && w.pageSize == size {
				first = w
				break
			}
		}
		if first == nil {
			return nil, flawed("neither of its two head pages is sound, or it is no bbolt file")
		}
	}
	newest := first
	if second, ok := parseMeta(data, first.pageSize); ok && second.tx > first.tx {
		newest = second
	}
	newest.ctx = ctx
	return newest, nil
}

func parseMeta(data []byte, at int) (*walk, bool) {
	if at+headerBytes+metaBytes > len(data) {
		return nil, false
	}
	m := data[at+headerBytes:][:metaBytes]
	sum := fnv.New64a()
	sum.Write(m[:56])
	if order.Uint32(m) != magic || order.Uint32(m[4:]) != version || order.Uint64(m[56:]) != sum.Sum64() {
		return nil, false
	}
	w := &walk{
		data:     data,
		pageSize: int(order.Uint32(m[8:])),
		root:     order.Uint64(m[16:]),
		free:     order.Uint64(m[32:]),
		high:     order.Uint64(m[40:]),
		tx:       order.Uint64(m[48:]),
	}
	return w, w.pageSize >= 1<<10
}

// file reads the tree of buckets and the free list.
func (w *walk) file() error {
	if need := w.high * uint64(w.pageSize); need > uint64(len(w.data)) {
		return flawed("it was cut short: %d bytes of %d", len(w.data), need)
	}
	w.seen, w.pages = make([]uint64, w.high/64+1), new(atomic.Int64)
	if err := w.tree(w.root, bounds{}, 0); err != nil {
		return err
	}
	if w.free == noFreelist {
		return nil
	}
	return w.freelist()
}

// bounds are what the keys of a page must lie in: from <= key < to. Nil is open.
type bounds struct{ from, to []byte }

// tree reads the page and what hangs on it.
func (w *walk) tree(id uint64, in bounds, depth int) error {
	if depth > deepest {
		return flawed("page %d: the tree is deeper than %d", id, deepest)
	}
	page, err := w.page(id)
	if err != nil {
		return err
	}
	switch flags := order.Uint16(page[8:]); flags {
	case branchPage:
		return w.branch(id, page, in, depth)
	case leafPage:
		return w.leaf(id, page, in, depth)
	default:
		return flawed("page %d: neither branch nor leaf (flags %#x)", id, flags)
	}
}

// page returns the page with its overflow, and notes that it was met.
func (w *walk) page(id uint64) ([]byte, error) {
	if read := w.pages.Add(1); read%1024 == 0 {
		if err := w.pause(read); err != nil {
			return nil, err
		}
	}
	if id < metaPages || id >= w.high {
		return nil, flawed("page %d is pointed at, of %d", id, w.high)
	}
	at := id * uint64(w.pageSize)
	head := w.data[at:][:headerBytes]
	if self := order.Uint64(head); self != id {
		return nil, flawed("page %d at offset %d calls itself page %d", id, at, self)
	}
	last := id + uint64(order.Uint32(head[12:]))
	if last >= w.high {
		return nil, flawed("page %d at offset %d runs on to page %d, of %d", id, at, last, w.high)
	}
	for i := id; i <= last; i++ {
		if !w.meet(i) {
			return nil, flawed("page %d is pointed at twice", i)
		}
	}
	return w.data[at : (last+1)*uint64(w.pageSize)], nil
}

// pause lets go of what was read, so that a file of any size takes little of the
// memory, and looks whether to go on.
func (w *walk) pause(read int64) error {
	if w.mapped && read%letGo == 0 {
		if err := unix.Madvise(w.data, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("madvise: %w", err)
		}
	}
	return w.ctx.Err()
}

// meet reports whether the page was not met before.
func (w *walk) meet(id uint64) bool {
	bit := uint64(1) << (id % 64)
	return atomic.OrUint64(&w.seen[id/64], bit)&bit == 0
}

func (w *walk) branch(id uint64, page []byte, in bounds, depth int) error {
	rows := int(order.Uint16(page[10:]))
	if rows == 0 {
		return flawed("page %d: a branch without children", id)
	}
	var before []byte
	for i := range rows {
		row, err := element(id, page, i)
		if err != nil {
			return err
		}
		key, ok := slice(row, 0, order.Uint32(row), order.Uint32(row[4:]), 0)
		if !ok {
			return flawed("page %d: the key of row %d lies outside the page", id, i)
		}
		if err := in.check(id, i, before, key); err != nil {
			return err
		}
		before = key
	}
	return w.share(rows, func(w *walk, i int) error {
		child, from := branchRow(page, i)
		to := in.to
		if i+1 < rows {
			_, to = branchRow(page, i+1)
		}
		return w.tree(child, bounds{from, to}, depth+1)
	})
}

// branchRow reads a row of a branch that has been checked.
func branchRow(page []byte, i int) (child uint64, key []byte) {
	row := page[headerBytes+i*rowBytes:]
	at := order.Uint32(row)
	return order.Uint64(row[8:]), row[at : at+order.Uint32(row[4:])]
}

// shareFrom is how many children a page has that helpers share.
const shareFrom = 32

// share does something for all of n children, with the helpers if there are many.
// Of several flaws it returns the one of the first helper that met any.
func (w *walk) share(n int, do func(w *walk, child int) error) error {
	if w.helpers <= 1 || n < shareFrom {
		for i := range n {
			if err := do(w, i); err != nil {
				return err
			}
		}
		return nil
	}
	errs, panics := make([]error, w.helpers), make([]any, w.helpers)
	var helping sync.WaitGroup
	for k := range w.helpers {
		helping.Go(func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // it is each goroutine's own
			defer func() { panics[k] = recover() }()
			helper := *w
			helper.helpers = 1
			for i := n * k / w.helpers; i < n*(k+1)/w.helpers && errs[k] == nil; i++ {
				errs[k] = do(&helper, i)
			}
		})
	}
	helping.Wait()
	for k := range errs {
		if panics[k] != nil {
			panic(panics[k]) // a page that the disk does not give: whoever called knows
		}
		if errs[k] != nil {
			return errs[k]
		}
	}
	return nil
}

func (w *walk) leaf(id uint64, page []byte, in bounds, depth int) error {
	var before []byte
	for i := range int(order.Uint16(page[10:])) {
		row, err := element(id, page, i)
		if err != nil {
			return err
		}
		flags, pos, keyLen, valueLen := order.Uint32(row), order.Uint32(row[4:]), order.Uint32(row[8:]), order.Uint32(row[12:])
		key, ok := slice(row, 0, pos, keyLen, valueLen)
		if !ok {
			return flawed("page %d: row %d lies outside the page", id, i)
		}
		if err := in.check(id, i, before, key); err != nil {
			return err
		}
		before = key
		if flags&bucketRow == 0 {
			continue
		}
		value, _ := slice(row, keyLen, pos, valueLen, 0)
		if err := w.bucket(id, value, depth); err != nil {
			return err
		}
	}
	return nil
}

// bucket reads a bucket whose rows hang on a page of their own, or stand right
// behind its head when they are few.
func (w *walk) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketBytes {
		return flawed("page %d: a bucket of %d bytes", id, len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return w.tree(root, bounds{}, depth+1)
	}
	page := value[bucketBytes:]
	if len(page) < headerBytes || order.Uint16(page[8:]) != leafPage || depth > deepest {
		return flawed("page %d: a bucket within it has no rows", id)
	}
	return w.leaf(id, page, bounds{}, depth+1)
}

// element returns what stands from the head of row i to the end of the page:
// its positions count from there.
func element(id uint64, page []byte, i int) ([]byte, error) {
	at := headerBytes + i*rowBytes
	if at+rowBytes > len(page) {
		return nil, flawed("page %d: more rows than fit", id)
	}
	return page[at:], nil
}

// slice returns the n bytes at pos+skip, if they and more behind them lie
// within b.
func slice(b []byte, skip, pos, n, more uint32) ([]byte, bool) {
	from := uint64(pos) + uint64(skip)
	if from+uint64(n)+uint64(more) > uint64(len(b)) {
		return nil, false
	}
	return b[from : from+uint64(n)], true
}

// check says whether key may follow before as row i of a page.
func (in bounds) check(id uint64, i int, before, key []byte) error {
	if i > 0 && bytes.Compare(before, key) >= 0 ||
		i == 0 && in.from != nil && bytes.Compare(key, in.from) < 0 ||
		in.to != nil && bytes.Compare(key, in.to) >= 0 {
		return flawed("page %d: row %d (key %x) is out of order", id, i, key)
	}
	return nil
}

// freelist reads the list of free pages: none of them may be in use.
func (w *walk) freelist() error {
	page, err := w.page(w.free)
	if err != nil {
		return err
	}
	if flags := order.Uint16(page[8:]); flags != freelistPage {
		return flawed("page %d: not the free list it should be (flags %#x)", w.free, flags)
	}
	ids, n := page[headerBytes:], uint64(order.Uint16(page[10:]))
	if n == 0xFFFF && len(ids) >= 8 {
		n, ids = order.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return flawed("page %d: a free list of %d pages does not fit it", w.free, n)
	}
	for i := range n {
		id := order.Uint64(ids[8*i:])
		if id < metaPages || id >= w.high {
			return flawed("page %d: page %d is listed as free, of %d", w.free, id, w.high)
		}
		if !w.meet(id) {
			return flawed("page %d is listed as free, and is in use or listed twice", id)
		}
	}
	return nil
}
