package api

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
)

// checkQuota refuses what the database may have no room for, and raises this
// member's alarm: from then on all members refuse. The alarm is what counts;
// how large the file is differs between members.
func (a *API) checkQuota(ctx context.Context, req *state.Request) error {
	if a.o.QuotaBytes < 0 {
		return nil
	}
	cost := state.Cost(req)
	if cost == 0 || a.store.Size()+cost < a.o.QuotaBytes {
		return nil
	}
	mine := state.Alarm{Member: a.id, Type: pb.AlarmType_NOSPACE}
	for _, raised := range a.member.View().Alarms {
		if raised == mine {
			return errNoSpace
		}
	}
	_, err := a.member.Propose(ctx, &state.Request{Alarm: &pb.AlarmRequest{
		MemberID: uint64(a.id), Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE,
	}}, nil)
	if err != nil {
		a.log.Error("the database is full and the alarm cannot be raised", "error", err)
	} else {
		a.log.Error("the database is full; writes are refused until space is made and the alarm is disarmed",
			"bytes", a.store.Size(), "quota", a.o.QuotaBytes)
	}
	return errNoSpace
}
