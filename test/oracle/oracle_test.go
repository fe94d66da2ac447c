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
