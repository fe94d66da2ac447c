package bootstrap

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/member"
)

// founders are the members that a cluster begins with.
type founders struct {
	cluster member.ClusterID
	changes []*raftpb.ConfChange // one addition each, by ID
}

// seeds works out the IDs of the initial cluster.
func (o *Options) seeds() (*founders, member.ID, error) {
	var self member.ID
	members := make([]member.Member, 0, len(o.Cluster))
	seen := map[string]string{}
	for _, s := range o.Cluster {
		if len(s.PeerURLs) == 0 {
			return nil, 0, fmt.Errorf("initial cluster: member %q has no peer URL", s.Name)
		}
		for _, u := range s.PeerURLs {
			if other, ok := seen[u]; ok {
				return nil, 0, fmt.Errorf("initial cluster has duplicate url %s (of %q and %q)", u, other, s.Name)
			}
			seen[u] = s.Name
		}
		id := member.NewID(s.PeerURLs, o.Token)
		members = append(members, member.Member{ID: id, PeerURLs: slices.Sorted(slices.Values(s.PeerURLs)), Name: s.Name})
		if s.Name == o.Name {
			self = id
		}
	}
	if self == 0 {
		return nil, 0, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", o.Name)
	}
	slices.SortFunc(members, func(a, b member.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	f := &founders{}
	ids := make([]member.ID, 0, len(members))
	for _, m := range members {
		ids = append(ids, m.ID)
		f.changes = append(f.changes, member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}.Entry(0))
	}
	f.cluster = member.ClusterIDOf(ids)
	return f, self, nil
}

// encodeChange serializes a ConfChange as etcd writes the first entries of a
// log: type and node, explicitly, and the context.
func encodeChange(c *raftpb.ConfChange) ([]byte, error) {
	if c.GetId() != 0 {
		return nil, errors.New("a change that founds a cluster has no request ID")
	}
	b := protowire.AppendTag(nil, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(c.GetType()))
	b = protowire.AppendTag(b, 3, protowire.VarintType)
	b = protowire.AppendVarint(b, c.GetNodeId())
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendBytes(b, c.GetContext()), nil
}
