package compat

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// TestJoining adds a second member to one that runs, in each mixture that has a
// member of kvd.
func TestJoining(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ first, second oracle.Binary }{
		{oracle.Etcd(t), target(t)}, {target(t), oracle.Etcd(t)}, {target(t), target(t)},
	} {
		t.Run(c.second.Name+" joins "+c.first.Name, func(t *testing.T) {
			t.Parallel()
			first := oracle.Start(t, c.first, oracle.Options{})
			write(t, first)
			o := oracle.Options{Name: "m2", PeerURL: "http://" + oracle.FreeAddress(t), ClientURL: "http://" + oracle.FreeAddress(t)}
			o.Args = []string{
				"--initial-cluster=m1=" + first.PeerURL + ",m2=" + o.PeerURL, "--initial-cluster-state=existing",
				"--initial-cluster-token=of-no-effect",
			}

			early := oracle.Launch(t, c.second, o)
			exit, err := early.Wait(oracle.ReadyWithin)
			if err != nil || exit.InOrder() || !strings.Contains(early.Log(), "member count is unequal") {
				t.Errorf("before it was added: %v, %v\n%s", exit, err, early.Log())
			}
			o.DataDir = early.DataDir // what the attempt has left is a first start again

			added, err := pb.NewClusterClient(first.Dial()).MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{o.PeerURL}})
			if err != nil {
				t.Fatal(err)
			}
			second := oracle.Start(t, c.second, o)
			eventually(t, func() bool { return keysOf(t, first) == keysOf(t, second) }, func() string { return "both have the same keys" })
			a, b := stateOf(t, first), stateOf(t, second)
			if a.hash.Hash != b.hash.Hash {
				t.Errorf("hash %d and %d", a.hash.Hash, b.hash.Hash)
			}
			for _, m := range []*oracle.Member{first, second} { // kvd serves before it has told its name
				eventually(t, func() bool { return slices.Equal(namesOf(t, m), []string{"m1", "m2"}) }, func() string {
					return fmt.Sprintf("%s knows both: %q", m.Name, namesOf(t, m))
				})
			}
			if b.identity.member != added.Member.ID {
				t.Errorf("it is member %x, and was added as %x", b.identity.member, added.Member.ID)
			}
			second.Stop()
			second = oracle.Start(t, c.second, second.Options)
			write(t, second)
		})
	}
}

// TestAMemberThatLostItsDataIsNotBegunAgain: the others know that it has run.
func TestAMemberThatLostItsDataIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		t.Run(bin.Name, func(t *testing.T) {
			t.Parallel()
			all := trio(t)
			lost := all[0]
			lost.Kill()
			o := lost.Options
			o.DataDir = t.TempDir()
			m := oracle.Launch(t, bin, o)
			exit, err := m.Wait(oracle.ReadyWithin)
			if err != nil || exit.InOrder() || !strings.Contains(m.Log(), "has already been bootstrapped") {
				t.Errorf("%v, %v\n%s", exit, err, m.Log())
			}
		})
	}
}

// namesOf are the names of the members that a member knows of.
func namesOf(t *testing.T, m *oracle.Member) (all []string) {
	t.Helper()
	for _, e := range membersOf(t, m).Members {
		all = append(all, e.Name)
	}
	slices.Sort(all)
	return all
}
