package compat

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// One session changes the membership of a cluster in every way that etcdctl
// has. It is held by etcdctl with etcd, the judge, and by etcdctl and kvctl
// with kvd; identities, addresses and positions in the log taken out, the
// outputs are the same.
func TestMembershipSessionsSeeNoDifference(t *testing.T) {
	t.Parallel()
	compareMemberships(t, 3, func(s *membership) {
		s.look()
		s.refuseNonsense()
		s.moveLeader()
		s.refuseWhileOneIsDown()
		s.refuseWhileOneIsYoung()
		s.learn()
		s.grow()
		s.alarm()
		s.downgrade()
		s.shrink()
	})
}

// A member that is alone is the one case where a majority may be given away:
// the cluster stands still until the second one has been started.
func TestOneMemberGrowsAsEtcdDoes(t *testing.T) {
	t.Parallel()
	compareMemberships(t, 1, func(s *membership) {
		s.play("member remove $m1id", "move-leader $m1id", "endpoint status --cluster", "put a 1")
		s.play("member add m4 --learner --peer-urls $peer4 -w json", "member promote $m4id", "member remove $m4id", "get a")
		added := s.playOnceHealthy("member add m5 --peer-urls $peer5")
		s.play("member add six --peer-urls $peer6", "member list --consistency s", "get a --consistency s")
		s.playInTime("get a --command-timeout 1s")
		s.start("m5", added, "$peer5", "$client5", false)
		s.play("member list", "get a", "get a --endpoints $m5", "endpoint hashkv --cluster", "move-leader $m5id")
		s.ledBy("m5")
		s.play("put a 2")
		s.playOnceHealthy("member remove $m1id --endpoints $m5")
		s.ends("m1")
		s.play("member list --endpoints $m5", "get a --endpoints $m5 -w json", "member add m5 --peer-urls $peer5 --endpoints $m5")
	})
}

// compareMemberships holds a session in three clusters of so many members.
func compareMemberships(t *testing.T, size int, session func(*membership)) {
	t.Helper()
	etcdctl, kvctl := oracle.Etcdctl(t), oracle.Kvctl(t)
	sessions := []*membership{
		{server: oracle.Etcd(t), client: etcdctl},
		{server: target(t), client: etcdctl},
		{server: target(t), client: kvctl},
	}
	var held sync.WaitGroup // they mostly wait: all at once, however few processors there are
	for _, s := range sessions {
		held.Go(func() {
			t.Run(s.client.Name+" with "+s.server.Name, func(t *testing.T) {
				s.begin(t, size)
				session(s)
			})
		})
	}
	held.Wait()
	judge := sessions[0].said
	for _, s := range sessions[1:] {
		for i, one := range judge {
			switch {
			case i >= len(s.said):
				if !t.Failed() {
					t.Errorf("%s with %s: %d commands, not %d", s.client.Name, s.server.Name, len(s.said), len(judge))
				}
			case s.said[i] != one:
				t.Errorf("%s\n--- %s with etcd\n%s--- %s with %s\n%s", one.command, etcdctl.Name, one.output, s.client.Name, s.server.Name, s.said[i].output)
			}
		}
	}
}

// said is one command and what came of it.
type said struct{ command, output string }

// A membership session has a cluster whose members are called m1, m2, … The
// client asks m1, which leads, unless a command names others by $m2 or $all.
type membership struct {
	server, client oracle.Binary

	t       *testing.T
	cluster *oracle.Cluster
	clients map[*oracle.Member]*clientv3.Client
	ids     map[string]uint64 // of all members that were ever seen, by their names
	spare   map[string]string // URLs for members to come, by the words that stand for them
	said    []said
}

func (s *membership) begin(t *testing.T, size int) {
	s.t = t
	t.Cleanup(func() {
		if t.Failed() {
			for _, last := range s.said[max(0, len(s.said)-5):] {
				t.Logf("%s\n%s", last.command, last.output)
			}
		}
	})
	s.cluster = oracle.StartCluster(t, []oracle.Binary{s.server}, oracle.ClusterOptions{
		Size: size, Member: func(_ int, o *oracle.Options) { o.Env = asEtcd },
	})
	s.clients = map[*oracle.Member]*clientv3.Client{}
	s.ids, s.spare = map[string]uint64{}, map[string]string{}
	for _, word := range []string{"$peer4", "$peer5", "$peer6", "$peer7", "$client4", "$client5"} {
		s.spare[word] = "http://" + oracle.FreeAddress(t)
	}
	s.lead("m1")
}

// everyFormat of what has a table.
var everyFormat = []string{"simple", "json", "fields", "table"}

