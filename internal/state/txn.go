package state

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/mvcc"
)

// source is what a transaction reads from: a view, or a write in progress.
type source interface {
	Range(mvcc.Query) (mvcc.Page, error)
	Items(span mvcc.Span, visit func(mvcc.Item) bool)
	Wire(mvcc.Item) ([]byte, error)
	Revision() int64
	Compacted() int64
}

// txn runs a transaction: the path is chosen first, from the state before it,
// nested transactions included; then what may refuse an op is checked along
// the path; then the ops run, and nothing can refuse them any more.
func (m *Machine) txn(r *pb.TxnRequest, wanted bool) Outcome {
	w := m.keys.Begin()
	s := &counted{w, &m.counts}
	began := m.counts.calls()
	path, err := choose(s, r, nil)
	if err == nil {
		_, err = checkOps(s, r, path, func(r *pb.PutRequest) error { return m.checkPut(w, r) })
	}
	m.counts.close(began) // as etcd does, which reads in a transaction of its own
	if err != nil {
		w.End()
		return Outcome{Err: err}
	}
	defer m.counts.close(m.counts.calls())
	x := execution{source: s, write: w, machine: m, wanted: wanted}
	reply, _, err := x.run(r, path)
	if err != nil {
		w.End()
		return Outcome{Fatal: err}
	}
	reply.Revision = w.Revision()
	return ended(w, reply)
}

// ReadTxn runs a transaction that only reads, on the view.
func (v *View) ReadTxn(r *pb.TxnRequest) (*TxnReply, error) {
	var counts Counts
	defer v.reads.close(&counts)
	s := &counted{v.Keys, &counts}
	path, err := choose(s, r, nil)
	if err == nil {
		_, err = checkOps(s, r, path, nil)
	}
	if err != nil {
		return nil, err
	}
	x := execution{source: s, wanted: true}
	reply, _, err := x.run(r, path)
	if err != nil {
		return nil, err
	}
	reply.Revision = v.Keys.Revision()
	if v.Keys.Overtaken() {
		return nil, mvcc.ErrCollected
	}
	return reply, nil
}

// branch is the ops that the compares chose.
func branch(r *pb.TxnRequest, succeeded bool) []*pb.RequestOp {
	if succeeded {
		return r.Success
	}
	return r.Failure
}

// choose appends, depth first, the result of every compare list on the chosen
// path.
func choose(s source, r *pb.TxnRequest, path []bool) ([]bool, error) {
	succeeded := true
	for _, c := range r.Compare {
		holds, err := compare(s, c)
		if err != nil {
			return nil, err
		}
		if !holds {
			succeeded = false
			break
		}
	}
	path = append(path, succeeded)
	for _, op := range branch(r, succeeded) {
		if nested := op.GetRequestTxn(); nested != nil {
			var err error
			if path, err = choose(s, nested, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

// compare reports whether every key of the compare's span satisfies it. A span
// without a living key is compared as one zero key, except by value: there is
// no value, so nothing holds.
func compare(s source, c *pb.Compare) (holds bool, err error) {
	found := false
	holds = true
	s.Items(mvcc.Span{Key: c.Key, End: c.RangeEnd}, func(i mvcc.Item) bool {
		found = true
		holds, err = compareItem(s, c, i)
		return holds && err == nil
	})
	if err != nil || found {
		return holds, err
	}
	if c.Target == pb.Compare_VALUE {
		return false, nil
	}
	return satisfied(c.Result, compareNumber(c, 0, 0, 0, 0)), nil
}

func compareItem(s source, c *pb.Compare, i mvcc.Item) (bool, error) {
	if c.Target != pb.Compare_VALUE {
		return satisfied(c.Result, compareNumber(c, i.Version(), i.Create(), i.Mod(), i.Lease())), nil
	}
	wire, err := s.Wire(i)
	if err != nil {
		return false, err
	}
	kv, err := mvcc.Parse(wire)
	if err != nil {
		return false, err
	}
	given, _ := c.TargetUnion.(*pb.Compare_Value)
	var value []byte
	if given != nil {
		value = given.Value
	}
	return satisfied(c.Result, bytes.Compare(kv.Value, value)), nil
}

// compareNumber compares by a numeric target; a given value of another kind
// counts as 0, an unknown target as equal.
func compareNumber(c *pb.Compare, version, create, mod, lease int64) int {
	switch c.Target {
	case pb.Compare_VERSION:
		return cmp.Compare(version, c.GetVersion())
	case pb.Compare_CREATE:
		return cmp.Compare(create, c.GetCreateRevision())
	case pb.Compare_MOD:
		return cmp.Compare(mod, c.GetModRevision())
	case pb.Compare_LEASE:
		return cmp.Compare(lease, c.GetLease())
	default:
		return 0
	}
}

func satisfied(want pb.Compare_CompareResult, got int) bool {
	switch want {
	case pb.Compare_EQUAL:
		return got == 0
	case pb.Compare_NOT_EQUAL:
		return got != 0
	case pb.Compare_GREATER:
		return got > 0
	case pb.Compare_LESS:
		return got < 0
	default:
		return true
	}
}

// checkOps looks for what refuses an op on the path; rest is the path behind
// this transaction.
func checkOps(s source, r *pb.TxnRequest, path []bool, checkPut func(*pb.PutRequest) error) (rest []bool, err error) {
	succeeded, rest := path[0], path[1:]
	for _, op := range branch(r, succeeded) {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = checkRevision(s, o.RequestRange.GetRevision())
		case *pb.RequestOp_RequestPut:
			err = checkPut(o.RequestPut)
		case *pb.RequestOp_RequestTxn:
			rest, err = checkOps(s, o.RequestTxn, rest, checkPut)
		}
		if err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// checkRevision judges the revision of a range inside a transaction. Unlike a
// plain range, a negative one is not the newest but one before the compaction.
func checkRevision(s source, rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > s.Revision():
		return mvcc.ErrFuture
	case rev < s.Compacted():
		return mvcc.ErrCompacted
	}
	return nil
}

// execution runs the ops of a transaction.
type execution struct {
	source  source
	write   *mvcc.Write // nil: only reads
	machine *Machine
	wanted  bool // ranges are run only if somebody waits for them
}

func (x *execution) run(r *pb.TxnRequest, path []bool) (reply *TxnReply, rest []bool, err error) {
	reply = &TxnReply{Succeeded: path[0]}
	rest = path[1:]
	ops := branch(r, path[0])
	if len(ops) > 0 {
		reply.Responses = make([]any, 0, len(ops))
	}
	for _, op := range ops {
		var response any
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			response, err = x.read(o.RequestRange)
		case *pb.RequestOp_RequestPut:
			if looks(o.RequestPut) {
				x.machine.counts.Ranges++ // the check has counted its own look
			}
			response, err = x.machine.runPut(x.write, o.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			response, err = x.machine.runDelete(x.write, o.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			response, rest, err = x.run(o.RequestTxn, rest)
		default:
			continue // refused before it was proposed
		}
		if err != nil {
			return nil, nil, err
		}
		reply.Responses = append(reply.Responses, response)
	}
	return reply, rest, nil
}

func (x *execution) read(r *pb.RangeRequest) (*RangeReply, error) {
	if !x.wanted {
		return &RangeReply{Revision: x.source.Revision()}, nil
	}
	page, err := x.source.Range(query(r))
	if err != nil {
		return nil, err
	}
	return rangeReply(page), nil
}
