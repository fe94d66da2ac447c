package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"google.golang.org/protobuf/encoding/protowire"
)

// Methods of the API that the generator calls.
const (
	methodRange       = "/etcdserverpb.KV/Range"
	methodRangeStream = "/etcdserverpb.KV/RangeStream"
	methodPut         = "/etcdserverpb.KV/Put"
	methodTxn         = "/etcdserverpb.KV/Txn"
	methodWatch       = "/etcdserverpb.Watch/Watch"
	methodLeaseGrant  = "/etcdserverpb.Lease/LeaseGrant"
	methodKeepAlive   = "/etcdserverpb.Lease/LeaseKeepAlive"
	methodStatus      = "/etcdserverpb.Maintenance/Status"
	methodMemberAdd   = "/etcdserverpb.Cluster/MemberAdd"
)

const digits = 8 // of the number at the end of every key

// space is a set of keys: a prefix and the numbers 0 to n-1, with the values
// that belong to them. Both servers get the same.
type space struct {
	prefix string
	n      int
	bytes  int // of a value
}

// key returns the key of a number.
func (s space) key(number int) []byte {
	return setDigits(append([]byte(s.prefix), "00000000"...), number)
}

// end returns the end of the range that holds the space.
func (s space) end() []byte {
	end := []byte(s.prefix)
	end[len(end)-1]++
	return end
}

// value returns the value of a number; the caller must not change it.
func (s space) value(number int) []byte {
	const stride = 61 // values of neighbours differ
	at := number * stride % (len(noise) - s.bytes)
	return noise[at : at+s.bytes]
}

// noise is what values are cut from: incompressible, and the same in each run.
var noise = func() []byte {
	rng := rand.New(rand.NewPCG(3, 7))
	block := make([]byte, 64<<10)
	for i := 0; i < len(block); i += 8 {
		binary.LittleEndian.PutUint64(block[i:], rng.Uint64())
	}
	return block
}()

// setDigits overwrites the digits at the end of key.
func setDigits(key []byte, number int) []byte {
	for i := len(key) - 1; i >= len(key)-digits; i-- {
		key[i] = '0' + byte(number%10)
		number /= 10
	}
	return key
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendInt(b []byte, field protowire.Number, v int64) []byte {
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// appendPut appends a PutRequest.
func appendPut(b, key, value []byte) []byte {
	return appendBytes(appendBytes(b, 1, key), 2, value)
}

// appendRange appends a RangeRequest; end may be nil, limit 0.
func appendRange(b, key, end []byte, limit int64, serializable bool) []byte {
	b = appendBytes(b, 1, key)
	if end != nil {
		b = appendBytes(b, 2, end)
	}
	if limit != 0 {
		b = appendInt(b, 3, limit)
	}
	if serializable {
		b = appendInt(b, 7, 1)
	}
	return b
}

// appendCount appends a RangeRequest that only counts.
func appendCount(b, key, end []byte) []byte {
	return appendInt(appendRange(b, key, end, 0, false), 9, 1)
}

// appendUpdate appends the TxnRequest of an API server that changes one
// object: if the key is still at the revision, put, else read it again.
func appendUpdate(b, key []byte, revision int64, value []byte) []byte {
	const mod = 2 // Compare.MOD; the result EQUAL is zero and absent
	compare := appendInt(nil, 2, mod)
	compare = appendBytes(compare, 3, key)
	compare = appendInt(compare, 6, revision)
	b = appendBytes(b, 1, compare)
	b = appendBytes(b, 2, appendBytes(nil, 2, appendPut(nil, key, value)))
	return appendBytes(b, 3, appendBytes(nil, 1, appendRange(nil, key, nil, 0, false)))
}

// appendPuts appends a TxnRequest that puts the numbers from first to last-1.
func appendPuts(b []byte, s space, first, last int) []byte {
	for n := first; n < last; n++ {
		b = appendBytes(b, 2, appendBytes(nil, 2, appendPut(nil, s.key(n), s.value(n))))
	}
	return b
}

// appendWatch appends a WatchRequest that creates a watcher.
func appendWatch(b, key, end []byte) []byte {
	return appendBytes(b, 1, appendRange(nil, key, end, 0, false))
}

// appendLeaseGrant appends a LeaseGrantRequest; the server chooses the ID.
func appendLeaseGrant(b []byte, seconds int64) []byte {
	return appendInt(b, 1, seconds)
}

// appendAddLearner appends a MemberAddRequest.
func appendAddLearner(b []byte, peerURL string) []byte {
	return appendInt(appendBytes(b, 1, []byte(peerURL)), 2, 1)
}

// eachField calls f with every field of a message: v for a varint, body for
// bytes.
func eachField(msg []byte, f func(field protowire.Number, v uint64, body []byte)) error {
	for len(msg) > 0 {
		field, kind, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return fmt.Errorf("bad tag: %w", protowire.ParseError(n))
		}
		msg = msg[n:]
		var v uint64
		var body []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			body, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(field, kind, msg)
		}
		if n < 0 {
			return fmt.Errorf("field %d: %w", field, protowire.ParseError(n))
		}
		f(field, v, body)
		msg = msg[n:]
	}
	return nil
}