// look asks all that can be asked.
func (s *membership) look() {
	s.play("put a 1", "put b 2 --lease=0")
	for _, format := range everyFormat {
		for _, command := range []string{"member list", "endpoint status", "endpoint status --cluster", "endpoint health --cluster", "endpoint hashkv --cluster"} {
			s.play(command + " -w " + format)
		}
	}
	s.play(
		"member list --hex -w json", "member list --hex -w fields", "member list --consistency s", "member list --consistency s --endpoints $m3",
		"endpoint hashkv --cluster --rev 2", "endpoint hashkv --cluster --rev 99", "endpoint status --endpoints $all", "endpoint health --endpoints $m2",
		"alarm list", "alarm disarm", "defrag --cluster", "compaction 2", "endpoint hashkv --cluster --rev 1", "endpoint hashkv --cluster -w json",
	)
}

// refuseNonsense asks for changes that no cluster makes.
func (s *membership) refuseNonsense() {
	s.playOnceHealthy("member add x --peer-urls $peer1")
	s.play(
		"member add x", "member add x --peer-urls nonsense", "member add x --peer-urls http://127.0.0.1", "member add x --peer-urls http://127.0.0.1:1/path",
		"member add x --peer-urls ftp://127.0.0.1:1", "member add x --learner --peer-urls $peer4,$peer2",
		"member remove 7", "member remove", "member promote 7", "member promote $m1id", "member promote $m2id --endpoints $m3",
		"member update 7 --peer-urls $peer4", "member update $m2id --peer-urls $peer1", "member update $m2id --peer-urls http://127.0.0.1:1/path",
		"move-leader 7", "move-leader $m1 --endpoints $m2", "move-leader x",
		"downgrade validate 3.6.0", "downgrade validate 3.5.0 --endpoints $m2", "downgrade validate 3", "downgrade cancel -w json",
		"member update $m2id --peer-urls $peer2 --hex -w json", // as it is
	)
}

func (s *membership) moveLeader() {
	s.play("move-leader $m2id --endpoints $all")
	s.ledBy("m2")
	s.play("endpoint status --cluster", "move-leader $m3id --endpoints $m1", "move-leader $m1id --endpoints $m2 -w json")
	s.ledBy("m1")
	s.play("move-leader $m1id")
}

// refuseWhileOneIsDown: what would leave no majority if the one that is down
// stayed so. Not a learner: kvd takes one, as it needs no majority.
func (s *membership) refuseWhileOneIsDown() {
	s.member("m3").Kill()
	s.sees("m3", false)
	s.play(
		"member add four --peer-urls $peer4", "member remove $m2id", "member remove $m1id -w json",
		"endpoint status --cluster", "endpoint hashkv --cluster", "endpoint health --cluster --command-timeout 1s", "member list", "put c 3",
	)
	s.playInTime("move-leader $m3id --command-timeout 1s")
	s.lead("m1")
}

// refuseWhileOneIsYoung: a member counts when it has been connected for five
// seconds.
func (s *membership) refuseWhileOneIsYoung() {
	m3 := s.member("m3")
	for {
		m3.Relaunch()
		s.sees("m3", true)
		seen := time.Now()
		output := s.run("member add four --peer-urls $peer4")
		if time.Since(seen) < 4*time.Second {
			s.record("member add four --peer-urls $peer4", output)
			break
		}
		m3.Kill() // the machine is too busy for it
		s.sees("m3", false)
	}
	if err := m3.Ready(oracle.ReadyWithin); err != nil {
		s.t.Fatal(err)
	}
}

// learn adds a learner and gives it its vote.
func (s *membership) learn() {
	added := s.playOnceHealthy("member add m4 --learner --peer-urls $peer4")
	s.play("member list", "member list -w json", "member list -w fields", "member list -w table",
		"member add five --learner --peer-urls $peer5")
	s.playOnceHealthy("member add five --peer-urls $peer7,$peer4") // kvd needed less for the learner
	s.play(
		"member promote $m4id", "member promote $m4id --endpoints $m2", "move-leader $m4id")
	s.start("m4", added, "$peer4", "$client4", true)
	s.caughtUp("m4")
	s.play("member list", "endpoint status --cluster", "endpoint status --cluster -w json", "endpoint health --endpoints $m4", "endpoint hashkv --endpoints $m4",
		"get a --endpoints $m4", "get a --endpoints $m4 --consistency s", "member list --endpoints $m4", "member list --endpoints $m4 --consistency s",
		"defrag --endpoints $m4", "alarm list --endpoints $m4", "move-leader $m4id", "move-leader $m4id --endpoints $m4")
	s.playOnceHealthy("member promote $m4id --endpoints $m2")
	s.play("member promote $m4id", "member list -w table", "member list -w json")
	s.member("m4").Learner = false
	if err := s.member("m4").Ready(oracle.ReadyWithin); err != nil {
		s.t.Fatal(err)
	}
	s.play("endpoint hashkv --cluster", "endpoint health --cluster")
}

