package proxy

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// kvAsked is of a key what a range asks for.
func kvAsked(kv *mvccpb.KeyValue, r *pb.RangeRequest) *mvccpb.KeyValue {
	switch {
	case kv == nil || r.CountOnly:
		return nil
	case r.KeysOnly:
		kv = proto.Clone(kv).(*mvccpb.KeyValue)
		kv.Value = nil
	}
	return kv
}

// composed is a range response of at most one key.
func composed(head []byte, kv *mvccpb.KeyValue, there bool) []byte {
	var answer []byte
	if head != nil {
		answer = withHeader(answer, head)
	}
	if kv != nil {
		data, err := proto.Marshal(kv)
		if err != nil {
			panic(err) // it was unmarshalled
		}
		answer = protowire.AppendTag(answer, rangeKVs, protowire.BytesType)
		answer = protowire.AppendBytes(answer, data)
	}
	if there {
		answer = protowire.AppendTag(answer, rangeCount, protowire.VarintType)
		answer = protowire.AppendVarint(answer, 1)
	}
	return answer
}

const (
	rangeKVs   protowire.Number = 2
	rangeCount protowire.Number = 4
)

func withHeader(answer, head []byte) []byte {
	answer = protowire.AppendTag(answer, responseHeader, protowire.BytesType)
	return protowire.AppendBytes(answer, head)
}

// revisionIn is the revision of a header.
func revisionIn(head []byte) (revision int64) {
	_ = fields(head, func(number protowire.Number, varint uint64, _, _ []byte) error {
		if number == headerRevision {
			revision = int64(varint)
		}
		return nil
	})
	return revision
}
