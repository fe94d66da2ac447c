package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// town is a cluster that does as it is told.
type town struct {
	id      member.ClusterID
	all     []member.Member
	corrupt []member.ID
	next    member.ID // that the next member gets
	moody   int       // refusals before it is healthy
	fail    string    // the call that fails, once: its effect is there, and its answer is lost
	done    []string
}

var errLost = errors.New("the connection is lost")

func (t *town) lose(call string) error {
	if t.fail == call {
		t.fail = ""
		return errLost
	}
	return nil
}

func (t *town) members(context.Context) (member.ClusterID, []member.Member, error) {
	return t.id, slices.Clone(t.all), nil
}

func (t *town) remove(_ context.Context, id member.ID) error {
	if t.moody > 0 {
		t.moody--
		return rpctypes.ErrUnhealthy
	}
	at := slices.IndexFunc(t.all, func(m member.Member) bool { return m.ID == id })
	if at < 0 {
		return rpctypes.ErrMemberNotFound
	}
	t.all = slices.Delete(t.all, at, at+1)
	t.done = append(t.done, "remove "+id.String())
	return t.lose("remove")
}

func (t *town) add(_ context.Context, urls []string, learner bool) (member.ID, error) {
	for _, m := range t.all {
		if sameURLs(m.PeerURLs, urls) {
			return 0, rpctypes.ErrPeerURLExist
		}
		if m.Learner && learner {
			return 0, rpctypes.ErrTooManyLearners
		}
	}
	t.all = append(t.all, member.Member{ID: t.next, PeerURLs: urls, Learner: learner})
	kind := "voter"
	if learner {
		kind = "learner"
	}
	t.done = append(t.done, "add "+kind+" "+t.next.String())
	return t.next, t.lose("add")
}

func (t *town) disarm(_ context.Context, id member.ID) ([]member.ID, error) {
	if at := slices.Index(t.corrupt, id); at >= 0 {
		t.corrupt = slices.Delete(t.corrupt, at, at+1)
		t.done = append(t.done, "disarm "+id.String())
	}
	return t.corrupt, nil
}

// scene is a bad member and its cluster.
type scene struct {
	t       *testing.T
	options bootstrap.Options
	id      member.ID
	town    *town
	rejoin  rejoinOptions
	answer  bool // to the question
	said    strings.Builder
}

const badURL = "http://10.0.0.3:2380"

func newScene(t *testing.T) *scene {
	s := &scene{t: t, rejoin: rejoinOptions{yes: true}}
	s.options = bootstrap.Options{
		DataDir: t.TempDir(), Name: "n3", Token: "token", Cluster: []bootstrap.Seed{{Name: "n3", PeerURLs: []string{badURL}}}, Advertised: []string{badURL},
		Store: store.Options{InitialMmapBytes: 1 << 20}, Log: wal.Options{SegmentBytes: 64 << 10},
	}
	m, err := bootstrap.Open(t.Context(), s.options)
	must(t, err)
	s.id = m.ID
	s.town = &town{id: m.Cluster, next: 0xabc, all: []member.Member{
		{ID: 1, Name: "n1", PeerURLs: []string{"http://10.0.0.1:2380"}},
		{ID: 2, Name: "n2", PeerURLs: []string{"http://10.0.0.2:2380"}},
		{ID: m.ID, Name: "n3", PeerURLs: []string{badURL}},
	}}
	must(t, m.Close())
	return s
}

func (s *scene) run() error {
	s.t.Helper()
	remains, err := bootstrap.Inspect(s.options)
	must(s.t, err)
	defer remains.Release()
	who := identity{ID: remains.ID, Cluster: remains.Cluster, Name: "n3", PeerURLs: []string{badURL}}
	r := &rejoining{
		who: who, options: s.rejoin, cluster: s.town, remains: remains, dataDir: s.options.DataDir, out: &s.said,
		ask: func() (bool, error) { return s.answer, nil }, now: time.Now,
	}
	return r.run(s.t.Context())
}

// left are the names in the data directory.
func (s *scene) left() (names []string) {
	entries, err := os.ReadDir(s.options.DataDir)
	must(s.t, err)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "-2")
		names = append(names, name)
	}
	return names
}

