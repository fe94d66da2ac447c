package replica

import (
	"errors"
	"fmt"
	"strings"
)

// ErrLogRegressed says that this member's log lacks entries that it has
// acknowledged. Starting again does not help:
// the member must be replaced.
var ErrLogRegressed = errors.New("this member's log has lost what it acknowledged")

// regression is what raft panics with when it finds that.
type regression struct{ err error }

// Error makes a panic that nobody has caught readable.
func (r regression) Error() string { return r.err.Error() }

// regressions are raft's words for it, by the beginning of their format, and
// ours.
var regressions = []struct{ raft, words string }{
	{"tocommit(%d) is out of range", "the cluster has committed entry %d, which this member once held, and its log ends at %d"},
	{"%x state.commit %d is out of range", "member %x has committed entry %d, and its log holds the entries from %d to %d"},
}

// regressionOf recognizes raft's panic by its format.
func regressionOf(format string, v []any) (regression, bool) {
	for _, r := range regressions {
		if strings.HasPrefix(format, r.raft) {
			return regression{fmt.Errorf("%w: "+r.words+"; either its disk has lost synced writes, or an old copy of its data directory was put back; "+
				"going on could undo what clients were told: replace the member with 'kvd member rejoin', or remove it and add it again", append([]any{ErrLogRegressed}, v...)...)}, true
		}
	}
	return regression{}, false
}

// explained makes an error of a regression that raft meets in run. Other
// panics pass.
func explained(run func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case regression:
			err = p.err
		default:
			panic(p)
		}
	}()
	return run()
}
