package store

import (
	"bytes"
	"fmt"
	"io"

	bolt "go.etcd.io/bbolt"
)

// moment is a read transaction that keeps its handle open.
type moment struct {
	tx     *bolt.Tx
	handle *handle
	file   *File
	closed bool
}

// moment opens one on the live handle.
func (f *File) moment() (*moment, error) {
	h, err := f.acquire()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	tx, err := h.db.Begin(false)
	if err != nil {
		_ = h.release()
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return &moment{tx: tx, handle: h, file: f}, nil
}

// Read opens the present moment. An open Reader pins the pages it sees: the
// file grows instead of using them again.
func (f *File) Read() (Reader, error) {
	m, err := f.moment()
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Buckets are all that the file has, in order.
func (f *File) Buckets() (all []Bucket, err error) {
	m, err := f.moment()
	if err != nil {
		return nil, err
	}
	defer Catch(&err)
	defer m.Close() //nolint:errcheck // nothing was written
	for _, name := range m.names() {
		all = append(all, Bucket(name))
	}
	return all, nil
}

// OpenReads is how many Readers and Copies are open; those that see a file which
// Defragment has replaced are not counted.
func (f *File) OpenReads() int {
	h, err := f.acquire()
	if err != nil {
		return 0
	}
	defer h.release() //nolint:errcheck // nothing was written through it
	return h.db.Stats().OpenTxN
}

// Value implements Reader.
func (m *moment) Value(bucket Bucket, key []byte) []byte {
	defer m.check()
	b := m.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get(key)
}

// Scan implements Reader.
func (m *moment) Scan(bucket Bucket, from, to []byte, visit func(key, value []byte) bool) {
	c, key, value := m.seek(bucket, from)
	for key != nil && (to == nil || bytes.Compare(key, to) < 0) && visit(key, value) {
		key, value = m.next(c)
	}
}

// seek and next are apart from Scan so that a panic of visit is not mistaken
// for damage.
func (m *moment) seek(bucket Bucket, from []byte) (c *bolt.Cursor, key, value []byte) {
	defer m.check()
	b := m.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil, nil
	}
	c = b.Cursor()
	if len(from) == 0 {
		key, value = c.First()
	} else {
		key, value = c.Seek(from)
	}
	return c, key, value
}

func (m *moment) next(c *bolt.Cursor) (key, value []byte) {
	defer m.check()
	return c.Next()
}

func (m *moment) check() {
	if p := recover(); p != nil {
		panic(m.file.corrupt(p))
	}
}

// Stamp implements Reader.
func (m *moment) Stamp() Stamp { return stampOf(m.Value) }

// Close implements Reader.
func (m *moment) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	err := m.tx.Rollback()
	if releaseErr := m.handle.release(); err == nil {
		err = releaseErr
	}
	return err
}

// Copy is an image of the file at one moment. It is used by one goroutine.
type Copy struct{ m *moment }

// Copy opens an image of the present moment. Like a Reader it pins pages until
// it is closed.
func (f *File) Copy() (*Copy, error) {
	m, err := f.moment()
	if err != nil {
		return nil, err
	}
	return &Copy{m}, nil
}

// Size is exactly the number of bytes that WriteTo writes.
func (c *Copy) Size() int64 { return c.m.tx.Size() }

// Stamp is the stamp inside the image.
func (c *Copy) Stamp() Stamp { return c.m.Stamp() }

// Value reads a row of the image, as Reader.Value does.
func (c *Copy) Value(bucket Bucket, key []byte) []byte { return c.m.Value(bucket, key) }

// WriteTo writes the image, a bbolt file by itself.
func (c *Copy) WriteTo(w io.Writer) (int64, error) { return c.m.tx.WriteTo(w) }

// Close lets go of the moment; a second Close does nothing.
func (c *Copy) Close() error { return c.m.Close() }
