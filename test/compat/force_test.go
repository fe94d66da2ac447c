package compat

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// trio starts a cluster of three members of etcd.
func trio(t *testing.T) []*oracle.Member {
	t.Helper()
	var options []oracle.Options
	var cluster []string
	for _, name := range []string{"m1", "m2", "m3"} {
		o := oracle.Options{Name: name, PeerURL: "http://" + oracle.FreeAddress(t), ClientURL: "http://" + oracle.FreeAddress(t)}
		options, cluster = append(options, o), append(cluster, name+"="+o.PeerURL)
	}
	var all []*oracle.Member
	for _, o := range options {
		o.Args = []string{"--initial-cluster=" + strings.Join(cluster, ",")}
		all = append(all, oracle.Launch(t, oracle.Etcd(t), o))
	}
	for _, m := range all {
		if err := m.Ready(oracle.ReadyWithin); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func membersOf(t *testing.T, m *oracle.Member) (answer *pb.MemberListResponse) {
	t.Helper()
	answer, err := pb.NewClusterClient(m.Dial()).MemberList(context.Background(), &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestForceNewClusterFreesAMemberOfEtcds lets kvd and etcd each make a cluster
// of the same member of three, and etcd go on with what kvd has made.
func TestForceNewClusterFreesAMemberOfEtcds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*oracle.Member){
		"in order": (*oracle.Member).Stop,
		"killed":   (*oracle.Member).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := trio(t)
			write(t, all[0])
			survivor := all[1]
			if name == "in order" { // a killed one may not know of the last entries
				eventually(t, func() bool { return keysOf(t, survivor) == keysOf(t, all[0]) }, func() string { return "all have all" })
			}
			for _, m := range all {
				end(m)
			}
			copied := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(copied, os.DirFS(survivor.DataDir)); err != nil {
				t.Fatal(err)
			}
			forced := survivor.Options
			forced.Args = append(forced.Args, "--force-new-cluster")
			theirs := forced
			theirs.DataDir = copied

			etcd := oracle.Start(t, oracle.Etcd(t), theirs)
			want, members := stateOf(t, etcd), membersOf(t, etcd)
			etcd.Stop()
			kvd := oracle.Start(t, target(t), forced)
			got, ours := stateOf(t, kvd), membersOf(t, kvd)
			compareStates(t, want, got)
			if len(ours.Members) != 1 || len(members.Members) != 1 || ours.Members[0].String() != members.Members[0].String() || ours.Header.ClusterId != members.Header.ClusterId {
				t.Errorf("etcd has\n%v\nkvd has\n%v", members, ours)
			}
			if line := lineOf(kvd, "forcing restart member"); line == "" {
				t.Error("kvd does not say that it forces the member")
			}
			write(t, kvd)
			before := stateOf(t, kvd)
			kvd.Stop()

			etcd = oracle.Start(t, oracle.Etcd(t), kvd.Options) // the option may stay
			compareStates(t, before, stateOf(t, etcd))
			if err := etcd.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-etcd.Ended()
			again := kvd.Options
			again.Args = survivor.Args
			compareStates(t, before, stateOf(t, oracle.Start(t, target(t), again)))
		})
	}
}

// keysOf is how many revisions a member has, without asking the others.
func keysOf(t *testing.T, m *oracle.Member) int64 {
	t.Helper()
	answer, err := pb.NewKVClient(m.Dial()).Range(t.Context(), &pb.RangeRequest{Key: []byte("x"), Serializable: true})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header.Revision
}
