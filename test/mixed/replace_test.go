package mixed

import (
	"context"
	"testing"

	"kvd/test/oracle"
)

// A cluster of etcds becomes one of kvds and back, each member in its place, on
// its own data, while clients go on.
func TestClusterChangesItsKindInPlace(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, seats(t, "eee"), oracle.ClusterOptions{Args: often})
	l := begin(t, c)
	for _, to := range "ke" {
		for i, m := range c.Members {
			l.moves(60)
			l.change(func() {
				m.Stop()
				m.Binary = kind(t, to)
				m.Relaunch()
			})
			if err := m.Ready(patience); err != nil {
				t.Fatalf("member %d as %c: %v", i, to, err)
			}
			l.moves(30)
			agree(t, c)
		}
	}
	l.finish()
}

// A cluster of etcds becomes one of kvds and back, each member removed and
// another one added, while clients go on.
func TestClusterChangesItsKindByReplacement(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, seats(t, "eee"), oracle.ClusterOptions{Args: often})
	l := begin(t, c)
	for _, to := range "ke" {
		for range 3 {
			l.moves(60)
			l.change(func() {
				old := c.Members[0]
				status, err := c.Client(t, 0).Status(t.Context(), old.ClientURL)
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "a member is removed", func(ctx context.Context) error {
					_, err := c.Client(t, 1).MemberRemove(ctx, status.Header.MemberId)
					return err
				})
				if _, err := old.Wait(patience); err != nil {
					t.Errorf("the removed member: %v", err)
				}
				c.Members = c.Members[1:]
				c.AddMember(kind(t, to), oracle.Options{Name: old.Name + string(to)})
			})
			agree(t, c)
		}
	}
	l.finish()
}