var wantNote = bootstrap.Rejoin{Member: 0xabc, Name: "n3", Promote: true, Cluster: []bootstrap.Seed{
	{Name: "n1", PeerURLs: []string{"http://10.0.0.1:2380"}},
	{Name: "n2", PeerURLs: []string{"http://10.0.0.2:2380"}},
	{Name: "n3", PeerURLs: []string{badURL}},
}}

func (s *scene) wantRejoined(done ...string) {
	s.t.Helper()
	if !slices.Equal(s.town.done, done) {
		s.t.Errorf("the cluster was told %q, want %q", s.town.done, done)
	}
	note, err := bootstrap.ReadRejoin(s.options.DataDir)
	must(s.t, err)
	if note == nil || !reflect.DeepEqual(*note, wantNote) {
		s.t.Errorf("left is %+v, want %+v", note, wantNote)
	}
}

func TestABadMemberIsReplaced(t *testing.T) {
	s := newScene(t)
	s.town.corrupt = []member.ID{s.id}
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "disarm "+s.id.String(), "add learner abc")
	if got := s.left(); !slices.Equal(got, []string{"kvd-rejoin.json", "member.bad"}) {
		t.Errorf("left are %v", got)
	}
	contains(t, s.said.String(), "remove member "+s.id.String(), "as a learner", "Start kvd now", "member.bad-")
}

func TestItCanBeRepeatedAfterEveryStep(t *testing.T) {
	for _, fail := range []string{"remove", "add"} {
		s := newScene(t)
		s.town.fail = fail
		if err := s.run(); !errors.Is(err, errLost) || !strings.Contains(err.Error(), "safe to run the command again") {
			t.Errorf("%s: %v", fail, err)
		}
		if _, err := os.Stat(filepath.Join(s.options.DataDir, "member", "wal")); err != nil {
			t.Errorf("%s: the data is touched: %v", fail, err)
		}
		must(t, s.run())
		s.wantRejoined("remove "+s.id.String(), "add learner abc")
	}
	// And after the last one: nothing here says any more who it was.
	s := newScene(t)
	must(t, s.run())
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "add learner abc")
	must(t, bootstrap.ForgetRejoin(s.options.DataDir))
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "add learner abc")
}

func TestNothingIsDoneWithoutAYes(t *testing.T) {
	for _, dry := range []bool{false, true} {
		s := newScene(t)
		s.rejoin.yes, s.rejoin.dryRun = false, dry
		if err := s.run(); (err == nil) != dry {
			t.Errorf("got %v", err)
		}
		if len(s.town.done) != 0 || !slices.Equal(s.left(), []string{"member"}) {
			t.Errorf("done is %v, left are %v", s.town.done, s.left())
		}
		contains(t, s.said.String(), "remove member "+s.id.String(), "set "+filepath.Join(s.options.DataDir, "member")+" aside")
	}
	s := newScene(t)
	s.rejoin.yes, s.answer = false, true
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "add learner abc")
}

func TestTheOldDataIsDeletedOnlyWhenAsked(t *testing.T) {
	s := newScene(t)
	s.rejoin.delete = true
	must(t, s.run())
	if got := s.left(); !slices.Equal(got, []string{"kvd-rejoin.json"}) {
		t.Errorf("left are %v", got)
	}
}

func TestAClusterThatIsNotHealthyForTheMomentIsWaitedFor(t *testing.T) {
	s := newScene(t)
	s.town.moody = 1
	s.rejoin.patience = 10 * time.Second
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "add learner abc")
	s = newScene(t)
	s.town.moody = 1
	s.rejoin.patience = -1
	if err := s.run(); err == nil || !strings.Contains(err.Error(), "see that the other members run") {
		t.Errorf("got %v", err)
	}
}

