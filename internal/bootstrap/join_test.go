package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/wal"
)

const (
	at1 = "http://127.0.0.1:31191"
	at2 = "http://127.0.0.1:31192"
	at3 = "http://127.0.0.1:31193"
)

// running is a cluster of two that has room for m3.
func running() *neighbours {
	members := []member.Member{
		{ID: 0x11, PeerURLs: []string{at1}, Name: "m1", ClientURLs: []string{"http://127.0.0.1:1"}},
		{ID: 0x22, PeerURLs: []string{at2}, Name: "m2", ClientURLs: []string{"http://127.0.0.1:2"}},
		{ID: 0x33, PeerURLs: []string{at3}},
	}
	return &neighbours{
		cluster:   0xabc,
		members:   map[string][]member.Member{at1: members, at2: members},
		versions:  map[string]string{at1: "3.7.0", at2: "3.7.0"},
		downgrade: map[string]bool{at1: false, at2: false},
	}
}

// joiner are the options of m3, which the cluster has added.
func joiner(dir string, n *neighbours) Options {
	o := founder(dir, "m3")
	o.Existing, o.Token, o.Peers = true, "of no effect", n
	return o
}

func TestAJoinerBeginsWithNothing(t *testing.T) {
	o := joiner(t.TempDir(), running())
	var said []string
	o.Progress = func(text string) { said = append(said, text) }
	m, err := Open(t.Context(), o)
	must(t, err)
	if m.ID != 0x33 || m.Cluster != 0xabc || !m.New {
		t.Errorf("member %s of cluster %s, new %v; IDs are those of the cluster", m.ID, m.Cluster, m.New)
	}
	if len(m.Remotes) != 3 {
		t.Errorf("remotes %v, want all that the cluster told of", m.Remotes)
	}
	hard, _, err := m.Log.InitialState()
	must(t, err)
	if all := entries(t, m); len(all) > 0 || hard.GetTerm() > 0 || hard.GetCommit() > 0 {
		t.Errorf("entries %v, hard state %v", all, hard)
	}
	if c := m.Machine.Members().ConfState(); len(c.GetVoters())+len(c.GetLearners()) > 0 {
		t.Errorf("configuration %v", c)
	}
	if !slices.Contains(said, "asking "+at1+" for the members") {
		t.Errorf("it said %q", said)
	}
	must(t, m.Close())
}

// TestAJoinerThatWasNeverContactedStartsAgain is about one whose log is there
// but still empty.
func TestAJoinerThatWasNeverContactedStartsAgain(t *testing.T) {
	again := func(t *testing.T, o Options) *Member {
		t.Helper()
		m, err := Open(t.Context(), o)
		must(t, err)
		if m.ID != 0x33 || m.Cluster != 0xabc || m.New || len(entries(t, m)) > 0 {
			t.Errorf("member %s of cluster %s, new %v, entries %v", m.ID, m.Cluster, m.New, entries(t, m))
		}
		must(t, m.Close())
		return m
	}
	made := func(t *testing.T) Options {
		o := joiner(t.TempDir(), running())
		m, err := Open(t.Context(), o)
		must(t, err)
		must(t, m.Close())
		return o
	}
	t.Run("the others answer", func(t *testing.T) {
		if m := again(t, made(t)); len(m.Remotes) != 3 {
			t.Errorf("remotes %v", m.Remotes)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		o := made(t)
		o.Peers = nil
		if m := again(t, o); len(m.Remotes) > 0 {
			t.Errorf("remotes %v", m.Remotes)
		}
	})
	t.Run("another cluster answers", func(t *testing.T) {
		o := made(t)
		n := running()
		n.cluster++
		o.Peers = n
		if m := again(t, o); len(m.Remotes) > 0 {
			t.Errorf("remotes %v", m.Remotes)
		}
	})
	t.Run("it knows a term", func(t *testing.T) {
		o := made(t)
		m, err := Open(t.Context(), o)
		must(t, err)
		must(t, m.Log.Append(&raftpb.HardState{Term: new(uint64(7)), Vote: new(uint64), Commit: new(uint64)}, nil, true))
		must(t, m.Close())
		o.Existing = false // of no effect any more: no founder has a term and no entry
		again(t, o)
	})
	t.Run("the options say that it begins a cluster", func(t *testing.T) {
		o := made(t)
		o.Existing = false
		refused(t, o, ErrInconsistent, "member 33 of cluster abc", "initial-cluster-state=existing")
	})
}

// TestAFirstStartOfAJoinerThatDiedIsAFirstStartAgain: before it has a log.
func TestAFirstStartOfAJoinerThatDiedIsAFirstStartAgain(t *testing.T) {
	o := joiner(t.TempDir(), running())
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(text string) {
		if strings.HasPrefix(text, "opening the database") {
			cancel()
		}
	}
	if m, err := Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", m, err)
	}
	if wal.Exists(o.walDir()) {
		t.Fatal("there is a log")
	}
	o.Progress = nil
	m, err := Open(t.Context(), o)
	must(t, err)
	if m.ID != 0x33 || !m.New || len(m.Remotes) != 3 {
		t.Errorf("member %s, new %v, remotes %v", m.ID, m.New, m.Remotes)
	}
	must(t, m.Close())
}

