package api

import (
	"bytes"
	"cmp"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What makes a request well formed, in the order in which etcd looks.

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return errEmptyKey
	}
	if r.SortOrder < pb.RangeRequest_NONE || r.SortOrder > pb.RangeRequest_DESCEND ||
		r.SortTarget < pb.RangeRequest_KEY || r.SortTarget > pb.RangeRequest_VALUE {
		return errSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	plain := r.SortOrder == pb.RangeRequest_NONE ||
		r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
	if !plain {
		return errStreamSort
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return errStreamFilter
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return errEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return errValueGiven
	case r.IgnoreLease && r.Lease != 0:
		return errLeaseGiven
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return errEmptyKey
	}
	return nil
}

// checkTxn looks at a transaction of at most limit operations a list, nested
// ones within what their parents left.
func checkTxn(r *pb.TxnRequest, limit int) error {
	if err := checkOps(r, limit); err != nil {
		return err
	}
	// Overlaps only now, that the number of operations is bounded.
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		if len(ops) < 2 && !nested(ops) {
			continue
		}
		if _, _, err := checkOverlap(ops); err != nil {
			return err
		}
	}
	return nil
}

func checkOps(r *pb.TxnRequest, limit int) error {
	n := max(len(r.Compare), len(r.Success), len(r.Failure))
	if n > limit {
		return errTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return errEmptyKey
		}
	}
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := checkOp(op, limit-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, limit int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkOps(o.RequestTxn, limit)
	default:
		return errNoOperation
	}
}

func nested(ops []*pb.RequestOp) bool {
	return slices.ContainsFunc(ops, func(op *pb.RequestOp) bool { return op.GetRequestTxn() != nil })
}

// checkOverlap refuses a list that puts a key twice, or puts one that it
// deletes; nested transactions count with both branches, of which only one can
// run. It returns what the list puts and deletes.
func checkOverlap(ops []*pb.RequestOp) (puts map[string]struct{}, gone intervals, err error) {
	puts = map[string]struct{}{}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			gone = append(gone, intervalOf(d))
		}
	}
	gone = gone.merged()
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if gone, err = checkNested(t, puts, gone); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, op := range ops {
		p := op.GetRequestPut()
		if p == nil {
			continue
		}
		if _, twice := puts[string(p.Key)]; twice || gone.holds(p.Key) {
			return nil, nil, errDuplicateKey
		}
		puts[string(p.Key)] = struct{}{}
	}
	return puts, gone, nil
}

// checkNested adds what t puts to puts and returns gone with what it deletes.
func checkNested(t *pb.TxnRequest, puts map[string]struct{}, gone intervals) (intervals, error) {
	then, thenGone, err := checkOverlap(t.Success)
	if err != nil {
		return nil, err
	}
	otherwise, otherwiseGone, err := checkOverlap(t.Failure)
	if err != nil {
		return nil, err
	}
	for key := range then {
		if _, twice := puts[key]; twice || gone.holds([]byte(key)) {
			return nil, errDuplicateKey
		}
	}
	for key := range otherwise {
		if _, twice := puts[key]; twice || gone.holds([]byte(key)) {
			return nil, errDuplicateKey
		}
	}
	for _, branch := range [...]map[string]struct{}{then, otherwise} {
		for key := range branch {
			puts[key] = struct{}{}
		}
	}
	return slices.Concat(gone, thenGone, otherwiseGone).merged(), nil
}

// intervals are disjoint and ascending once merged.
type intervals []interval

// interval is from <= key < to.
type interval struct{ from, to []byte }

// intervalOf is what a deletion overlaps with. A deletion of everything from a
// key on overlaps with nothing: so it is in etcd, whose clients delete a prefix
// and put a key below it in one transaction.
func intervalOf(d *pb.DeleteRangeRequest) interval {
	if len(d.RangeEnd) == 0 {
		return interval{d.Key, append(slices.Clip(d.Key), 0)}
	}
	return interval{d.Key, d.RangeEnd}
}

func (all intervals) merged() intervals {
	all = slices.DeleteFunc(all, func(i interval) bool { return bytes.Compare(i.from, i.to) >= 0 })
	slices.SortFunc(all, func(a, b interval) int { return cmp.Or(bytes.Compare(a.from, b.from), bytes.Compare(a.to, b.to)) })
	out := all[:0]
	for _, i := range all {
		if n := len(out); n > 0 && bytes.Compare(i.from, out[n-1].to) <= 0 {
			if bytes.Compare(i.to, out[n-1].to) > 0 {
				out[n-1].to = i.to
			}
			continue
		}
		out = append(out, i)
	}
	return out
}

func (all intervals) holds(key []byte) bool {
	i := sort.Search(len(all), func(i int) bool { return bytes.Compare(key, all[i].to) < 0 })
	return i < len(all) && bytes.Compare(all[i].from, key) <= 0
}

// readsOnly reports whether a transaction can be answered without the log, and
// whether that needs a barrier.
func readsOnly(r *pb.TxnRequest) (only, barrier bool) {
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			read := op.GetRequestRange()
			if read == nil {
				return false, false
			}
			barrier = barrier || !read.Serializable
		}
	}
	return true, barrier
}
