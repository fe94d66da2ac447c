package state

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

func (c *conversation) change(change member.Change) Outcome {
	c.index++
	out := c.machine.Apply(Entry{Index: c.index, Term: 1, Change: change.Entry(c.index)})
	if out.Fatal != nil {
		c.t.Fatal(out.Fatal)
	}
	return out
}

// Etcd writes whatever it is asked to write, and its members end over it.
func TestABadPeerURLStopsNobody(t *testing.T) {
	c := converse(t)
	m := member.Member{ID: 5, PeerURLs: []string{"http://a:1"}}
	if out := c.change(member.Change{Type: raftpb.ConfChangeAddNode, ID: 5, Member: m}); out.Err != nil {
		t.Fatal(out.Err)
	}
	m.PeerURLs = []string{"notaurl", "://", ""}
	if out := c.change(member.Change{Type: raftpb.ConfChangeUpdateNode, ID: 5, Member: m}); out.Err != nil || out.Change.GetNodeId() != 5 {
		t.Errorf("%v, for raft %v", out.Err, out.Change)
	}
	if err := c.disk.Commit(store.Stamp{Index: c.index, Term: 1}, c.machine.Take()); err != nil {
		t.Fatal(err)
	}
	c.load()
	if got, ok := c.machine.View().Members.Member(5); !ok || len(got.PeerURLs) != 3 || len(c.machine.Members().Tree()) == 0 {
		t.Errorf("after a restart there is %v", got)
	}
}

func TestHowManyLearnersThereMayBe(t *testing.T) {
	for limit, want := range map[int]int{-1: 0, 0: 1, 1: 1, 3: 3} {
		reader, err := store.NewMem().Read()
		if err != nil {
			t.Fatal(err)
		}
		m, err := Load(reader, nil, Options{MaxLearners: limit})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for id := member.ID(1); id < 9; id++ {
			c := member.Change{Type: raftpb.ConfChangeAddLearnerNode, ID: id, Member: member.Member{ID: id, Learner: true}}
			out := m.Apply(Entry{Index: uint64(id), Term: 1, Change: c.Entry(1)})
			switch {
			case out.Err == nil:
				n++
			case !errors.Is(out.Err, member.ErrTooManyLearners) || out.Change.GetNodeId() != 0:
				t.Errorf("%v, for raft %v", out.Err, out.Change)
			}
		}
		if n != want {
			t.Errorf("with a limit of %d there are %d learners, want %d", limit, n, want)
		}
	}
}
