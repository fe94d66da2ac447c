package proxy

import (
	"context"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const rangeMethod = "/etcdserverpb.KV/Range"

// errOlder is what etcd's client library says.
var errOlder = status.Error(codes.Unavailable, "etcdclient: no cluster members have a revision higher than the previously received revision")

// ordering remembers the newest revision that an answer was of, so that no read
// is answered from an older one: neither by a member that lags nor, after a
// restart of the proxy, before the cluster has told how far it is.
type ordering struct {
	on     bool
	newest atomic.Int64 // 0: the cluster has not been asked yet
}

// begin asks the cluster how far it is, once.
func (o *ordering) begin(ctx context.Context, p *Proxy) error {
	if !o.on || o.newest.Load() > 0 {
		return nil
	}
	var r pb.RangeResponse
	request := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true, Limit: 1}
	err := p.direct().Invoke(ctx, rangeMethod, request, &r)
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return nil // this caller may not ask; the next
	case codes.OK:
	default:
		return err
	}
	o.see(r.Header.GetRevision())
	return nil
}

func (o *ordering) see(revision int64) {
	for {
		newest := o.newest.Load()
		if revision <= newest || o.newest.CompareAndSwap(newest, revision) {
			return
		}
	}
}

// older reports whether an answer of a method is of an older revision than one
// before. It takes note of the revision.
func (o *ordering) older(method string, answer *frame) bool {
	if !o.on {
		return false
	}
	switch method {
	case rangeMethod, "/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange", txn:
	default:
		return false
	}
	revision := headerOf(answer.data.Materialize())
	if method == rangeMethod && revision < o.newest.Load() {
		return true
	}
	o.see(revision)
	return false
}

// headerOf is the revision in an answer's header; 0 if there is none.
func headerOf(answer []byte) (revision int64) {
	_ = fields(answer, func(number protowire.Number, _ uint64, header, _ []byte) error { // 0, then
		if number != responseHeader {
			return nil
		}
		return fields(header, func(number protowire.Number, varint uint64, _, _ []byte) error {
			if number == headerRevision {
				revision = int64(varint)
			}
			return nil
		})
	})
	return revision
}
