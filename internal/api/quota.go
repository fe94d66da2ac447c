package api

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
)

// pendingMost is more than can wait to be written to the store: with more room
// than that below the quota nobody needs to look how much it is.
const pendingMost = 512 << 20

// fits reports whether the database has room for so many bytes more. What counts
// is what is in use: free pages are room, and what waits to be written is not.
func (a *API) fits(cost int64) bool {
	used := a.store.InUse() + cost
	return used+pendingMost < a.o.QuotaBytes || used+int64(a.member.Pending()) < a.o.QuotaBytes
}

// checkQuota refuses what the database may have no room for, and raises this
// member's alarm: from then on all members refuse. The alarm is what counts;
// how much is in use differs between members.
func (a *API) checkQuota(ctx context.Context, req *state.Request) error {
	if a.o.QuotaBytes < 0 {
		return nil
	}
	cost := state.Cost(req)
	if cost == 0 || a.fits(cost) {
		return nil
	}
	if slices.Contains(a.member.View().Alarms, state.Alarm{Member: a.id, Type: pb.AlarmType_NOSPACE}) {
		return errNoSpace
	}
	_, err := a.member.Propose(ctx, &state.Request{Alarm: &pb.AlarmRequest{
		MemberID: uint64(a.id), Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE,
	}}, nil)
	if err != nil {
		a.log.Error("the database is full and the alarm cannot be raised", "error", err)
	} else {
		a.log.Warn("a request would take the database over its quota; the NOSPACE alarm is raised",
			"in-use-bytes", a.store.InUse(), "request-bytes", cost, "quota", a.o.QuotaBytes)
	}
	return errNoSpace
}
