package replica

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/state"
)

const (
	checkpointsInOne  = 1000 // leases in one entry
	checkpointEntries = 500  // proposed in one go
)

// checkpoint puts into the log what long leases have left, so that the next
// leader does not give them all of their time again. One that gets lost comes
// again after the request timeout.
func (rn *renewals) checkpoint() {
	leases := rn.loop.r.view.Load().Leases
	for range checkpointEntries {
		due := rn.deadlines.DueCheckpoints(leases, rn.loop.now, checkpointsInOne)
		if len(due) == 0 {
			return
		}
		request := &pb.LeaseCheckpointRequest{}
		for _, c := range due {
			request.Checkpoints = append(request.Checkpoints, &pb.LeaseCheckpoint{ID: int64(c.ID), Remaining_TTL: c.Remaining})
		}
		rn.loop.errands.send(&state.Request{LeaseCheckpoint: request}, func(err error) {
			if err != nil {
				rn.loop.r.log.Warn("checkpoints of leases not made", "leases", len(due), "error", err)
			}
		})
	}
}

// reset takes back the checkpoint of a lease before it is renewed: else the
// next leader would give it less than was promised. Renewals that come
// meanwhile wait for the same entry.
func (rn *renewals) reset(id lease.ID, answer reply[int64]) {
	rn.resets[id] = append(rn.resets[id], answer)
	if len(rn.resets[id]) > 1 {
		return
	}
	request := &pb.LeaseCheckpointRequest{Checkpoints: []*pb.LeaseCheckpoint{{ID: int64(id)}}}
	rn.loop.errands.send(&state.Request{LeaseCheckpoint: request}, func(err error) {
		for _, answer := range rn.takeResets(id) {
			if err != nil {
				answer(0, err)
			} else {
				rn.renew(id, answer)
			}
		}
	})
}

func (rn *renewals) takeResets(id lease.ID) []reply[int64] {
	waiting := rn.resets[id]
	delete(rn.resets, id)
	return waiting
}
