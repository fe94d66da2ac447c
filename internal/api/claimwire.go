package api

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/state"
)

// The messages of Election and Lock. Their descriptions are in etcd's server
// module, so they are read and written here by their fields' numbers.

type (
	lockRequest struct {
		name  []byte
		lease int64
	}
	unlockRequest   struct{ key []byte }
	campaignRequest struct {
		name  []byte
		lease int64
		value []byte
	}
	proclaimRequest struct {
		leader *leadership
		value  []byte
	}
	leaderRequest struct{ name []byte }
	resignRequest struct{ leader *leadership }
	// leadership says what a claim holds.
	leadership struct {
		name, key  []byte
		rev, lease int64
	}
)

func decodeLock(b []byte) (r lockRequest, err error) {
	err = scan(b, func(f wireField) error {
		switch f.num {
		case 1:
			f.octets(&r.name)
		case 2:
			f.number(&r.lease)
		}
		return nil
	})
	return r, err
}

func decodeUnlock(b []byte) (r unlockRequest, err error) {
	err = scan(b, func(f wireField) error {
		if f.num == 1 {
			f.octets(&r.key)
		}
		return nil
	})
	return r, err
}

func decodeCampaign(b []byte) (r campaignRequest, err error) {
	err = scan(b, func(f wireField) error {
		switch f.num {
		case 1:
			f.octets(&r.name)
		case 2:
			f.number(&r.lease)
		case 3:
			f.octets(&r.value)
		}
		return nil
	})
	return r, err
}

func decodeProclaim(b []byte) (r proclaimRequest, err error) {
	err = scan(b, func(f wireField) error {
		switch f.num {
		case 1:
			return f.leader(&r.leader)
		case 2:
			f.octets(&r.value)
		}
		return nil
	})
	return r, err
}

func decodeLeader(b []byte) (r leaderRequest, err error) {
	err = scan(b, func(f wireField) error {
		if f.num == 1 {
			f.octets(&r.name)
		}
		return nil
	})
	return r, err
}

func decodeResign(b []byte) (r resignRequest, err error) {
	err = scan(b, func(f wireField) error {
		if f.num == 1 {
			return f.leader(&r.leader)
		}
		return nil
	})
	return r, err
}

// wireField is one field as it came. One of an unexpected kind is passed over, as
// one that is not known.
type wireField struct {
	num  protowire.Number
	kind protowire.Type
	v    uint64
	data []byte
}

func (f wireField) octets(to *[]byte) {
	if f.kind == protowire.BytesType {
		*to = f.data
	}
}

func (f wireField) number(to *int64) {
	if f.kind == protowire.VarintType {
		*to = int64(f.v)
	}
}

// leader reads a LeaderKey; what an earlier one said stays where this one is
// silent.
func (f wireField) leader(to **leadership) error {
	if f.kind != protowire.BytesType {
		return nil
	}
	if *to == nil {
		*to = &leadership{}
	}
	k := *to
	return scan(f.data, func(f wireField) error {
		switch f.num {
		case 1:
			f.octets(&k.name)
		case 2:
			f.octets(&k.key)
		case 3:
			f.number(&k.rev)
		case 4:
			f.number(&k.lease)
		}
		return nil
	})
}

var errFieldNumber = errors.New("no field has this number")

// scan passes the fields of a message to take.
func scan(b []byte, take func(wireField) error) error {
	for len(b) > 0 {
		f := wireField{}
		var n int
		f.num, f.kind, n = protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if f.num > protowire.MaxValidNumber { // as package proto, which would take it for no field either
			return errFieldNumber
		}
		b = b[n:]
		switch f.kind {
		case protowire.VarintType:
			f.v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(f.num, f.kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := take(f); err != nil {
			return err
		}
	}
	return nil
}

type (
	// headerReply is a response with a header alone.
	headerReply struct{}
	lockReply   struct{ key string }
	// campaignReply is a CampaignResponse.
	campaignReply struct{ leader leadership }
	// leaderReply is a LeaderResponse around a serialized pair.
	leaderReply struct{ kv []byte }
)

func (headerReply) AppendTo(b []byte, h state.Header) []byte { return appendHeader(b, h) }

func (r lockReply) AppendTo(b []byte, h state.Header) []byte {
	return appendOctets(appendHeader(b, h), 2, []byte(r.key))
}

func (r campaignReply) AppendTo(b []byte, h state.Header) []byte {
	k := appendOctets(nil, 1, r.leader.name)
	k = appendOctets(k, 2, r.leader.key)
	k = appendInt(k, 3, uint64(r.leader.rev))
	k = appendInt(k, 4, uint64(r.leader.lease))
	return appendOctets(appendHeader(b, h), 2, k)
}

func (r leaderReply) AppendTo(b []byte, h state.Header) []byte {
	return appendOctets(appendHeader(b, h), 2, r.kv)
}

func appendOctets(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}