func TestHowItIsAddedFollowsFromWhatItWas(t *testing.T) {
	for _, c := range []struct {
		name    string
		learner bool
		voter   bool
		want    string
		promote bool
	}{
		{"a voter", false, false, "add learner abc", true},
		{"a voter at once", false, true, "add voter abc", false},
		{"a learner", true, false, "add learner abc", false},
	} {
		s := newScene(t)
		s.town.all[2].Learner, s.rejoin.voter = c.learner, c.voter
		must(t, s.run())
		note, err := bootstrap.ReadRejoin(s.options.DataDir)
		must(t, err)
		if !slices.Contains(s.town.done, c.want) || note.Promote != c.promote {
			t.Errorf("%s: %v, to be promoted: %v", c.name, s.town.done, note.Promote)
		}
	}
}

func TestItRefusesWhatWouldHurt(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *scene)
		want   string
	}{
		{"another cluster", func(s *scene) { s.town.id++ }, "name others with --endpoints"},
		{"the only member", func(s *scene) { s.town.all = s.town.all[2:] }, "restore it from a snapshot"},
		{"another member at this place", func(s *scene) { s.town.all[2].ID = 77 }, "is it the right data directory?"},
		{"another learner", func(s *scene) { s.town.all[0].Learner = true }, "with --voter"},
	} {
		s := newScene(t)
		c.change(s)
		if err := s.run(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := s.left(); !slices.Equal(got, []string{"member"}) {
			t.Errorf("%s: left are %v", c.name, got)
		}
	}
}

func TestAMemberWithoutALogIsFoundByItsPlace(t *testing.T) {
	s := newScene(t)
	must(t, os.RemoveAll(filepath.Join(s.options.DataDir, "member", "wal")))
	must(t, s.run())
	s.wantRejoined("remove "+s.id.String(), "add learner abc")
}

func TestMembersOfOneNameAreToldApart(t *testing.T) {
	s := newScene(t)
	s.town.all[0].Name, s.town.all[1].Name = "n3", ""
	must(t, s.run())
	note, err := bootstrap.ReadRejoin(s.options.DataDir)
	must(t, err)
	var names []string
	for _, m := range note.Cluster {
		names = append(names, m.Name)
	}
	if !slices.Equal(names, []string{"1", "2", "n3"}) {
		t.Errorf("names are %v", names)
	}
}

func TestTheOptionsOfRejoinAreToldFromTheDaemons(t *testing.T) {
	o, rest, err := cutRejoinOptions(strings.Fields("--endpoints http://a:1,http://b:1 --name=n3 --yes --data-dir d --user=root:x --delete"))
	if err != nil || !slices.Equal(o.endpoints, []string{"http://a:1", "http://b:1"}) || !o.yes || !o.delete || o.user != "root:x" ||
		!slices.Equal(rest, []string{"--name=n3", "--data-dir", "d"}) {
		t.Errorf("%+v, %v, %v", o, rest, err)
	}
	for _, bad := range []string{"--yes=true", "--endpoints"} {
		if _, _, err := cutRejoinOptions([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	for _, args := range [][]string{{"member"}, {"member", "rejoice"}, {"member", "rejoin", "--yes=1"}, {"member", "rejoin", "--no-such-flag"}} {
		if status, _ := outcome(t, nil, args...); status != 78 {
			t.Errorf("%v: status %d", args, status)
		}
	}
	if status, said := outcome(t, nil, "member", "rejoin", "--help"); status != 0 || !strings.Contains(said, "--dry-run") {
		t.Errorf("status %d: %s", status, said)
	}
}

func TestARunningMemberIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	p.hear(t, "ready to serve client requests")
	status, said := outcome(t, nil, append([]string{"member", "rejoin", "--yes", "--endpoints=http://127.0.0.1:9"}, flags(dir)...)...)
	if status != 1 || !strings.Contains(said, "stop it first") {
		t.Errorf("status %d: %s", status, said)
	}
}

func TestARejoinNamesTheFileThatOnlyTheServiceHas(t *testing.T) {
	c := &config.Config{}
	c.ClientTLS.TrustedCAFile, c.ClientTLS.CertFile, c.ClientTLS.KeyFile = "/ca", "credential:crt", "credential:key"
	c.ClientTLS.ClientCertAuth = true
	_, err := dialCluster(t.Context(), rejoinOptions{endpoints: []string{"https://127.0.0.1:1"}}, c)
	if err == nil || !strings.Contains(err.Error(), "credential:crt is there for the service alone; name a file with --cert") {
		t.Error(err)
	}
}
