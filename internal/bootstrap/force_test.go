package bootstrap

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// change appends a change of membership to the log of a closed member; commit
// is what the log then knows to be committed.
func change(t *testing.T, o Options, c member.Change, commit uint64) {
	t.Helper()
	l, err := wal.Open(o.walDir(), o.Log)
	must(t, err)
	last, err := l.LastIndex()
	must(t, err)
	data, err := proto.Marshal(c.Entry(77))
	must(t, err)
	must(t, l.Append(&raftpb.HardState{Term: new(uint64(3)), Vote: new(uint64(9)), Commit: &commit},
		[]*raftpb.Entry{{Index: new(last + 1), Term: new(uint64(3)), Type: raftpb.EntryConfChange.Enum(), Data: data}}, true))
	must(t, l.Close())
}

// texts writes changes as "+id", "-id", "^id" for a promotion.
func texts(all []member.Change) string {
	var out []string
	for _, c := range all {
		sign := "+"
		switch {
		case c.Promote:
			sign = "^"
		case c.Type == raftpb.ConfChangeRemoveNode:
			sign = "-"
		}
		out = append(out, sign+c.ID.String())
	}
	return strings.Join(out, " ")
}

func TestForceNewClusterCutsTheOthersOff(t *testing.T) {
	const (
		self = "6f6027b3564e89d8"
		m3   = "7689fd9fc688eed3"
		m2   = "c3729c1717902760"
		all  = "+" + self + " +" + m3 + " +" + m2
	)
	add := func(id member.ID) member.Change {
		return member.Change{Type: raftpb.ConfChangeAddNode, ID: id, Member: member.Member{PeerURLs: []string{"http://127.0.0.1:7"}}}
	}
	learn := func(id member.ID) member.Change {
		c := add(id)
		c.Type, c.Member.Learner = raftpb.ConfChangeAddLearnerNode, true
		return c
	}
	remove := func(id member.ID) member.Change { return member.Change{Type: raftpb.ConfChangeRemoveNode, ID: id} }
	ours, err := member.ParseID(self)
	must(t, err)
	third, err := member.ParseID(m3)
	must(t, err)
	for _, c := range []struct {
		name   string
		make   func(t *testing.T, o Options)
		want   string // all changes in the log
		term   uint64 // of the last
		commit uint64
	}{
		{"three members", func(*testing.T, Options) {}, all + " -" + m3 + " -" + m2, 1, 5},
		{"one more, and one less", func(t *testing.T, o Options) {
			change(t, o, remove(third), 4)
			change(t, o, add(0x44), 5)
		}, all + " -" + m3 + " +44 -44 -" + m2, 3, 7},
		{"a learner", func(t *testing.T, o Options) { change(t, o, learn(0x44), 4) }, all + " +44 -44 -" + m3 + " -" + m2, 3, 7},
		{"an addition that is not committed", func(t *testing.T, o Options) { change(t, o, add(0x44), 3) }, all + " -" + m3 + " -" + m2, 3, 5},
		{"an addition that is applied", func(t *testing.T, o Options) {
			change(t, o, add(0x44), 3)
			f, err := store.Open(o.storePath(), o.Store)
			must(t, err)
			must(t, errors.Join(f.Commit(store.Stamp{Index: 4, Term: 3}), f.Close()))
		}, all + " +44 -44 -" + m3 + " -" + m2, 3, 7},
		{"a snapshot of the log", func(t *testing.T, o Options) {
			f, err := store.Open(o.storePath(), o.Store)
			must(t, err)
			must(t, errors.Join(f.Commit(store.Stamp{Index: 3, Term: 1}), f.Close()))
			l, err := wal.Open(o.walDir(), o.Log)
			must(t, err)
			conf := &raftpb.ConfState{Voters: []uint64{uint64(ours), uint64(third)}, Learners: []uint64{0x55}}
			must(t, errors.Join(l.MarkSnapshot(wal.Snapshot{Index: 3, Term: 1, ConfState: conf}), l.Close()))
		}, "-55 -" + m3, 1, 5},
		{
			"this member is not there", func(t *testing.T, o Options) { change(t, o, remove(ours), 4) },
			all + " -" + self + " +" + self + " -" + m3 + " -" + m2, 3, 7,
		},
		{"this member does not vote", func(t *testing.T, o Options) {
			change(t, o, remove(ours), 4)
			change(t, o, learn(ours), 5)
		}, all + " -" + self + " +" + self + " ^" + self + " -" + m3 + " -" + m2, 3, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := founder(t.TempDir(), "m1")
			live(t, o, 0, 0)
			c.make(t, o)
			o.ForceNew = true
			var before string
			for i := range 2 { // the option may stay
				m, err := Open(t.Context(), o)
				must(t, err)
				if got := texts(changes(t, m)); got != c.want {
					t.Errorf("the log changes %s\nwant            %s", got, c.want)
				}
				hard, _, err := m.Log.InitialState()
				must(t, err)
				last, err := m.Log.LastIndex()
				must(t, err)
				term, err := m.Log.Term(last)
				must(t, err)
				if hard.GetCommit() != c.commit || last != c.commit || term != c.term || hard.GetTerm() != c.term {
					t.Errorf("hard state %v, the log ends at %d of term %d; want %d of term %d", hard, last, term, c.commit, c.term)
				}
				if m.ID != ours || m.Cluster.String() != "aa3e9fbe54ec35b6" || m.New {
					t.Errorf("member %s of cluster %s, new %v", m.ID, m.Cluster, m.New)
				}
				must(t, m.Close())
				after := fmt.Sprint(contents(t, o.walDir()))
				if i > 0 && after != before {
					t.Error("the second start has changed the log")
				}
				before = after
			}
		})
	}
}

