package robust

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"kvd/test/oracle"
)

// Each member has a monotonic clock of its own, days from the others', and
// every life another one, also an earlier: none may be compared with another
// member's or life's. Leases must neither end early for it nor stay.
//
// A wall clock that jumps cannot be had here: a time namespace does not change
// it, a static program takes nothing preloaded, and the machine's own is not
// ours to set. What a member does with wall time is tested where it is passed
// in.
func TestClocksOfMembersAndLivesMayDiffer(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("unshare", "--time", "--monotonic", "60", "true").CombinedOutput(); err != nil {
		t.Skipf("time namespaces cannot be made here: %v: %s", err, out)
	}
	ahead := func(d time.Duration) []string {
		seconds := fmt.Sprint(int(d.Seconds()))
		return []string{"unshare", "--time", "--monotonic", seconds, "--boottime", seconds, "--"}
	}
	const day = 24 * time.Hour
	offsets := []time.Duration{0, 3 * day, 500 * day}
	c := newCluster(t, plan{size: 3, place: func(i int, o *oracle.Options) { o.Under = ahead(offsets[i]) }})
	l := c.load()
	for turn := range 2 {
		l.moves(0, 1, 2)
		i := c.leader()
		c.kill(i)
		l.moves(c.others(i)...)
		c.members[i].options.Under = ahead(offsets[(i+turn+1)%len(offsets)])
		c.launch(i)
	}
	l.moves(0, 1, 2)
	l.lasts((leaseTTL + 1) * time.Second)
	l.finish()
}
