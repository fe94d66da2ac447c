package api

import (
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/mvcc"
	"kvd/internal/state"
)

// firstChunk is the number of keys in the first message of a RangeStream;
// those after it grow towards the size of the largest request.
const firstChunk = 10

// rangeStream answers a Range in pieces, all of one revision. Only the last
// one has a header, the count and whether there is more.
func (a *API) rangeStream(c *call) error {
	in, err := c.receive()
	if err != nil {
		return err
	}
	r, err := state.DecodeRange(in)
	if err != nil {
		return malformed(err)
	}
	if err := checkRangeStream(r); err != nil {
		return err
	}
	ctx, err := c.authorize()
	if err != nil {
		return err
	}
	c.ctx, c.about = ctx, r
	ok := allowed(ctx, &state.Request{Range: &pb.RangeRequest{Key: r.Key, RangeEnd: r.RangeEnd}})
	// Chunks are in key order, so the target has nothing to say.
	r.SortOrder, r.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	if !r.Serializable {
		if err := a.member.Barrier(c.ctx); err != nil {
			return err
		}
	}
	if r.CountOnly {
		v, page, err := a.rangeNow(r, ok, nil)
		if err != nil {
			return err
		}
		return c.send(encodeChunk(page, a.header(v), true))
	}
	return a.chunks(c, r, ok)
}

func (a *API) chunks(c *call, r *pb.RangeRequest, ok may) error {
	left := int64(math.MaxInt64) // a negative limit is none, and gets everything at once
	if r.Limit != 0 {
		left = r.Limit
	}
	v := a.member.View()
	began := a.header(v)
	if r.Revision <= 0 {
		r.Revision = began.Revision
	}
	sent := int64(0)
	for limit := int64(firstChunk); ; {
		r.Limit = min(limit, left)
		if err := ok(a.member.View()); err != nil { // also one that was taken away meanwhile
			return err
		}
		asked := time.Now()
		h := a.budget.hold()
		page, err := v.Within(h.spender()).Chunk(r)
		if err == nil && page.More && r.Limit == left { // the last one counts all that it leaves out
			page, err = v.Within(h.spender()).Range(r)
		}
		if errors.Is(err, mvcc.ErrCollected) {
			h.release()
			v = a.member.View() // which may say that the revision is compacted
			continue
		}
		a.metrics.ranges.observe(asked, err)
		if err != nil {
			h.release()
			return err
		}
		n := int64(len(page.KVs))
		sent += n
		left -= n
		last := !page.More || left == 0
		chunk := state.RangeReply{Revision: began.Revision, KVs: page.KVs}
		if last {
			// What this query counted begins behind what was sent before it.
			chunk.More, chunk.Count = page.More, sent-n+page.Count
		}
		size := chunk.Size(began)
		err = c.send(encodeChunk(&chunk, began, last))
		h.release() // a window's worth of it may still wait in gRPC
		if err != nil || last {
			return err
		}
		kv, err := mvcc.Parse(page.KVs[n-1])
		if err != nil {
			return err
		}
		r.Key = append(append(make([]byte, 0, len(kv.Key)+1), kv.Key...), 0)
		limit = nextChunk(r.Limit, size, a.o.MaxRequestBytes)
	}
}

// nextChunk brings the size of chunks near the target.
func nextChunk(limit int64, size, target int) int64 {
	switch {
	case size < target/2:
		return limit * 2
	case size > target*2:
		return max(limit/2, 1)
	}
	return limit
}

// encodeChunk writes a RangeStreamResponse; the reply's header, count and more
// only if it is the last.
func encodeChunk(r *state.RangeReply, h state.Header, last bool) encoded {
	s := splicer{}
	s.begin()
	// The message's one field, with room for its length, which is known at the
	// end.
	const lengthRoom = 5
	const head = 1 + lengthRoom
	*s.buf = (*s.buf)[:head]
	if last {
		*s.buf = (&state.RangeReply{Revision: r.Revision}).AppendTo(*s.buf, h)
	}
	s.kvs(r.KVs)
	if last {
		s.tail(r)
	}
	out := s.finish()
	size := mem.BufferSlice(out).Len() - head
	first := out[0].ReadOnlyData()
	prefix := protowire.AppendTag(make([]byte, 0, head), 1, protowire.BytesType)
	prefix = protowire.AppendVarint(prefix, uint64(size))
	// The length may be shorter than its room: the message begins where it does.
	at := head - len(prefix)
	copy(first[at:], prefix)
	if at > 0 {
		whole := out[0]
		out[0] = whole.Slice(at, len(first))
		whole.Free()
	}
	return out
}
