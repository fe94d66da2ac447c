package compat

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// txn makes a transaction, nested at most depth times.
func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	n := 3
	if g.one(25) {
		n = g.limits.txnOps + 3 // around the limit
	}
	r.Success, r.Failure = g.ops(n, depth), g.ops(n, depth)
	if deletesOpenEnd(r) {
		keepNothing(r)
	}
	if g.one(5) { // nothing but reads goes another way
		r.Success, r.Failure = g.reads(), g.reads()
	}
	return r
}

// deletesOpenEnd tells whether some branch deletes from a key onwards. Such a
// delete passes the check for keys that are given twice; a put behind it that
// keeps the value or lease of a key just deleted ends the process of etcd
// 3.7.3, now and at each start after. The judge is spared it; what kvd does is
// in TestPutThatKeepsWhatTheTxnDeleted.
func deletesOpenEnd(r *pb.TxnRequest) bool {
	for _, o := range append(r.Success[:len(r.Success):len(r.Success)], r.Failure...) {
		if d := o.GetRequestDeleteRange(); d != nil && string(d.RangeEnd) == "\x00" {
			return true
		}
		if t := o.GetRequestTxn(); t != nil && deletesOpenEnd(t) {
			return true
		}
	}
	return false
}

// keepNothing makes every put bring its own value and lease.
func keepNothing(r *pb.TxnRequest) {
	for _, o := range append(r.Success[:len(r.Success):len(r.Success)], r.Failure...) {
		if p := o.GetRequestPut(); p != nil {
			p.IgnoreValue, p.IgnoreLease = false, false
		}
		if t := o.GetRequestTxn(); t != nil {
			keepNothing(t)
		}
	}
}

func (g *generator) reads() (ops []*pb.RequestOp) {
	for range g.IntN(4) {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeInTxn()}})
	}
	return ops
}

// ops makes up to n operations; most keys differ, so that most pass.
func (g *generator) ops(n, depth int) (ops []*pb.RequestOp) {
	if n > 20 && g.one(2) {
		for i := range n - 1 - g.IntN(5) {
			put := &pb.PutRequest{Key: []byte{'c', '/', byte(i >> 8), byte(i)}, Value: g.value()}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		return ops
	}
	for range g.IntN(n + 1) {
		o := &pb.RequestOp{}
		switch k := g.IntN(20); {
		case k == 0:
			if g.one(3) {
				break // nothing in it
			}
			fallthrough
		case k < 6:
			o.Request = &pb.RequestOp_RequestRange{RequestRange: g.rangeInTxn()}
		case k < 10:
			o.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()}
		case k < 13 && depth > 0:
			o.Request = &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}
		default:
			o.Request = &pb.RequestOp_RequestPut{RequestPut: g.put()}
		}
		ops = append(ops, o)
	}
	return ops
}

// rangeInTxn always returns the values it sorts by, so that ties can be told.
func (g *generator) rangeInTxn() *pb.RangeRequest {
	r := g.rangeRequest(true)
	if r.SortTarget == pb.RangeRequest_VALUE {
		r.KeysOnly = false
	}
	return r
}

// compare uses every target, result and kind of value, known or not.
func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	if g.one(4) {
		c.Key, c.RangeEnd = g.interval()
	}
	if g.one(40) {
		c.Result = 9
	}
	if g.one(40) {
		c.Target = 9
	}
	kind := c.Target
	if g.one(15) {
		kind = pb.Compare_CompareTarget(g.IntN(6)) // a value that is not the target's
	}
	switch kind {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: g.Int64N(4)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.Int64N(g.model.revision + 1)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.Int64N(g.model.revision + 1)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
	}
	return c
}

// methods that malformed bodies are sent to.
var unary = []string{
	"/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Txn",
	"/etcdserverpb.KV/Compact", "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Maintenance/HashKV",
	"/etcdserverpb.KV/Nothing", "/etcdserverpb.Nobody/Nothing", "/", "/etcdserverpb.KV/",
}

// malformed is a body that is no message of the method, or a method that is
// not there.
func (g *generator) malformed() op {
	method := unary[g.IntN(len(unary))]
	switch g.IntN(5) {
	case 0: // a length beyond the end
		return op{method: method, raw: []byte{0x0a, 0x7f, 'a'}}
	case 1: // wire type 7
		return op{method: method, raw: []byte{0x0f, 0x01}}
	case 2: // a field number without an end
		body, err := proto.Marshal(g.put())
		if err != nil {
			panic(err)
		}
		return op{method: method, raw: append(body, 0xff)}
	case 3: // a field number of zero
		return op{method: method, raw: []byte{0x02, 0x01, 'a'}}
	default: // a field nobody knows; not malformed, and no change asked for
		return op{method: "/etcdserverpb.KV/Range", raw: []byte{0x0a, 0x01, 'a', 0xf8, 0x7f, 0x01}}
	}
}

// oversize is beyond what a request may have, in the log or on the wire.
func (g *generator) oversize() op {
	const slack = 512 << 10 // that gRPC receives above the limit of a request
	size := g.limits.requestBytes + 1 + g.IntN(1000)
	if g.one(2) {
		size = g.limits.requestBytes + slack + 1 + g.IntN(1000)
	}
	put := &pb.PutRequest{Key: []byte("big"), Value: []byte(strings.Repeat("x", size))}
	if g.one(3) {
		return kv("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}})
	}
	return kv("Put", put)
}
