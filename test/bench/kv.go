package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// How often an answer is decoded and looked at: the first of each caller and
// one in so many.
const (
	sampleSmall = 256
	sampleLarge = 16
)

const leaseSeconds = 36_000 // no lease ends during a run

// workloads are the rows, in the order in which they are played on one
// server. The leases come last, for they stay.
func workloads() []workload {
	return []workload{
		callers("get", "Range one key, linearizable, 64 callers", 64, 8, func(c caller) op { return getOp(c, false) }),
		callers("sget", "Range one key, serializable, 64 callers", 64, 8, func(c caller) op { return getOp(c, true) }),
		callers("range", "Range of 10,000 keys × 512 B, 4 callers", 4, 4, rangeOp),
		callers("stream", "RangeStream of 10,000 keys × 512 B, 4 callers", 4, 4, streamOp),
		callers("put", "Put 256 B, 64 callers, 8 connections", 64, 8, putOp),
		callers("put1", "Put 256 B, 1 caller", 1, 1, putOp),
		secureCallers("tlsput", "Put 256 B over TLS, 64 callers, 8 connections", 64, 8, putOp),
		callers("update", "Kubernetes update (Range, then Txn), 64 callers", 64, 8, updateOp),
		{"watch", "Watch, 100 watchers, 500 puts/s", watchPaced},
		{"watchflood", "Watch, 100 watchers, puts unpaced", watchFlood},
		{"authput", "4,000 puts a second with authentication on, 64 callers", authPut{"authput", 4000}.run},
		{"authputmax", "Put 256 B with authentication on, 64 callers", authPut{"authputmax", 0}.run},
		{"login", "Authenticate, 64 callers", guarded(login)},
		{"gateway", "JSON gateway: Put 256 B, 64 callers", gatewayPut},
		{"keepalive", "10,000 keep-alives a second, as etcd's clients send them", keepBursts},
		{"keepalive1", "10,000 keep-alives a second, one at a time", keepEvenly},
		callers("lease", "LeaseGrant, 64 callers", 64, 8, leaseOp),
		{"toolput", "etcd's benchmark: put, 64 clients", toolPut},
		{"toolrange", "etcd's benchmark: range, 64 clients", toolRange},
	}
}

// beyondLimit reports whether a workload asks for more than the floor can answer,
// which knows no user, no HTTP/1, no TLS, and not all that etcd's client sends.
func beyondLimit(w workload) bool {
	return strings.HasPrefix(w.name, "tool") ||
		slices.Contains([]string{"gateway", "tlsput", "authput", "authputmax", "login"}, w.name)
}

// unary calls one method again and again with one request's memory.
type unary struct {
	conn   *grpc.ClientConn
	method string
	in     request
	out    reply
	sample int // decode one answer in so many
	least  int // no answer may be shorter
	calls  int
}

// call sends u.in; check looks at the answer if this one is a sample.
func (u *unary) call(ctx context.Context, check func(body []byte) error) error {
	u.out.keep = u.calls%u.sample == 0
	u.calls++
	if err := u.conn.Invoke(ctx, u.method, &u.in, &u.out); err != nil {
		return err
	}
	if u.out.n < u.least {
		return fmt.Errorf("%s: an answer of %d bytes, expected at least %d", u.method, u.out.n, u.least)
	}
	if !u.out.keep {
		return nil
	}
	if err := check(u.out.body); err != nil {
		return fmt.Errorf("%s: %w", u.method, err)
	}
	return nil
}

// numbers returns a source of random numbers of its own for each caller.
func (c caller) numbers() *rand.Rand {
	return rand.New(rand.NewPCG(c.seed, uint64(c.id)))
}

