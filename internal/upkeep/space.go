package upkeep

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/member"
	"kvd/internal/state"
)

// Space is what the database takes, in bytes.
type Space struct {
	Used int64 // what writes are judged by: without free pages, with what waits to be written
	Size int64 // of the file
	Free int64 // pages of the file that hold nothing
}

// Fill says how near the database is to its quota.
type Fill uint8

// From Plenty to Exhausted it is worse.
const (
	Plenty    Fill = iota
	Low            // past lowPart of the quota
	Exhausted      // this member's NOSPACE alarm is raised
)

// Of the quota, in per cent. An alarm goes well below where it came, so that it
// does not come again with the next writes.
const (
	lowPart    = 80
	lowEnds    = 75
	disarmPart = 90
)

const (
	// calmLooks is how many looks in a row must find enough space before the
	// alarm goes. It doubles with each alarm that comes back within flapWindow,
	// as it does when single requests are larger than what is left.
	calmLooks  = 3
	mostLooks  = 300
	flapWindow = 2 * time.Minute
)

// room is what space knows from one look to the next.
type room struct {
	fill     Fill
	calm     int // looks in a row with enough space while the alarm is raised
	patience int // that many are needed
	raised   bool
	disarmed time.Time
}

// space watches how full the database is, and lowers this member's NOSPACE alarm
// when there is space again. To raise it is the business of who meets the quota
// with a request.
func (u *Upkeep) space(ctx context.Context) {
	u.room.patience = calmLooks
	for pause(ctx, u.o.SpaceInterval) {
		u.lookAtSpace(ctx, time.Now())
	}
}

func (u *Upkeep) lookAtSpace(ctx context.Context, now time.Time) {
	r, used, v := &u.room, u.parts.Space().Used, u.member.View()
	raised := slices.Contains(v.Alarms, state.Alarm{Member: u.id, Type: pb.AlarmType_NOSPACE})
	if raised && !r.raised {
		r.calm = 0
		if now.Sub(r.disarmed) < flapWindow {
			r.patience = min(2*r.patience, mostLooks)
		} else {
			r.patience = calmLooks
		}
	}
	r.raised = raised
	if fill := u.filled(r.fill, used, raised); fill != r.fill {
		r.fill = fill
		u.metrics.fill.Set(float64(fill))
		u.parts.Filled(fill, used)
	}
	if u.o.ManualDisarm {
		return
	}
	if u.leading() != 0 {
		u.disarmRemoved(ctx, v)
	}
	switch {
	case !raised:
		return
	case u.part(used) >= disarmPart:
		r.calm = 0
		return
	}
	if r.calm++; r.calm < r.patience {
		return
	}
	r.calm = 0
	if err := u.disarm(ctx, u.id); err != nil {
		if ctx.Err() == nil {
			u.log.Warn("the NOSPACE alarm cannot be lowered though there is space; trying again", "error", err)
		}
		return
	}
	r.disarmed, r.raised = now, false
	u.metrics.disarmed.Inc()
	u.log.Info("there is space again; the NOSPACE alarm of this member is lowered", "bytes", used, "quota", u.o.QuotaBytes)
}

// filled is how full the database is; was is what was said last.
func (u *Upkeep) filled(was Fill, used int64, raised bool) Fill {
	from := int64(lowPart)
	if was != Plenty {
		from = lowEnds
	}
	switch {
	case raised:
		return Exhausted
	case u.part(used) >= from:
		return Low
	}
	return Plenty
}

// part is how much of the quota is used, in per cent; 0 if there is none.
func (u *Upkeep) part(used int64) int64 {
	if u.o.QuotaBytes <= 0 {
		return 0
	}
	return int64(float64(used) / float64(u.o.QuotaBytes) * 100)
}

func (u *Upkeep) disarm(ctx context.Context, id member.ID) error {
	return u.propose(ctx, &state.Request{Alarm: &pb.AlarmRequest{
		MemberID: uint64(id), Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE,
	}})
}

// disarmRemoved lowers the alarms of members that are gone: nobody else would.
func (u *Upkeep) disarmRemoved(ctx context.Context, v *state.View) {
	for _, a := range v.Alarms {
		if a.Type != pb.AlarmType_NOSPACE || !slices.Contains(v.Members.RemovedIDs(), a.Member) {
			continue
		}
		if err := u.disarm(ctx, a.Member); err == nil {
			u.log.Info("the NOSPACE alarm of a removed member is lowered", "removed-member-id", a.Member.String())
		}
	}
}