// grow adds a voter, which changes its peer URLs before and after its start.
func (s *membership) grow() {
	added := s.playOnceHealthy("member add m5 --peer-urls $peer5,$peer6")
	s.play("member list", "member list --hex -w json", "member list -w table", "endpoint status --cluster")
	s.playOnceHealthy("member add six --peer-urls $peer6")
	s.start("m5", added, "$peer5,$peer6", "$client5", false)
	s.play("member list -w fields", "endpoint health --cluster")
	s.playOnceHealthy("member update $m5id --peer-urls $peer5")
	s.play("member list", "member update $m5id --peer-urls $peer5,$peer7 -w json", "member list -w json", "member update $m5id --peer-urls $peer5 --hex -w json",
		"endpoint hashkv --cluster")
}

// alarm raises one after the other, as of several etcd tells in no order. None
// of the five is corrupt: it would answer with no more keys, if it is kvd.
func (s *membership) alarm() {
	for _, alarm := range []*pb.AlarmRequest{
		{Action: pb.AlarmRequest_ACTIVATE, MemberID: s.ids["m2"], Alarm: pb.AlarmType_NOSPACE},
		{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_CORRUPT},
	} {
		if _, err := pb.NewMaintenanceClient(s.direct(s.member("m1")).ActiveConnection()).Alarm(s.t.Context(), alarm); err != nil {
			s.t.Fatal(err)
		}
		s.play("alarm list", "alarm list -w json", "alarm list -w fields --hex", "put a full", "get a", "endpoint health --cluster", "endpoint health --cluster -w json",
			"endpoint status -w fields", "endpoint status -w table", "member update $m5id --peer-urls $peer5", "downgrade validate 3.6.0",
			"alarm disarm -w json", "alarm list", "alarm disarm", "put a fits", "endpoint health --cluster")
	}
}

func (s *membership) downgrade() {
	s.play("downgrade enable 3.5.0", "downgrade enable 3.6.0")
	s.storage("3.6.0") // what is refused meanwhile depends on how far the members have come
	s.play("downgrade enable 3.6.0", "downgrade validate 3.6.0", "downgrade validate 3.5.0")
	s.play("endpoint status --cluster", "endpoint status --cluster -w json", "endpoint status -w fields", "downgrade cancel")
	s.storage("3.7.0")
	s.play("endpoint status --cluster -w table", "downgrade cancel", "downgrade validate 3.6.0")
}

// shrink removes a follower, and the leader in the end.
func (s *membership) shrink() {
	s.playOnceHealthy("member remove $m5id")
	s.ends("m5")
	s.play("member list", "member remove $m5id", "member update $m5id --peer-urls $peer5", "member add five --peer-urls $peer4,$peer7", "endpoint status --cluster")
	s.playOnceHealthy("member remove $m4id --hex -w json --endpoints $m2")
	s.ends("m4")
	s.playOnceHealthy("member remove $m1id --endpoints $m2")
	s.ends("m1")
	s.ledBy("m2", "m3")
	s.play("member list --endpoints $m2", "member list -w table --endpoints $m3", "endpoint hashkv --cluster --endpoints $m2", "get a --endpoints $m2")
	s.member("m3").Stop()
	s.play("get a --consistency s --endpoints $m2", "member list --consistency s --endpoints $m2")
	s.play("get a --endpoints $m2 --command-timeout 1s")
	s.playInTime("member remove $m3id --endpoints $m2 --command-timeout 1s")
}

// play gives commands to the client and keeps what it says.
func (s *membership) play(commands ...string) {
	for _, c := range commands {
		s.record(c, s.run(c))
	}
}

var unhealthy = regexp.MustCompile(`unhealthy cluster|in sync with leader`)

// playOnceHealthy tries a change until the cluster allows it, and returns
// what the client wrote.
func (s *membership) playOnceHealthy(command string) string {
	var output string
	s.poll("nothing against "+command, func(context.Context) error {
		if output = s.run(command); unhealthy.MatchString(output) {
			return fmt.Errorf("%s", output)
		}
		return nil
	})
	s.record(command, output)
	return output
}

// playInTime plays what is not done in time: client and server tell of it in
// different words, and either may be first.
func (s *membership) playInTime(command string) {
	s.record(command, inTime.ReplaceAllString(s.run(command), "Error: not in time"))
}

var inTime = regexp.MustCompile(`Error: (.*context deadline exceeded|.*etcdserver: request timed out.*)`)

func (s *membership) record(command, output string) {
	s.said = append(s.said, said{command, s.comparable(command, output)})
}

// poll tries until it goes well or the time is over.
func (s *membership) poll(what string, try func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 45*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("waited in vain for %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
