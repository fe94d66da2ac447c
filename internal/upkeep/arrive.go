package upkeep

import (
	"context"
	"time"
)

// promoteInterval is the pause between two times that a learner asks for its
// vote.
const promoteInterval = time.Second

// arrive sees a new member to its place in the cluster, and ends then.
func (u *Upkeep) arrive(ctx context.Context) {
	reason := ""
	for pause(ctx, promoteInterval) {
		self, known := u.member.View().Members.Member(u.id)
		switch {
		case !known || u.member.Status().Leader == 0: // it has learned nothing yet
			continue
		case !self.Learner || u.promote == nil:
			u.log.Info("this member has its place in the cluster", "learner", self.Learner)
			if u.joined != nil {
				u.joined()
			}
			return
		}
		limited, cancel := context.WithTimeout(ctx, u.o.RequestTimeout)
		err := u.promote(limited)
		cancel()
		if err != nil && err.Error() != reason && ctx.Err() == nil {
			reason = err.Error()
			u.log.Info("this learner has no vote yet; asking again", "error", err)
		}
	}
}
