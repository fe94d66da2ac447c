package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/peer"
)

// neighbours are members that answer by their peer URLs. Whoever is not among
// them refuses the connection.
type neighbours struct {
	mu    sync.Mutex
	asked []string // what was asked of whom, in order

	cluster   member.ClusterID
	members   map[string][]member.Member
	versions  map[string]string // of the cluster
	downgrade map[string]bool
	silent    map[string]bool // these take the call and never answer
}

var errRefused = errors.New("connection refused")

func (n *neighbours) ask(ctx context.Context, what, url string) error {
	n.mu.Lock()
	n.asked = append(n.asked, what+" "+url)
	silent := n.silent[url]
	n.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (n *neighbours) Members(ctx context.Context, url string) (member.ClusterID, []member.Member, error) {
	if err := n.ask(ctx, "members", url); err != nil {
		return 0, nil, err
	}
	all, ok := n.members[url]
	if !ok {
		return 0, nil, errRefused
	}
	return n.cluster, all, nil
}

func (n *neighbours) Versions(ctx context.Context, url string) (peer.Versions, error) {
	if err := n.ask(ctx, "version", url); err != nil {
		return peer.Versions{}, err
	}
	text, ok := n.versions[url]
	if !ok {
		return peer.Versions{}, errRefused
	}
	return peer.Versions{Server: "3.7.3", Cluster: text}, nil
}

func (n *neighbours) DowngradeEnabled(ctx context.Context, url string) (bool, error) {
	if err := n.ask(ctx, "downgrade", url); err != nil {
		return false, err
	}
	on, ok := n.downgrade[url]
	if !ok {
		return false, errRefused
	}
	return on, nil
}

const trio = "m1=http://127.0.0.1:31191,m2=http://127.0.0.1:31192,m3=http://127.0.0.1:31193"

// founder are the options of one of three members that begin a cluster.
func founder(dir, name string) Options {
	o := alone(dir)
	o.Name, o.Token, o.Cluster = name, "tok1", seed(trio)
	for _, s := range o.Cluster {
		if s.Name == name {
			o.Advertised = s.PeerURLs
		}
	}
	return o
}

// changes are the changes of membership in a member's log.
func changes(t *testing.T, m *Member) (all []member.Change) {
	t.Helper()
	for _, e := range entries(t, m) {
		if e.GetType() != raftpb.EntryConfChange {
			continue
		}
		var cc raftpb.ConfChange
		must(t, proto.Unmarshal(e.GetData(), &cc))
		c, err := member.ParseChange(&cc)
		must(t, err)
		all = append(all, c)
	}
	return all
}

func entries(t *testing.T, m *Member) []*raftpb.Entry {
	t.Helper()
	first, err := m.Log.FirstIndex()
	must(t, err)
	last, err := m.Log.LastIndex()
	must(t, err)
	if first > last {
		return nil
	}
	all, err := m.Log.Entries(first, last+1, 1<<20)
	must(t, err)
	return all
}

// TestFoundersBeginWithTheSameLog has the IDs that etcd 3.7.3 gave to these
// members.
func TestFoundersBeginWithTheSameLog(t *testing.T) {
	ids := map[string]string{"m1": "6f6027b3564e89d8", "m2": "c3729c1717902760", "m3": "7689fd9fc688eed3"}
	var first string
	for name, id := range ids {
		o := founder(t.TempDir(), name)
		o.Peers = &neighbours{}
		m, err := Open(t.Context(), o)
		must(t, err)
		if m.ID.String() != id || m.Cluster.String() != "aa3e9fbe54ec35b6" || !m.New || len(m.Remotes) > 0 {
			t.Errorf("%s: member %s of cluster %s, new %v, remotes %v", name, m.ID, m.Cluster, m.New, m.Remotes)
		}
		hard, _, err := m.Log.InitialState()
		must(t, err)
		if hard.GetTerm() != 1 || hard.GetCommit() != 3 || hard.GetVote() != 0 {
			t.Errorf("%s: hard state %v", name, hard)
		}
		text, err := json.Marshal(changes(t, m))
		must(t, err)
		if first == "" {
			first = string(text)
		}
		if string(text) != first {
			t.Errorf("%s begins with\n%s, another with\n%s", name, text, first)
		}
		var order []string
		for _, c := range changes(t, m) {
			order = append(order, c.ID.String()+" "+c.Member.Name)
		}
		if got := strings.Join(order, ", "); got != "6f6027b3564e89d8 m1, 7689fd9fc688eed3 m3, c3729c1717902760 m2" {
			t.Errorf("%s adds %s", name, got)
		}
		must(t, m.Close())
	}
}

func TestAMemberIsNotBegunTwice(t *testing.T) {
	self := member.NewID([]string{"http://127.0.0.1:31191"}, "tok1")
	for _, c := range []struct {
		name    string
		member  member.Member
		refused bool
	}{
		{"it has run", member.Member{ID: self, Name: "m1", ClientURLs: []string{"http://127.0.0.1:1"}}, true},
		{"it has not run yet", member.Member{ID: self, Name: "m1"}, false},
		{"another has run", member.Member{ID: self + 1, Name: "m2", ClientURLs: []string{"http://127.0.0.1:1"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := founder(filepath.Join(t.TempDir(), "data"), "m1")
			n := &neighbours{
				members: map[string][]member.Member{"http://127.0.0.1:31193": {c.member}},
				silent:  map[string]bool{"http://127.0.0.1:31192": true},
			}
			o.Peers = n
			synctest.Test(t, func(t *testing.T) {
				o.complete()
				began := time.Now()
				_, err := o.birth(t.Context())
				if c.refused != errors.Is(err, ErrCluster) || c.refused && !strings.Contains(err.Error(), "member 6f6027b3564e89d8 has already been bootstrapped") {
					t.Error(err)
				}
				if took := time.Since(began); took > probeTimeout {
					t.Errorf("it took %v", took)
				}
			})
			for _, question := range n.asked {
				if strings.HasSuffix(question, ":31191") {
					t.Errorf("it asked itself: %s", question)
				}
			}
			if !c.refused {
				return
			}
			if _, err := Open(t.Context(), o); !errors.Is(err, ErrCluster) {
				t.Error(err)
			}
			if _, err := os.Stat(o.DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

func TestSeedsWithoutAnIDOfTheirOwnAreRefused(t *testing.T) {
	o := alone(t.TempDir())
	// etcd hashes the URLs without a mark between them.
	o.Cluster = []Seed{{"n1", []string{peerURL}}, {"n2", []string{"http://a:1", "http://b:1"}}, {"n3", []string{"http://a:1http://b:1"}}}
	o.complete()
	if _, err := o.birth(t.Context()); !errors.Is(err, ErrCluster) || !strings.Contains(err.Error(), "member exists with identical ID") {
		t.Error(err)
	}
}

func TestAMemberOfAnotherVersionsClusterIsRefused(t *testing.T) {
	for version, ok := range map[string]bool{"3.6.0": true, "3.7.0": true, "3.8.0": false, "4.0.0": false} {
		t.Run(version, func(t *testing.T) {
			o := alone(t.TempDir())
			live(t, o, 2, 2)
			put(t, o, "cluster", "clusterVersion", version)
			if !ok {
				refused(t, o, ErrVersion, "the cluster has agreed on version "+version, "start the version that ran here before")
				return
			}
			m, err := Open(t.Context(), o)
			must(t, err)
			must(t, m.Close())
		})
	}
}

func TestMoreLearnersThanAllowedAreRefused(t *testing.T) {
	o := alone(t.TempDir())
	o.Machine.MaxLearners = -1 // none
	live(t, o, 2, 2)
	put(t, o, "members", "1234", `{"id":4660,"peerURLs":["http://127.0.0.1:9"],"isLearner":true}`)
	refused(t, o, member.ErrTooManyLearners, "there are 1", "max-learners is 0")
	o.Machine.MaxLearners = 0 // the default, 1
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Close())
	put(t, o, "members", "1235", `{"id":4661,"peerURLs":["http://127.0.0.1:8"],"isLearner":true}`)
	refused(t, o, member.ErrTooManyLearners, "there are 2", "max-learners is 1")
}
