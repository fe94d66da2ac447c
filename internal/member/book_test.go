package member

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
)

// TestConversation plays testdata/book.txt: blocks of commands, a line of dashes
// and the answer. A change is validated, then applied and committed.
func TestConversation(t *testing.T) {
	text, err := os.ReadFile("testdata/book.txt")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, mem: store.NewMem(), views: map[string]View{}}
	s.reload()
	for i, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		commands, want, ok := strings.Cut(block+"\n", "\n----\n")
		if !ok {
			t.Fatalf("block %d has no dashes", i+1)
		}
		var got strings.Builder
		for _, line := range strings.Split(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				got.WriteString(s.answer(strings.Fields(line)))
			}
		}
		if got.String() != want {
			t.Errorf("after\n%s\nthe answer is\n%s\nwant\n%s", commands, got.String(), want)
		}
	}
}

type scene struct {
	t     *testing.T
	mem   *store.Mem
	book  *Book
	views map[string]View
}

func (s *scene) reader() store.Reader {
	r, err := s.mem.Read()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *scene) reload() {
	var err error
	if s.book, err = Load(s.reader()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) answer(c []string) string {
	var rows store.Batch
	out := s.do(c, &rows)
	if err := s.mem.Commit(store.Stamp{}, &rows); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *scene) do(c []string, rows *store.Batch) string {
	types := map[string]raftpb.ConfChangeType{
		"add": raftpb.ConfChangeAddNode, "add-learner": raftpb.ConfChangeAddLearnerNode, "promote": raftpb.ConfChangeAddNode,
		"update": raftpb.ConfChangeUpdateNode, "remove": raftpb.ConfChangeRemoveNode,
	}
	switch c[0] {
	case "add", "add-learner", "promote", "update", "remove": // id url...
		id := s.id(c[1])
		return s.change(Change{
			Type: types[c[0]], ID: id, Promote: c[0] == "promote",
			Member: Member{ID: id, PeerURLs: c[2:], Learner: c[0] == "add-learner"},
		}, rows)
	case "publish": // id name url...
		if err := s.book.SetAttributes(s.id(c[1]), c[2], c[3:], rows); err != nil {
			return err.Error() + "\n"
		}
	case "version":
		v, err := ParseVersion(c[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.book.SetVersion(v, rows)
	case "downgrade":
		s.book.SetDowngrade(Downgrade{Target: c[1], Enabled: true}, rows)
	case "downgrade-cancel":
		s.book.SetDowngrade(Downgrade{}, rows)
	case "reload":
		s.reload()
	case "view":
		s.views[c[1]] = s.book.View()
	case "show":
		v := s.book.View()
		if len(c) > 1 {
			v = s.views[c[1]]
		}
		return show(v)
	case "rows":
		return rowsOf(s.reader())
	case "confstate":
		cs := s.book.ConfState()
		return fmt.Sprintf("voters %v, learners %v\n", cs.GetVoters(), cs.GetLearners())
	default:
		s.t.Fatalf("unknown command %v", c)
	}
	return ""
}

// change sends c through the log's form, as the machine gets it.
func (s *scene) change(c Change, rows *store.Batch) string {
	c, err := ParseChange(c.Entry(1))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.book.Validate(c, 1); err != nil {
		return err.Error() + "\n"
	}
	s.book.Apply(c, rows)
	return ""
}

func (s *scene) id(text string) ID {
	n, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return ID(n)
}

func show(v View) string {
	var out strings.Builder
	for _, m := range v.Members() {
		fmt.Fprintf(&out, "%s", m.ID)
		if m.Started() {
			fmt.Fprintf(&out, " %s", m.Name)
		}
		if m.Learner {
			out.WriteString(" (learner)")
		}
		fmt.Fprintf(&out, " %v %v\n", m.PeerURLs, m.ClientURLs)
	}
	fmt.Fprintf(&out, "removed %v, version %s, downgrade %v\n", v.RemovedIDs(), v.ClusterVersion(), v.Downgrade())
	return out.String()
}

func rowsOf(r store.Reader) string {
	var out strings.Builder
	for _, bucket := range []store.Bucket{store.Members, store.MembersRemoved, store.Cluster, store.Meta} {
		r.Scan(bucket, nil, nil, func(key, value []byte) bool {
			if string(key) != "consistent_index" {
				fmt.Fprintf(&out, "%s/%s = %s\n", bucket, key, value)
			}
			return true
		})
	}
	return out.String()
}

func TestValidateKnowsEveryRefusal(t *testing.T) {
	s := &scene{t: t, mem: store.NewMem()}
	s.reload()
	for _, c := range []string{"add 1 a1 a2", "add 2 b", "add 3 c", "remove 3", "add-learner 4 d"} {
		if out := s.answer(strings.Fields(c)); out != "" {
			t.Fatal(out)
		}
	}
	learner := Member{ID: 9, PeerURLs: []string{"x"}, Learner: true}
	for name, c := range map[string]struct {
		change Change
		limit  int
		want   error
	}{
		"add":                      {Change{Type: raftpb.ConfChangeAddNode, ID: 9, Member: Member{ID: 9, PeerURLs: []string{"x"}}}, 1, nil},
		"add without URLs":         {Change{Type: raftpb.ConfChangeAddNode, ID: 9, Member: Member{ID: 9}}, 1, nil},
		"add a removed one":        {Change{Type: raftpb.ConfChangeAddNode, ID: 3, Member: Member{ID: 3, PeerURLs: []string{"x"}}}, 1, ErrRemoved},
		"add one that is there":    {Change{Type: raftpb.ConfChangeAddNode, ID: 1, Member: Member{ID: 1, PeerURLs: []string{"x"}}}, 1, ErrExists},
		"add, URL taken":           {Change{Type: raftpb.ConfChangeAddNode, ID: 9, Member: Member{ID: 9, PeerURLs: []string{"x", "a2"}}}, 1, ErrURLExists},
		"add learner":              {Change{Type: raftpb.ConfChangeAddLearnerNode, ID: 9, Member: learner}, 2, nil},
		"add learner beyond limit": {Change{Type: raftpb.ConfChangeAddLearnerNode, ID: 9, Member: learner}, 1, ErrTooManyLearners},
		"add learner, URL taken":   {Change{Type: raftpb.ConfChangeAddLearnerNode, ID: 9, Member: Member{ID: 9, PeerURLs: []string{"d"}, Learner: true}}, 1, ErrURLExists},
		"promote":                  {Change{Type: raftpb.ConfChangeAddNode, ID: 4, Promote: true}, 0, nil},
		"promote unknown":          {Change{Type: raftpb.ConfChangeAddNode, ID: 9, Promote: true}, 1, ErrNotFound},
		"promote a voter":          {Change{Type: raftpb.ConfChangeAddNode, ID: 1, Promote: true}, 1, ErrNotLearner},
		"promote a removed one":    {Change{Type: raftpb.ConfChangeAddNode, ID: 3, Promote: true}, 1, ErrRemoved},
		"remove":                   {Change{Type: raftpb.ConfChangeRemoveNode, ID: 1}, 1, nil},
		"remove unknown":           {Change{Type: raftpb.ConfChangeRemoveNode, ID: 9}, 1, ErrNotFound},
		"remove twice":             {Change{Type: raftpb.ConfChangeRemoveNode, ID: 3}, 1, ErrRemoved},
		"update":                   {Change{Type: raftpb.ConfChangeUpdateNode, ID: 1, Member: Member{ID: 1, PeerURLs: []string{"a2", "y"}}}, 1, nil},
		"update unknown":           {Change{Type: raftpb.ConfChangeUpdateNode, ID: 9, Member: Member{ID: 9}}, 1, ErrNotFound},
		"update removed":           {Change{Type: raftpb.ConfChangeUpdateNode, ID: 3, Member: Member{ID: 3}}, 1, ErrRemoved},
		"update, URL taken":        {Change{Type: raftpb.ConfChangeUpdateNode, ID: 1, Member: Member{ID: 1, PeerURLs: []string{"b"}}}, 1, ErrURLExists},
	} {
		err := s.book.Validate(c.change, c.limit)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestTheLastVoterStays(t *testing.T) {
	s := &scene{t: t, mem: store.NewMem()}
	s.reload()
	for _, c := range []string{"add 1 a", "add 2 b", "add-learner 4 d", "remove 2"} {
		if out := s.answer(strings.Fields(c)); out != "" {
			t.Fatal(out)
		}
	}
	if err := s.book.Validate(Change{Type: raftpb.ConfChangeRemoveNode, ID: 1}, 1); !errors.Is(err, ErrNotEnoughStarted) {
		t.Errorf("the last voter is removed: %v", err)
	}
	if err := s.book.Validate(Change{Type: raftpb.ConfChangeRemoveNode, ID: 4}, 1); err != nil {
		t.Errorf("the learner is not: %v", err)
	}
}

func TestDamagedRowsAreNamed(t *testing.T) {
	for want, r := range map[string]struct {
		bucket     store.Bucket
		key, value string
	}{
		`load members: member ID "zz"`:         {store.Members, "zz", "{}"},
		"load member 5: ":                      {store.Members, "5", "{"},
		"load member 5: the row is about 6":    {store.Members, "5", `{"id":6}`},
		`load removed members: member ID "?"`:  {store.MembersRemoved, "?", "removed"},
		`load cluster version: version "3.x.1`: {store.Cluster, "clusterVersion", "3.x.1"},
		"load downgrade: ":                     {store.Cluster, "downgrade", "[]"},
	} {
		m := store.NewMem()
		var b store.Batch
		b.Put(r.bucket, []byte(r.key), []byte(r.value))
		if err := m.Commit(store.Stamp{}, &b); err != nil {
			t.Fatal(err)
		}
		reader, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(reader); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
