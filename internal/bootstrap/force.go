package bootstrap

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
)

// homelessURL is the peer URL of a member that does not know its own, as etcd
// gives it.
const homelessURL = "http://localhost:2380"

// forceNew makes this member the only one: behind what is known to be committed
// the log gets changes that remove the others, committed from the start. They
// take the place of entries that nobody may have acknowledged.
//
// A member that is alone already has nothing that is not committed, so its log
// stays as it is, however often it is started like this.
func (m *Member) forceNew(o *Options) error {
	hard, _, err := m.Log.InitialState()
	if err != nil {
		return err
	}
	at, err := m.stamp()
	if err != nil {
		return err
	}
	last, err := m.Log.LastIndex()
	if err != nil {
		return err
	}
	// The commit index is not synced with every entry; what is applied was committed.
	commit := min(max(hard.GetCommit(), at.Index), last)
	term := max(hard.GetTerm(), 1) // it has none if nobody has contacted it yet
	voters, err := m.configuration(commit)
	if err != nil {
		return err
	}
	changes, err := m.cutOff(voters)
	if err != nil {
		return err
	}
	log := o.Logger.With("cluster-id", m.Cluster.String(), "local-member-id", m.ID.String(), "wal-commit-index", hard.GetCommit())
	if len(changes) == 0 {
		log.Info("forcing restart member", "commit-index", hard.GetCommit())
		return nil
	}
	if last > commit {
		log.Info("discarding uncommitted WAL entries", "entry-index", commit+1, "number-of-discarded-entries", last-commit)
	}
	entries := make([]*raftpb.Entry, 0, len(changes))
	for i, c := range changes {
		data, err := proto.Marshal(c)
		if err != nil {
			return err
		}
		entries = append(entries, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: &term, Index: new(commit + uint64(i+1)), Data: data,
		})
	}
	commit += uint64(len(entries))
	forced := &raftpb.HardState{Term: &term, Vote: new(hard.GetVote()), Commit: &commit}
	if err := m.Log.Append(forced, entries, true); err != nil {
		return fmt.Errorf("cut this member off its cluster: %w", err)
	}
	log.Info("forcing restart member", "commit-index", commit)
	return nil
}

// configuration is who is in the cluster at an entry of the log, and whether
// they vote.
func (m *Member) configuration(commit uint64) (map[member.ID]bool, error) {
	start := m.Log.Start()
	votes := map[member.ID]bool{}
	for _, id := range start.ConfState.GetVoters() {
		votes[member.ID(id)] = true
	}
	for _, id := range start.ConfState.GetLearners() {
		votes[member.ID(id)] = false
	}
	first, err := m.Log.FirstIndex()
	if err != nil {
		return nil, err
	}
	for first <= commit {
		const atOnce = 1 << 20
		entries, err := m.Log.Entries(first, commit+1, atOnce)
		if err != nil {
			return nil, fmt.Errorf("read the log from entry %d on: %w", first, err)
		}
		for _, e := range entries {
			if err := follow(votes, e); err != nil {
				return nil, err
			}
		}
		first += uint64(len(entries))
	}
	return votes, nil
}

// follow does to a configuration what an entry does.
func follow(votes map[member.ID]bool, e *raftpb.Entry) error {
	if e.GetType() != raftpb.EntryConfChange {
		return nil
	}
	var c raftpb.ConfChange
	if err := proto.Unmarshal(e.GetData(), &c); err != nil {
		return fmt.Errorf("entry %d of the log: %w", e.GetIndex(), err)
	}
	switch id := member.ID(c.GetNodeId()); c.GetType() {
	case raftpb.ConfChangeAddNode:
		votes[id] = true
	case raftpb.ConfChangeAddLearnerNode:
		votes[id] = false
	case raftpb.ConfChangeRemoveNode:
		delete(votes, id)
	}
	return nil
}

// cutOff are the changes that leave this member alone. It comes first, as there
// must be a voter at every moment.
func (m *Member) cutOff(votes map[member.ID]bool) ([]*raftpb.ConfChange, error) {
	book, err := m.readBook()
	if err != nil {
		return nil, err
	}
	if book.Removed(m.ID) {
		return nil, fmt.Errorf("member %s was removed from its cluster, and its ID cannot come back (force-new-cluster); restore its database, as a snapshot, into an empty directory", m.ID)
	}
	var changes []*raftpb.ConfChange
	switch voting, known := votes[m.ID]; {
	case !known:
		self := member.Member{ID: m.ID, PeerURLs: []string{homelessURL}}
		changes = append(changes, member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: self}.Entry(0))
	case !voting: // etcd would remove the last voter, and panic
		changes = append(changes, member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Promote: true}.Entry(0))
	}
	for _, id := range slices.Sorted(maps.Keys(votes)) {
		if id != m.ID {
			changes = append(changes, member.Change{Type: raftpb.ConfChangeRemoveNode, ID: id}.Entry(0))
		}
	}
	return changes, nil
}
