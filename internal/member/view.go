package member

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// View is the book of one moment. It never changes and is for any goroutine.
type View struct{ f *facts }

// Members returns every member by ID. Read only.
func (v View) Members() []Member { return v.f.members }

// Member finds a member.
func (v View) Member(id ID) (Member, bool) { return v.f.member(id) }

// Removed reports whether the ID belonged to a member once.
func (v View) Removed(id ID) bool {
	_, gone := slices.BinarySearch(v.f.removed, id)
	return gone
}

// RemovedIDs returns the IDs of all members that were removed, ascending. Read only.
func (v View) RemovedIDs() []ID { return v.f.removed }

// ClusterVersion is the version that all members understand; the zero Version
// until they have agreed on one.
func (v View) ClusterVersion() Version { return v.f.version }

// Downgrade is the downgrade job.
func (v View) Downgrade() Downgrade { return v.f.downgrade }

// ConfState is raft's configuration that follows from the members.
func (v View) ConfState() *raftpb.ConfState {
	cs := &raftpb.ConfState{AutoLeave: new(bool)}
	for _, m := range v.f.members {
		if m.Learner {
			cs.Learners = append(cs.Learners, uint64(m.ID))
		} else {
			cs.Voters = append(cs.Voters, uint64(m.ID))
		}
	}
	return cs
}

// Tree is the membership as etcd's snapshots of the log carry it.
func (v View) Tree() []byte { return tree(v.f) }
