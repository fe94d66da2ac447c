package robust

import "testing"

func TestClusterSurvivesKillOfAnyMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	l := c.load()
	for range rounds(t) {
		for _, i := range c.Perm(3) {
			l.moves(0, 1, 2)
			c.kill(i)
			l.moves(c.others(i)...)
			c.launch(i)
		}
	}
	l.moves(0, 1, 2)
	l.finish()
}

// rounds is how often a test repeats its fault.
func rounds(t *testing.T) int { return number(t, "KVD_ROBUST_ROUNDS", 1) }
