package oracle

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestEtcdStartsAnswersAndStops(t *testing.T) {
	m := Start(t, Etcd(t), Options{})
	resp, err := pb.NewMaintenanceClient(m.Dial()).Status(context.Background(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Version != Version {
		t.Errorf("etcd says it is %s, not %s", resp.Version, Version)
	}
	m.Stop()
}

func TestClusterOfEtcdLosesItsLeaderAndGrows(t *testing.T) {
	c := StartCluster(t, []Binary{Etcd(t)}, ClusterOptions{})
	leader := c.Leader()
	leader.Kill()
	if next := c.Leader(); next == leader {
		t.Fatalf("%s leads and is dead", next.Name)
	}
	leader.Restart()
	learner := c.AddMember(Etcd(t), Options{Learner: true})
	s := c.Statuses(context.Background())
	if last := s[len(s)-1]; !last.GetIsLearner() {
		t.Errorf("%s is no learner: %v", learner.Name, last)
	}
	c.AddMember(Etcd(t), Options{})
	list, err := c.Client(t, 4).MemberList(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Members) != 5 {
		t.Errorf("5 members are wanted: %v", list.Members)
	}
	for _, m := range c.Members {
		m.Stop()
	}
}