func TestWhoMayJoin(t *testing.T) {
	everywhere := func(n *neighbours, version string) { n.versions = map[string]string{at1: version, at2: version} }
	for _, c := range []struct {
		name   string
		change func(o *Options, n *neighbours)
		want   string // of the error; "" for none
	}{
		{"as it is", func(*Options, *neighbours) {}, ""},
		{"one is down", func(_ *Options, n *neighbours) {
			delete(n.members, at1)
			delete(n.versions, at1)
			delete(n.downgrade, at1)
		}, ""},
		{"one is silent", func(_ *Options, n *neighbours) { n.silent = map[string]bool{at1: true} }, ""},
		{"one has not decided on a version", func(_ *Options, n *neighbours) { n.versions[at1] = "not_decided" }, ""},
		{"an older cluster", func(_ *Options, n *neighbours) { everywhere(n, "3.0.0") }, ""},
		{"by other URLs of the same addresses", func(o *Options, n *neighbours) {
			o.Cluster = seed("m1=http://one.example:31191,m2=" + at2 + ",m3=http://three.example:31193")
		}, ""},
		{"a downgrade to this version", func(_ *Options, n *neighbours) {
			everywhere(n, "3.8.0")
			n.downgrade[at1] = true
		}, ""},

		{"not in the initial cluster", func(o *Options, _ *neighbours) { o.Name = "m4" }, `couldn't find local name "m4" in the initial cluster configuration`},
		{"one URL twice", func(o *Options, _ *neighbours) { o.Cluster[0].PeerURLs = o.Cluster[1].PeerURLs }, "has duplicate url"},
		{
			"discovery", func(o *Options, _ *neighbours) { o.Discovery.Endpoints = []string{"127.0.0.1:1"} },
			"discovery URL should not be set when joining existing initial cluster",
		},
		{
			"nobody is there", func(_ *Options, n *neighbours) { n.members = nil },
			"cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
		},
		{
			"a cluster of nobody", func(_ *Options, n *neighbours) { n.members[at1] = nil },
			"cannot fetch cluster info from peer urls: failed to get raft cluster member(s) from the given URLs",
		},
		{
			"it was not added", func(_ *Options, n *neighbours) { n.members[at1] = n.members[at1][:2] },
			"error validating peerURLs [11=http://127.0.0.1:31191 22=http://127.0.0.1:31192]: member count is unequal",
		},
		{
			"it was added elsewhere", func(o *Options, _ *neighbours) { o.Cluster[2].PeerURLs = []string{"http://127.0.0.1:9"} },
			`PeerURLs: no match found for existing member (33, [http://127.0.0.1:31193]), last resolver error (resolved urls: "http://127.0.0.1:31193" != "http://127.0.0.1:9")`,
		},
		{
			"it was added by fewer URLs", func(o *Options, _ *neighbours) {
				o.Cluster[2].PeerURLs = append(slices.Clone(o.Cluster[2].PeerURLs), "http://127.0.0.1:9")
			},
			"last resolver error (len(",
		},
		{"a name that is not known", func(o *Options, _ *neighbours) { o.Cluster[2].PeerURLs = []string{"http://gone.example:31193"} }, "no such host"},
		{
			"a newer cluster", func(_ *Options, n *neighbours) { n.versions[at2] = "3.8.0" },
			"incompatible with current running cluster: m2 is part of one of version 3.8.0, and this member fits into 3.0.0 to 3.7.0",
		},
		{"an ancient cluster", func(_ *Options, n *neighbours) { n.versions[at2] = "2.3.0" }, "incompatible with current running cluster"},
		{
			"a downgrade to another version", func(_ *Options, n *neighbours) { n.downgrade[at1] = true },
			"this member fits into 3.8.0 to 3.8.0",
		},
		{
			"nobody knows the version", func(_ *Options, n *neighbours) { n.versions = map[string]string{at1: "not_decided"} },
			"incompatible with current running cluster: no member tells the version of the cluster",
		},
		{"a learner", func(_ *Options, n *neighbours) { n.members[at1][2].Learner = true }, ""},
		{"too many learners", func(_ *Options, n *neighbours) {
			n.members[at1][1].Learner, n.members[at1][2].Learner = true, true
		}, "membership: too many learner members in cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := running()
			o := joiner(filepath.Join(t.TempDir(), "data"), n)
			o.Resolver = hosts{"one.example": "127.0.0.1", "three.example": "127.0.0.1"}
			c.change(&o, n)
			synctest.Test(t, func(t *testing.T) {
				o.complete()
				began := time.Now()
				born, err := o.birth(t.Context())
				switch {
				case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
					t.Errorf("%v\nwant %s", err, c.want)
				case c.want == "" && err != nil:
					t.Error(err)
				case c.want == "" && (born.self != 0x33 || born.cluster != 0xabc || len(born.changes) > 0):
					t.Errorf("%+v", born)
				}
				if took, limit := time.Since(began), membersTimeout+2*requestTimeout+resolveLimit; took > limit {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestTheFirstAnswerCounts(t *testing.T) {
	n := running()
	o := joiner(t.TempDir(), n)
	o.complete()
	_, err := o.birth(t.Context())
	must(t, err)
	asked := fmt.Sprint(n.asked)
	if strings.Contains(asked, "members "+at2) || strings.Contains(asked, "downgrade "+at2) || !strings.Contains(asked, "version "+at2) {
		t.Error(asked)
	}
	if strings.Contains(asked, at3) {
		t.Errorf("it asked itself: %s", asked)
	}
}