// getOp reads a random key.
func getOp(c caller, serializable bool) op {
	rng := c.numbers()
	key := small.key(0)
	u := unary{conn: c.conn, method: methodRange, sample: sampleSmall, least: small.bytes}
	u.in.bytes = appendRange(nil, key, nil, 0, serializable)
	inRequest := u.in.bytes[2 : 2+len(key)] // behind its tag and length
	return func(ctx context.Context) error {
		number := rng.IntN(small.n)
		setDigits(inRequest, number)
		return u.call(ctx, func(body []byte) error { return checkGet(body, small, number) })
	}
}

// checkGet checks the answer to a Range of one key that nobody deletes and
// everybody gives the same value.
func checkGet(body []byte, s space, number int) error {
	var r pb.RangeResponse
	if err := proto.Unmarshal(body, &r); err != nil {
		return err
	}
	if r.Header.GetRevision() <= 0 || r.Count != 1 || len(r.Kvs) != 1 {
		return fmt.Errorf("range of %s: revision %d, count %d, %d keys", s.key(number), r.Header.GetRevision(), r.Count, len(r.Kvs))
	}
	kv := r.Kvs[0]
	if !bytes.Equal(kv.Key, s.key(number)) || !bytes.Equal(kv.Value, s.value(number)) {
		return fmt.Errorf("range of %s: got %q with a value of %d bytes that is not what was put", s.key(number), kv.Key, len(kv.Value))
	}
	if kv.ModRevision > r.Header.Revision || kv.CreateRevision > kv.ModRevision || kv.Version < 1 {
		return fmt.Errorf("range of %s: created %d, modified %d, version %d, store at %d", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, r.Header.Revision)
	}
	return nil
}

// putOp puts a random key.
func putOp(c caller) op {
	rng := c.numbers()
	u := unary{conn: c.conn, method: methodPut, sample: sampleSmall, least: 4}
	var last int64
	return func(ctx context.Context) error {
		number := rng.IntN(small.n)
		u.in.bytes = appendPut(u.in.bytes[:0], small.key(number), small.value(number))
		return u.call(ctx, func(body []byte) error {
			var r pb.PutResponse
			if err := proto.Unmarshal(body, &r); err != nil {
				return err
			}
			return later(&last, r.Header.GetRevision())
		})
	}
}

// later checks that a caller's writes get growing revisions.
func later(last *int64, revision int64) error {
	if revision <= *last {
		return fmt.Errorf("revision %d after %d", revision, *last)
	}
	*last = revision
	return nil
}

// updateOp does what an API server does to change an object: read it, then
// put it if it is still the same. One operation is both calls.
func updateOp(c caller) op {
	rng := c.numbers()
	read := unary{conn: c.conn, method: methodRange, sample: 1, least: small.bytes}
	write := unary{conn: c.conn, method: methodTxn, sample: sampleSmall, least: 4}
	var last int64
	return func(ctx context.Context) error {
		number := rng.IntN(small.n)
		key := small.key(number)
		read.in.bytes = appendRange(read.in.bytes[:0], key, nil, 1, false)
		var revision int64
		err := read.call(ctx, func(body []byte) (err error) {
			revision, err = modRevision(body)
			return err
		})
		if err != nil {
			return err
		}
		write.in.bytes = appendUpdate(write.in.bytes[:0], key, revision, small.value(number))
		return write.call(ctx, func(body []byte) error { return checkUpdate(body, &last) })
	}
}

// modRevision finds the modification revision of the only key in the encoded
// answer to a Range.
func modRevision(body []byte) (int64, error) {
	var revision int64
	var inner error
	err := eachField(body, func(field protowire.Number, _ uint64, kv []byte) {
		if field == 2 {
			inner = eachField(kv, func(field protowire.Number, v uint64, _ []byte) {
				if field == 3 {
					revision = int64(v)
				}
			})
		}
	})
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	if revision == 0 {
		return 0, errors.New("no key with a revision in the answer")
	}
	return revision, nil
}

