package member

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
)

// TestStrictChecks has a cluster as one word: a letter a member, in order of
// their IDs from 1. The first is the one that is asked.
//
//	s  started, and connected for long
//	n  the same, connected just now
//	d  started and down
//	u  never started
//	l  a learner, connected
func TestStrictChecks(t *testing.T) {
	add, learner := func(v View, s Sight) error { return v.MayAdd(false, s) }, func(v View, s Sight) error { return v.MayAdd(true, s) }
	remove := func(id ID) func(View, Sight) error {
		return func(v View, s Sight) error { return v.MayRemove(id, s) }
	}
	promote := func(v View, _ Sight) error { return v.MayPromote() }
	for _, c := range []struct {
		name    string
		cluster string
		ask     func(View, Sight) error
		want    error
	}{
		{"add to one", "s", add, nil},
		{"add to one that is restored", "u", add, ErrNotEnoughStarted},
		{"add to two", "ss", add, nil},
		{"add to two, one never started", "su", add, ErrNotEnoughStarted},
		{"add to two, one down", "sd", add, ErrUnhealthy},
		{"add to two, one just up", "sn", add, ErrUnhealthy},
		{"add to three", "sss", add, nil},
		{"add to three, one down", "ssd", add, ErrUnhealthy},
		{"add to three, one just up", "ssn", add, ErrUnhealthy},
		{"add to three, one never started", "ssu", add, ErrNotEnoughStarted},
		{"add to four, one down", "sssd", add, nil},
		{"add to four, two down", "ssdd", add, ErrUnhealthy},
		{"add to five, one down", "ssssd", add, nil},
		{"learners count for nothing", "sdll", add, ErrUnhealthy},
		{"learners do not stand in the way", "sl", add, nil},

		{"add a learner to one", "s", learner, nil},
		{"add a learner to one that is restored", "u", learner, nil},
		{"add a learner to three", "sss", learner, nil},
		{"add a learner to three, one down", "ssd", learner, nil},
		{"add a learner to three, one never started", "ssu", learner, nil},
		{"add a learner to three, two down", "sdd", learner, ErrUnhealthy},
		{"add a learner to two, one down", "sd", learner, ErrUnhealthy},
		{"add a learner to four, one down", "sssd", learner, nil},

		{"remove the last", "s", remove(1), ErrNotEnoughStarted},
		{"remove one of two", "ss", remove(2), nil},
		{"remove oneself of two", "ss", remove(1), nil},
		{"remove the one of two that never started", "su", remove(2), nil},
		{"remove the one of two that is down", "sd", remove(2), nil},
		{"remove oneself and leave one that is down", "sd", remove(1), ErrUnhealthy},
		{"remove and leave one that never started", "su", remove(1), ErrNotEnoughStarted},
		{"remove one of three", "sss", remove(3), nil},
		{"remove one of three while another is down", "ssd", remove(2), ErrUnhealthy},
		{"remove the one of three that is down", "ssd", remove(3), nil},
		{"remove one of three while another is just up", "ssn", remove(2), ErrUnhealthy},
		{"remove the one of three that is just up", "ssn", remove(3), ErrUnhealthy},
		{"remove one of three while another never started", "ssu", remove(2), ErrNotEnoughStarted},
		{"remove one of five while one is down", "ssssd", remove(2), nil},
		{"remove one of five while two are down", "sssdd", remove(2), ErrUnhealthy},
		{"remove a learner", "sl", remove(2), nil},
		{"remove a learner while a voter is down", "sdl", remove(3), nil},
		{"remove one that is not there", "ss", remove(9), nil},

		{"promote beside one", "sl", promote, nil},
		{"promote beside one that is restored", "ul", promote, ErrNotEnoughStarted},
		{"promote beside two, one never started", "sul", promote, nil},
		{"promote beside three, two never started", "suul", promote, ErrNotEnoughStarted},
		{"promote while one is down", "ssdl", promote, nil},
	} {
		v, s := sightOf(t, c.cluster)
		if err := c.ask(v, s); !errors.Is(err, c.want) {
			t.Errorf("%s (%s): %v, want %v", c.name, c.cluster, err, c.want)
		}
	}
}

func sightOf(t *testing.T, cluster string) (View, Sight) {
	t.Helper()
	b, err := Load(mustRead(t, store.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	since := map[ID]time.Time{}
	for i, letter := range cluster {
		m := Member{ID: ID(i + 1), Name: strings.Trim(string(letter), "u"), Learner: letter == 'l'}
		b.Apply(Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}, &store.Batch{})
		switch letter {
		case 's', 'l':
			since[m.ID] = now.Add(-steady - time.Millisecond)
		case 'n':
			since[m.ID] = now.Add(-steady)
		}
	}
	return b.View(), Sight{Self: 1, Now: now, ActiveSince: func(id ID) time.Time {
		if id == 1 {
			t.Error("the transport is asked about the member itself")
		}
		return since[id]
	}}
}

func mustRead(t *testing.T, m *store.Mem) store.Reader {
	t.Helper()
	r, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestALearnerIsReadyWhenItHasAlmostEverything(t *testing.T) {
	for _, c := range []struct {
		match, last uint64
		want        bool
	}{
		{0, 0, true},
		{0, 5, false},
		{8, 10, false},
		{9, 10, true},
		{10, 10, true},
		{11, 10, true},
		{995_000, 1_000_000, true},
		{994_999, 1_000_000, false},
		{44_999, 50_000, false},
		{45_000, 50_000, true},
	} {
		if got := Ready(c.match, c.last); got != c.want {
			t.Errorf("%d of %d: %v", c.match, c.last, got)
		}
	}
}

// Etcd lets anything be written as a peer URL, and dies of it.
func TestABadURLIsSurvived(t *testing.T) {
	mem, rows := store.NewMem(), &store.Batch{}
	b, err := Load(mustRead(t, mem))
	if err != nil {
		t.Fatal(err)
	}
	b.Apply(Change{Type: raftpb.ConfChangeAddNode, ID: 1, Member: Member{ID: 1, PeerURLs: []string{"http://a:1"}}}, rows)
	for _, urls := range [][]string{{"notaurl", "://", "http://[::1"}, {}, nil} {
		c := Change{Type: raftpb.ConfChangeUpdateNode, ID: 1, Member: Member{ID: 1, PeerURLs: urls}}
		if c, err = ParseChange(c.Entry(1)); err != nil {
			t.Fatal(err)
		}
		if err := b.Validate(c, 1); err != nil {
			t.Fatal(err)
		}
		b.Apply(c, rows)
		if err := mem.Commit(store.Stamp{}, rows); err != nil {
			t.Fatal(err)
		}
		again, err := Load(mustRead(t, mem))
		if err != nil {
			t.Fatalf("with %q: %v", urls, err)
		}
		if m, ok := again.Member(1); !ok || len(m.PeerURLs) != len(urls) {
			t.Errorf("%q became %q", urls, m.PeerURLs)
		}
		if len(again.Tree()) == 0 {
			t.Errorf("with %q there is no tree", urls)
		}
	}
}
