package state

import (
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/mvcc"
)

// Counts is what has been done since the start, for those who watch over the
// member. It is no part of the state: nothing depends on it, and members differ.
type Counts struct {
	// Calls on the keyspace, those inside transactions and the looking at keys
	// that compares and previous values take included.
	Ranges, Puts, Deletes uint64
	PutBytes              uint64 // keys and values of the puts
	Txns                  uint64 // that made more than one call
	Removed               uint64 // records, by compactions
	Granted, Revoked      uint64 // leases
}

func (c *Counts) calls() uint64 { return c.Ranges + c.Puts + c.Deletes }

// close ends a transaction on the keyspace that began when calls was before.
func (c *Counts) close(before uint64) {
	if c.calls() > before+1 {
		c.Txns++
	}
}

// looks reports whether a put has to look at what is there.
func looks(r *pb.PutRequest) bool { return r.IgnoreValue || r.IgnoreLease || r.PrevKv }

// reads counts what is asked of views, by any goroutine.
type reads struct{ ranges, txns atomic.Uint64 }

// close ends a transaction that made these calls.
func (r *reads) close(c *Counts) {
	c.close(0)
	r.ranges.Add(c.Ranges)
	r.txns.Add(c.Txns)
}

// counted is a source whose reads are counted.
type counted struct {
	source
	counts *Counts
}

func (c *counted) Range(q mvcc.Query) (mvcc.Page, error) {
	c.counts.Ranges++
	return c.source.Range(q)
}

func (c *counted) Items(span mvcc.Span, visit func(mvcc.Item) bool) {
	c.counts.Ranges++
	c.source.Items(span, visit)
}

// Counts is what has been done by the time of the view, and read by now.
func (v *View) Counts() Counts {
	c := v.counts
	c.Ranges += v.reads.ranges.Load()
	c.Txns += v.reads.txns.Load()
	return c
}
