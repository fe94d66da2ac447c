package member

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Change is one change to the cluster, as an entry of the log carries it.
type Change struct {
	Type    raftpb.ConfChangeType
	ID      ID
	Member  Member // of an addition or update; only ID otherwise
	Promote bool   // an addition that makes a voter of a learner
}

// promotion is the context of one in the log; any other is a Member alone.
type promotion struct {
	Member
	Promote bool `json:"isPromote"`
}

// ParseChange reads a change from the log. An error means that no etcd can have
// written it.
func ParseChange(cc *raftpb.ConfChange) (Change, error) {
	c := Change{Type: cc.GetType(), ID: ID(cc.GetNodeId())}
	switch c.Type {
	case raftpb.ConfChangeRemoveNode:
		c.Member.ID = c.ID
		return c, nil
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeUpdateNode:
	default:
		return Change{}, fmt.Errorf("change of member %s: unknown type %d", c.ID, int32(c.Type))
	}
	var context promotion
	if err := json.Unmarshal(cc.GetContext(), &context); err != nil {
		return Change{}, fmt.Errorf("change of member %s: context: %w", c.ID, err)
	}
	if context.Member.ID != c.ID {
		return Change{}, fmt.Errorf("change of member %s: the context is about %s", c.ID, context.Member.ID)
	}
	c.Member = context.Member
	c.Promote = context.Promote && c.Type != raftpb.ConfChangeUpdateNode
	return c, nil
}

// Entry is the change as it goes into the log. A requestID of 0 is left out: the
// entries that begin a cluster have none.
func (c Change) Entry(requestID uint64) *raftpb.ConfChange {
	id := uint64(c.ID)
	cc := &raftpb.ConfChange{Type: c.Type.Enum(), NodeId: &id}
	if requestID != 0 {
		cc.Id = &requestID
	}
	m := c.Member
	m.ID = c.ID
	switch {
	case c.Type == raftpb.ConfChangeRemoveNode: // no context
	case c.Promote:
		cc.Context = mustJSON(promotion{m, true})
	default:
		cc.Context = mustJSON(m)
	}
	return cc
}

// mustJSON is for types that always have a JSON.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("member: %T has no JSON: %v", v, err))
	}
	return b
}
