package store

import (
	"bytes"
	"fmt"
	"hash"
	"hash/crc32"
)

// local names the rows of bucket meta that differ between members that hold
// the same data.
var local = [...]string{indexKey, termKey, "storageVersion"}

// Hash is the CRC-32C of every bucket's name and rows, as the Hash call of
// etcd's maintenance API reports it: without what differs between members by
// nature.
func (f *File) Hash() (uint32, error) { return f.hash(isLocal, nil) }

// HashAll is Hash with nothing left out, as etcdutl's snapshot status reports it.
func (f *File) HashAll() (uint32, error) { return f.HashEach(nil) }

// HashEach is HashAll and shows every row to visit on the way, until it returns
// an error. The slices are valid until then.
func (f *File) HashEach(visit func(bucket Bucket, key, value []byte) error) (uint32, error) {
	return f.hash(func(string, []byte) bool { return false }, visit)
}

func (f *File) hash(skip func(bucket string, key []byte) bool, visit func(Bucket, []byte, []byte) error) (sum uint32, err error) {
	m, err := f.moment()
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := m.Close(); err == nil {
			err = closeErr
		}
	}()
	defer Catch(&err)
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for _, name := range m.names() {
		if err := mix(h, name, m, skip, visit); err != nil {
			return 0, err
		}
	}
	return h.Sum32(), nil
}

// names are those of all buckets, in order.
func (m *moment) names() (names []string) {
	defer m.check()
	c := m.tx.Cursor()
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		if m.tx.Bucket(name) == nil {
			panic(fmt.Sprintf("%q beside the buckets is none", name))
		}
		names = append(names, string(name))
	}
	return names
}

func mix(h hash.Hash32, bucket string, m *moment, skip func(string, []byte) bool, visit func(Bucket, []byte, []byte) error) (err error) {
	h.Write([]byte(bucket))
	m.Scan(Bucket(bucket), nil, nil, func(key, value []byte) bool {
		if !skip(bucket, key) {
			h.Write(key)
			h.Write(value)
		}
		if visit != nil {
			err = visit(Bucket(bucket), key, value)
		}
		return err == nil
	})
	return err
}

func isLocal(bucket string, key []byte) bool {
	if bucket != string(Meta) {
		return false
	}
	for _, name := range local {
		if bytes.Equal(key, []byte(name)) {
			return true
		}
	}
	return false
}
