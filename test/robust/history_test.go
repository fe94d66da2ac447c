package robust

import (
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Clients work on groups of a few keys. A request touches one group only, so
// that each group's history can be judged by itself.
const (
	groups   = 6
	inGroup  = 3
	keySpace = "k/" // all groups are below it
)

// forever is the end of a call that was never answered.
const forever = time.Duration(1<<63 - 1)

// An act is a part of a request.
type act struct {
	Do    string // put, get, delete
	Key   int    // in the group; whole: all of it
	Value string `json:",omitempty"`
}

const whole = -1

// A guard is what must hold for the first of a transaction's branches: the key
// was last changed at that revision, 0 if it is not there.
type guard struct {
	Key int
	Mod int64
}

// held is a key-value as the model knows it; zero if the key is not there.
type held struct {
	Value                string
	Create, Mod, Version int64
}

// A call is one request of a client and what it was answered.
type call struct {
	Client, Member, Life int
	Start, End           time.Duration // since the load began
	Group                int
	Serializable         bool   `json:",omitempty"`
	If                   *guard `json:",omitempty"`
	Then                 []act
	Else                 []act `json:",omitempty"`

	Fault     string          `json:",omitempty"` // why there is no answer
	Revision  int64           // of the answer's header, or of what the watch said of it
	Succeeded bool            // the first branch was taken
	Got       [][inGroup]held `json:",omitempty"` // of each get
	Deleted   []int64         `json:",omitempty"` // of each delete
}

// answered tells whether the client knows what came of it.
func (c *call) answered() bool { return c.Fault == "" }

// reads tells whether it cannot change anything.
func (c *call) reads() bool {
	for _, branch := range [][]act{c.Then, c.Else} {
		for _, a := range branch {
			if a.Do != "get" {
				return false
			}
		}
	}
	return true
}

// taken is the branch that was done.
func (c *call) taken() []act {
	if c.Succeeded {
		return c.Then
	}
	return c.Else
}

func keyOf(group, i int) string { return fmt.Sprintf("%s%d/%d", keySpace, group, i) }

// span is what an act asks for.
func (a act) span(group int) (key, end []byte) {
	if a.Key == whole {
		return fmt.Appendf(nil, "%s%d/", keySpace, group), fmt.Appendf(nil, "%s%d0", keySpace, group)
	}
	return []byte(keyOf(group, a.Key)), nil
}

// placeOf is the group and number of a key, if it is one of the groups'.
func placeOf(key []byte) (group, i int, ok bool) {
	if !strings.HasPrefix(string(key), keySpace) {
		return 0, 0, false
	}
	_, err := fmt.Sscanf(string(key), keySpace+"%d/%d", &group, &i)
	return group, i, err == nil
}

// request is the call as a transaction.
func (c *call) request() *pb.TxnRequest {
	r := &pb.TxnRequest{}
	if c.If != nil {
		r.Compare = []*pb.Compare{{
			Key: []byte(keyOf(c.Group, c.If.Key)), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: c.If.Mod},
		}}
	}
	r.Success, r.Failure = c.ops(c.Then), c.ops(c.Else)
	return r
}

func (c *call) ops(acts []act) (ops []*pb.RequestOp) {
	for _, a := range acts {
		key, end := a.span(c.Group)
		switch a.Do {
		case "put":
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(a.Value)}}})
		case "delete":
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end},
			}})
		default:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
				RequestRange: &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: c.Serializable},
			}})
		}
	}
	return ops
}

// took files a transaction's answer.
func (c *call) took(r *pb.TxnResponse) {
	c.Revision, c.Succeeded = r.Header.Revision, r.Succeeded
	for _, one := range r.Responses {
		if got := one.GetResponseRange(); got != nil {
			c.Got = append(c.Got, holding(got.Kvs))
		}
		if gone := one.GetResponseDeleteRange(); gone != nil {
			c.Deleted = append(c.Deleted, gone.Deleted)
		}
	}
}

// holding is a range's answer as the model sees it.
func holding(kvs []*mvccpb.KeyValue) (all [inGroup]held) {
	for _, kv := range kvs {
		if _, i, ok := placeOf(kv.Key); ok && i < inGroup {
			all[i] = held{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version}
		}
	}
	return all
}
