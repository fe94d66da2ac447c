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
func (f *File) Hash() (uint32, error) { return f.hash(isLocal) }

// HashAll is Hash with nothing left out, as etcdutl's snapshot status reports it.
func (f *File) HashAll() (uint32, error) {
	return f.hash(func(string, []byte) bool { return false })
}

func (f *File) hash(skip func(bucket string, key []byte) bool) (sum uint32, err error) {
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
	defer m.check()
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	c := m.tx.Cursor()
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		if m.tx.Bucket(name) == nil {
			return 0, &CorruptError{File: f.path, Reason: fmt.Sprintf("%q beside the buckets is none", name)}
		}
		mix(h, string(name), m, skip)
	}
	return h.Sum32(), nil
}

func mix(h hash.Hash32, bucket string, m *moment, skip func(string, []byte) bool) {
	h.Write([]byte(bucket))
	m.Scan(Bucket(bucket), nil, nil, func(key, value []byte) bool {
		if !skip(bucket, key) {
			h.Write(key)
			h.Write(value)
		}
		return true
	})
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
