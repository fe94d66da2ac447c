package api

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func opGet(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func opDelete(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opTxn(success, failure []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: success, Failure: failure}}}
}

type ops = []*pb.RequestOp

func TestTxnChecks(t *testing.T) {
	gets := func(n int) (all ops) {
		for range n {
			all = append(all, opGet("k"))
		}
		return all
	}
	for name, c := range map[string]struct {
		txn  *pb.TxnRequest
		want error
	}{
		"empty":                        {&pb.TxnRequest{}, nil},
		"at the limit":                 {&pb.TxnRequest{Success: gets(128), Failure: gets(128)}, nil},
		"over the limit":               {&pb.TxnRequest{Failure: gets(129)}, errTooManyOps},
		"too many compares":            {&pb.TxnRequest{Compare: make([]*pb.Compare, 129)}, errTooManyOps},
		"nested over what is left":     {&pb.TxnRequest{Success: append(gets(127), opTxn(gets(1), nil))}, errTooManyOps},
		"nested within what is left":   {&pb.TxnRequest{Success: append(gets(63), opTxn(gets(64), nil))}, nil},
		"limit before empty key":       {&pb.TxnRequest{Success: append(gets(128), opPut(""))}, errTooManyOps},
		"compare without a key":        {&pb.TxnRequest{Compare: []*pb.Compare{{}}, Success: ops{{}}}, errEmptyKey},
		"operation that is none":       {&pb.TxnRequest{Failure: ops{{}}}, errNoOperation},
		"sort option in a range":       {&pb.TxnRequest{Success: ops{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k"), SortOrder: 3}}}}}, errSortOption},
		"same key put twice":           {&pb.TxnRequest{Success: ops{opPut("a"), opPut("a")}}, errDuplicateKey},
		"one put in each branch":       {&pb.TxnRequest{Success: ops{opPut("a")}, Failure: ops{opPut("a")}}, nil},
		"put and delete of a key":      {&pb.TxnRequest{Success: ops{opPut("a"), opDelete("a", "")}}, errDuplicateKey},
		"put in a deleted range":       {&pb.TxnRequest{Success: ops{opDelete("a", "c"), opPut("b")}}, errDuplicateKey},
		"put at a range's end":         {&pb.TxnRequest{Success: ops{opDelete("a", "c"), opPut("c")}}, nil},
		"put in two ranges joined":     {&pb.TxnRequest{Success: ops{opDelete("a", "c"), opDelete("b", "e"), opPut("d")}}, errDuplicateKey},
		"delete and delete":            {&pb.TxnRequest{Success: ops{opDelete("a", "c"), opDelete("b", "d")}}, nil},
		"put in a delete from a key":   {&pb.TxnRequest{Success: ops{opDelete("a", "\x00"), opPut("b")}}, nil},
		"put in an inverted delete":    {&pb.TxnRequest{Success: ops{opDelete("c", "a"), opPut("b")}}, nil},
		"range over a put":             {&pb.TxnRequest{Success: ops{opGet("a"), opPut("a")}}, nil},
		"put beside a nested put":      {&pb.TxnRequest{Success: ops{opPut("a"), opTxn(nil, ops{opPut("a")})}}, errDuplicateKey},
		"put in both nested branches":  {&pb.TxnRequest{Success: ops{opTxn(ops{opPut("a")}, ops{opPut("a")})}}, nil},
		"put in two nested":            {&pb.TxnRequest{Success: ops{opTxn(ops{opPut("a")}, nil), opTxn(nil, ops{opPut("a")})}}, errDuplicateKey},
		"nested put under a delete":    {&pb.TxnRequest{Success: ops{opDelete("a", "c"), opTxn(ops{opPut("b")}, nil)}}, errDuplicateKey},
		"put under a nested delete":    {&pb.TxnRequest{Success: ops{opPut("b"), opTxn(ops{opDelete("a", "c")}, nil)}}, errDuplicateKey},
		"nested: earlier delete":       {&pb.TxnRequest{Success: ops{opTxn(ops{opDelete("a", "c")}, nil), opTxn(ops{opPut("b")}, nil)}}, errDuplicateKey},
		"nested: later delete":         {&pb.TxnRequest{Success: ops{opTxn(ops{opPut("b")}, nil), opTxn(ops{opDelete("a", "c")}, nil)}}, nil},
		"nested: delete in other half": {&pb.TxnRequest{Success: ops{opTxn(ops{opPut("b")}, ops{opDelete("a", "c")})}}, nil},
		"overlap inside nested alone":  {&pb.TxnRequest{Failure: ops{opTxn(ops{opTxn(nil, ops{opPut("a"), opPut("a")})}, nil)}}, errDuplicateKey},
	} {
		if err := checkTxn(c.txn, 128); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestReadOnlyTxns(t *testing.T) {
	local := opGet("a")
	local.GetRequestRange().Serializable = true
	for name, c := range map[string]struct {
		txn           *pb.TxnRequest
		only, barrier bool
	}{
		"no operation":     {&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a")}}}, true, false},
		"ranges":           {&pb.TxnRequest{Success: ops{opGet("a")}}, true, true},
		"local ranges":     {&pb.TxnRequest{Success: ops{local}, Failure: ops{local}}, true, false},
		"one not local":    {&pb.TxnRequest{Success: ops{local}, Failure: ops{opGet("a")}}, true, true},
		"a put not taken":  {&pb.TxnRequest{Failure: ops{opPut("a")}}, false, false},
		"a nested of none": {&pb.TxnRequest{Success: ops{opTxn(nil, nil)}}, false, false},
	} {
		if only, barrier := readsOnly(c.txn); only != c.only || barrier != c.barrier {
			t.Errorf("%s: got %v, %v", name, only, barrier)
		}
	}
}

func TestRangeAndPutChecks(t *testing.T) {
	key := []byte("k")
	for _, c := range []struct {
		got, want error
	}{
		{checkRange(&pb.RangeRequest{SortOrder: 9}), errEmptyKey},
		{checkRange(&pb.RangeRequest{Key: key, SortOrder: 3}), errSortOption},
		{checkRange(&pb.RangeRequest{Key: key, SortTarget: -1}), errSortOption},
		{checkRange(&pb.RangeRequest{Key: key, SortTarget: 4, SortOrder: 2}), nil},
		{checkRangeStream(&pb.RangeRequest{Key: key, SortTarget: 4}), nil},
		{checkRangeStream(&pb.RangeRequest{Key: key, SortOrder: 1}), nil},
		{checkRangeStream(&pb.RangeRequest{Key: key, SortOrder: 2}), errStreamSort},
		{checkRangeStream(&pb.RangeRequest{Key: key, MinModRevision: 1}), errStreamFilter},
		{checkPut(&pb.PutRequest{IgnoreValue: true, Value: key}), errEmptyKey},
		{checkPut(&pb.PutRequest{Key: key, IgnoreValue: true, Value: key, IgnoreLease: true, Lease: 1}), errValueGiven},
		{checkPut(&pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1}), errLeaseGiven},
		{checkPut(&pb.PutRequest{Key: key, IgnoreLease: true, IgnoreValue: true}), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}