// checkUpdate checks a transaction's answer: it put, or it lost the race and
// read.
func checkUpdate(body []byte, last *int64) error {
	var r pb.TxnResponse
	if err := proto.Unmarshal(body, &r); err != nil {
		return err
	}
	if len(r.Responses) != 1 {
		return fmt.Errorf("%d responses in a transaction of one operation", len(r.Responses))
	}
	if !r.Succeeded {
		if n := len(r.Responses[0].GetResponseRange().GetKvs()); n != 1 {
			return fmt.Errorf("%d keys read by the losing branch", n)
		}
		return nil
	}
	if r.Responses[0].GetResponsePut() == nil {
		return errors.New("no put in the winning branch")
	}
	return later(last, r.Header.GetRevision())
}

// rangeOp reads the whole large space in one answer.
func rangeOp(c caller) op {
	u := unary{conn: c.conn, method: methodRange, sample: sampleLarge, least: large.n * large.bytes}
	u.in.bytes = appendRange(nil, []byte(large.prefix), large.end(), 0, false)
	return func(ctx context.Context) error {
		return u.call(ctx, func(body []byte) error {
			var r pb.RangeResponse
			if err := proto.Unmarshal(body, &r); err != nil {
				return err
			}
			return checkLarge(&r)
		})
	}
}

// streamOp reads the whole large space as a stream.
func streamOp(c caller) op {
	in := request{appendRange(nil, []byte(large.prefix), large.end(), 0, false)}
	desc := grpc.StreamDesc{ServerStreams: true}
	var out reply
	calls := 0
	return func(ctx context.Context) error {
		out.keep = calls%sampleLarge == 0
		calls++
		stream, err := c.conn.NewStream(ctx, &desc, methodRangeStream)
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&in); err != nil && !errors.Is(err, io.EOF) {
			return err // at io.EOF the reason comes from RecvMsg
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return readStream(stream, &out)
	}
}

// readStream receives all parts of a RangeStream, and checks what they add up
// to if out keeps them.
func readStream(stream grpc.ClientStream, out *reply) error {
	var whole pb.RangeResponse
	size := 0
	for {
		err := stream.RecvMsg(out)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size += out.n
		if !out.keep {
			continue
		}
		var part pb.RangeStreamResponse
		if err := proto.Unmarshal(out.body, &part); err != nil {
			return err
		}
		proto.Merge(&whole, part.RangeResponse)
	}
	if size < large.n*large.bytes {
		return fmt.Errorf("%s: %d bytes in all, expected at least %d", methodRangeStream, size, large.n*large.bytes)
	}
	if out.keep {
		return checkLarge(&whole)
	}
	return nil
}

// checkLarge checks that an answer holds the whole large space in order.
func checkLarge(r *pb.RangeResponse) error {
	if r.Header.GetRevision() <= 0 || r.More || r.Count != int64(large.n) || len(r.Kvs) != large.n {
		return fmt.Errorf("range of %s: revision %d, more %t, count %d, %d keys", large.prefix, r.Header.GetRevision(), r.More, r.Count, len(r.Kvs))
	}
	for n, kv := range r.Kvs {
		if !bytes.Equal(kv.Key, large.key(n)) || !bytes.Equal(kv.Value, large.value(n)) {
			return fmt.Errorf("range of %s: key %d is %q with a value of %d bytes that is not what was put", large.prefix, n, kv.Key, len(kv.Value))
		}
	}
	return nil
}

// leaseOp grants a lease that outlives the run.
func leaseOp(c caller) op {
	u := unary{conn: c.conn, method: methodLeaseGrant, sample: sampleSmall, least: 8}
	u.in.bytes = appendLeaseGrant(nil, leaseSeconds)
	var last int64
	return func(ctx context.Context) error {
		return u.call(ctx, func(body []byte) error {
			var r pb.LeaseGrantResponse
			if err := proto.Unmarshal(body, &r); err != nil {
				return err
			}
			if r.ID == 0 || r.ID == last || r.TTL != leaseSeconds {
				return fmt.Errorf("lease %x after %x with %d s", r.ID, last, r.TTL)
			}
			last = r.ID
			return nil
		})
	}
}