// TestAMemberAloneKeepsItsLog: what only it has to write is committed once it is
// written, whatever the hard state knows.
func TestAMemberAloneKeepsItsLog(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 0, 0)
	l, err := wal.Open(o.walDir(), o.Log)
	must(t, err)
	must(t, errors.Join(l.Append(&raftpb.HardState{Term: new(uint64(2)), Vote: new(uint64), Commit: new(uint64(1))},
		[]*raftpb.Entry{{Index: new(uint64(2)), Term: new(uint64(2)), Type: raftpb.EntryNormal.Enum()}}, true), l.Close()))
	o.ForceNew = true
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if last, err := m.Log.LastIndex(); last != 2 || err != nil {
		t.Errorf("the log ends at %d, %v", last, err)
	}
}

func TestForceNewClusterOfAMemberThatWasRemovedIsRefused(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 2, 2)
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	put(t, o, store.MembersRemoved, m.ID.String(), "removed")
	o.ForceNew = true
	refused(t, o, nil, "member "+m.ID.String()+" was removed from its cluster", "force-new-cluster", "restore its database")
}

// TestForceNewClusterOfAJoinerThatWasNeverContacted: etcd makes an empty cluster
// of it.
func TestForceNewClusterOfAJoinerThatWasNeverContacted(t *testing.T) {
	o := joiner(t.TempDir(), running())
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	o.ForceNew, o.Peers = true, nil
	m, err = Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	all := changes(t, m)
	if texts(all) != "+33" || all[0].Member.PeerURLs[0] != homelessURL {
		t.Errorf("%v", all)
	}
	if e := entries(t, m); e[0].GetTerm() != 1 || e[0].GetIndex() != 1 {
		t.Errorf("%v", e)
	}
}

// TestForceNewClusterOfAnEmptyDirectoryIsAFirstStart as in etcd.
func TestForceNewClusterOfAnEmptyDirectoryIsAFirstStart(t *testing.T) {
	o := alone(t.TempDir())
	o.ForceNew = true
	m, err := Open(t.Context(), o)
	must(t, err)
	defer m.Close()
	if got := texts(changes(t, m)); !m.New || got != "+"+m.ID.String() {
		t.Errorf("new %v, changes %s", m.New, got)
	}
}
