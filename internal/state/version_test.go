package state

import (
	"testing"

	"go.etcd.io/etcd/api/v3/membershippb"

	"kvd/internal/store"
)

func TestTheLayoutsVersionFollowsTheClusters(t *testing.T) {
	c := converse(t)
	for _, step := range []struct{ set, want string }{
		{"3.0.0", ""}, {"3.6.0", "3.6.0"}, {"3.7.0", "3.7.0"}, {"3.0.0", "3.7.0"}, {"3.6.0", "3.6.0"}, {"3.5.0", ""}, {"3.7.0", "3.7.0"},
	} {
		c.apply(&Request{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: step.set}})
		c.flush()
		r, err := c.disk.Read()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(r.Value(store.Meta, []byte(StorageVersion))); got != step.want {
			t.Errorf("after %s it is %q, want %q", step.set, got, step.want)
		}
		r.Close()
	}
}
