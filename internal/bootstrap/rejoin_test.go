package bootstrap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/store"
)

func TestWhatIsLeftForTheNextStartIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	if r, err := ReadRejoin(dir); r != nil || err != nil {
		t.Errorf("nothing was left, and %+v is read: %v", r, err)
	}
	must(t, ForgetRejoin(dir))
	want := Rejoin{
		Member: 0xfedcba9876543210, Name: "n3", Promote: true,
		Cluster: []Seed{{"n1", []string{"http://a:2380", "http://b:2380"}}, {"n3", []string{peerURL}}},
	}
	must(t, (&Rejoin{Name: "an earlier one"}).Write(dir))
	must(t, want.Write(dir))
	if r, err := ReadRejoin(dir); err != nil || !reflect.DeepEqual(*r, want) {
		t.Errorf("got %+v, %v", r, err)
	}
	must(t, ForgetRejoin(dir))
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("%v are left", names)
	}
	must(t, os.WriteFile(filepath.Join(dir, rejoinFile), []byte("{"), 0o600))
	if _, err := ReadRejoin(dir); err == nil || !strings.Contains(err.Error(), "run 'kvd member rejoin' again") {
		t.Errorf("half a file: %v", err)
	}
}

func TestInspectReadsWhatIsThereAndChangesNothing(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 0)
	row := `{"id":7,"peerURLs":["http://a:2380"],"name":"n7","clientURLs":["http://a:2379"]}`
	m, err := Open(t.Context(), o)
	must(t, err)
	id, cluster := m.ID, m.Cluster
	if _, err := Inspect(o); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("while it runs: %v", err)
	}
	must(t, m.Close())
	putMember(t, o, row)
	before := contents(t, o.DataDir)
	r, err := Inspect(o)
	must(t, err)
	if r.ID != id || r.Cluster != cluster || len(r.Members) != 1 || r.Members[0].Name != "n7" || len(r.Faults) != 0 {
		t.Errorf("got %+v", r)
	}
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrHeld) {
		t.Errorf("a member starts meanwhile: %v", err)
	}
	r.Release()
	if d := differences(before, contents(t, o.DataDir)); len(d) > 0 {
		t.Errorf("%v are changed", d)
	}
	live(t, o, 0, 0)
}

func TestInspectEndsAtNoDamage(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 0)
	must(t, os.WriteFile(o.storePath(), []byte("garbage"), 0o600))
	segments, err := filepath.Glob(filepath.Join(o.walDir(), "*.wal"))
	must(t, err)
	for _, s := range segments {
		must(t, os.WriteFile(s, []byte("more of it"), 0o600))
	}
	r, err := Inspect(o)
	must(t, err)
	defer r.Release()
	if r.ID != 0 || len(r.Members) != 0 || len(r.Faults) != 2 || len(r.Paths) != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestSettingAsideMovesAllAndCanBeRepeated(t *testing.T) {
	for _, apart := range []bool{false, true} {
		o := alone(t.TempDir())
		want := []string{filepath.Join(o.DataDir, "member.bad")}
		if apart {
			o.WALDir = filepath.Join(t.TempDir(), "log")
			want = append([]string{o.WALDir + ".bad"}, want...)
		}
		live(t, o, 3, 0)
		before := contents(t, filepath.Join(o.DataDir, "member"))
		if apart { // a first try that came half way
			must(t, os.Rename(o.WALDir, o.WALDir+".bad"))
			want = want[1:]
		}
		r, err := Inspect(o)
		must(t, err)
		aside, err := r.SetAside(".bad")
		must(t, err)
		r.Release()
		if !reflect.DeepEqual(aside, want) {
			t.Errorf("aside are %v, want %v", aside, want)
		}
		after := contents(t, filepath.Join(o.DataDir, "member.bad"))
		for name, is := range before {
			if after[name] != is && !strings.HasPrefix(name, "kvd") {
				t.Errorf("%s is changed", name)
			}
		}
		if r, err = Inspect(o); err != nil || r.ID != 0 || len(r.Paths) != 0 || len(r.Faults) != 0 {
			t.Errorf("afterwards there is %+v, %v", r, err)
		}
		if aside, err := r.SetAside(".again"); err != nil || len(aside) != 0 {
			t.Errorf("again: %v, %v", aside, err)
		}
	}
}

func TestSettingAsideOverwritesNothing(t *testing.T) {
	o := alone(t.TempDir())
	live(t, o, 3, 0)
	must(t, os.Mkdir(filepath.Join(o.DataDir, "member.bad"), 0o700))
	r, err := Inspect(o)
	must(t, err)
	defer r.Release()
	if _, err := r.SetAside(".bad"); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(o.storePath()); err != nil {
		t.Error(err)
	}
}

func TestAProxyIsNoMember(t *testing.T) {
	o := alone(t.TempDir())
	must(t, os.Mkdir(filepath.Join(o.DataDir, "proxy"), 0o700))
	if _, err := Inspect(o); !errors.Is(err, ErrNotAMember) {
		t.Errorf("got %v", err)
	}
}

func putMember(t *testing.T, o Options, row string) {
	t.Helper()
	put(t, o, store.Members, member.ID(7).String(), row)
}

// quarter is a cluster that knows its members.
type quarter struct{ members []member.Member }

func (q *quarter) Members(context.Context, string) (member.ClusterID, []member.Member, error) {
	return 77, q.members, nil
}

func (q *quarter) ClusterVersion(context.Context, string) (string, error) { return "3.7.0", nil }

func (q *quarter) Versions(context.Context, string) (peer.Versions, error) {
	return peer.Versions{Server: "3.7.3", Cluster: "3.7.0"}, nil
}

func (q *quarter) DowngradeEnabled(context.Context, string) (bool, error) { return false, nil }

func TestTheNextStartJoinsAsItWasPrepared(t *testing.T) {
	o := alone(t.TempDir()) // whose options would begin a cluster
	o.Machine.MaxLearners = 1
	live(t, o, 3, 0)
	r, err := Inspect(o)
	must(t, err)
	note := Rejoin{Member: 5, Name: "n1", Promote: true, Cluster: []Seed{{"n1", []string{peerURL}}, {"n2", []string{"http://127.0.0.1:2390"}}}}
	must(t, note.Write(o.DataDir))
	_, err = r.SetAside(".bad-1")
	must(t, err)
	r.Release()
	there := []member.Member{{ID: 5, PeerURLs: []string{peerURL}, Learner: true}, {ID: 6, Name: "n2", PeerURLs: []string{"http://127.0.0.1:2390"}}}
	for _, c := range []struct {
		members []member.Member
		want    string
	}{
		{there[1:], "run 'kvd member rejoin' again"},
		{[]member.Member{{ID: 8, PeerURLs: []string{peerURL}}, there[1]}, "the cluster knows the member at this place as 8, and it was prepared as 5"},
	} {
		o.Peers = &quarter{c.members}
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	o.Peers = &quarter{there}
	for range 2 { // the log is empty until the leader is heard of: the note still counts
		m, err := Open(t.Context(), o)
		must(t, err)
		if m.ID != 5 || m.Cluster != 77 {
			t.Errorf("it is member %s of %s", m.ID, m.Cluster)
		}
		must(t, m.Close())
	}
	if r, err := ReadRejoin(o.DataDir); r == nil || err != nil {
		t.Errorf("the note went before the member had its vote: %v", err)
	}
}
