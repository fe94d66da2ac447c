package upkeep

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/member"
	"kvd/internal/sd"
	"kvd/internal/state"
)

// restFactor keeps a comparison, which reads all data on all members, from
// being what they are busy with: after each the leader rests this many times as
// long as it took.
const restFactor = 20

// comparisons compares the members' data now and then, while this one leads.
func (u *Upkeep) comparisons(ctx context.Context) {
	wait := u.o.CorruptCheck
	for pause(ctx, wait) {
		began := time.Now()
		u.compare(ctx)
		wait = max(u.o.CorruptCheck, restFactor*time.Since(began))
	}
}

// compare takes the hashes of all members at this one's newest revision, and
// raises an alarm for each that cannot be right.
func (u *Upkeep) compare(ctx context.Context) {
	v := u.member.View()
	peers := u.peers(v)
	if u.leading() == 0 || len(peers) == 0 {
		return // alone there is nobody to disagree with
	}
	size := len(v.Members.Members())
	found, checked, err := u.findWrong(ctx, peers, size)
	if err == nil && len(found) > 0 {
		// The alarm stops the whole cluster, so it must not come of a moment in
		// which a member was compacting: what is wrong stays wrong.
		var again []member.ID
		if again, checked, err = u.findWrong(ctx, peers, size); err == nil {
			found = slices.DeleteFunc(found, func(id member.ID) bool { return !slices.Contains(again, id) })
		}
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		u.metrics.check("periodic", resultFailed)
		u.log.Warn("failed to check hash KV", "error", err)
		return
	}
	u.metrics.outcome("periodic", len(found) > 0, checked == len(peers))
	u.log.Info("finished peer corruption check", "number-of-peers-checked", checked)
	u.raise(ctx, found)
}

// findWrong returns who is wrong, and how many members have answered.
func (u *Upkeep) findWrong(ctx context.Context, peers []member.Member, size int) (wrong []member.ID, checked int, err error) {
	own, err := u.ownHash(ctx)
	if err != nil {
		return nil, 0, err
	}
	answers := u.hashes(ctx, peers, own.At)
	barrier, cancel := context.WithTimeout(ctx, u.o.RequestTimeout)
	err = u.member.Barrier(barrier)
	cancel()
	if err != nil {
		return nil, 0, err
	}
	now := u.member.View().Keys
	again := Hash{Hash: own.Hash, Compacted: now.Compacted(), Revision: now.Revision()}
	found := findings{}
	if again.Revision == own.At && again.Compacted == own.Compacted { // else two hashes say nothing of each other
		if again, err = u.ownHash(ctx); err != nil {
			return nil, 0, err
		}
		if again.Hash != own.Hash && again.At == own.At && again.Compacted == own.Compacted {
			u.log.Warn("found hash mismatch", "revision", own.At, "compact-revision", own.Compacted, "hash-1", own.Hash, "hash-2", again.Hash)
			found.add(u.id)
		}
	}
	for _, a := range answers {
		if a.err != nil {
			u.log.Warn("failed hash kv request", "remote-peer-id", a.member.ID.String(), "requested-revision", own.At, "error", a.err)
			continue
		}
		checked++
		if u.isAhead(a, again) {
			found.add(a.member.ID)
		}
	}
	if ruling := judge(u.id, own, answers, size); !ruling.agreed {
		u.sayMismatch("same compact revision then hashes must match", own, answers, ruling)
		found.add(ruling.accused()...)
	}
	return found.sorted(), checked, nil
}

// isAhead reports whether a member claims what the leader, after a barrier,
// does not have: nobody can have applied more than was committed.
func (u *Upkeep) isAhead(a answer, leader Hash) bool {
	id := a.member.ID.String()
	if a.hash.Revision > leader.Revision {
		u.log.Warn("revision from follower must be less than or equal to leader's",
			"leader-revision", leader.Revision, "follower-revision", a.hash.Revision, "follower-peer-id", id)
		return true
	}
	if a.hash.Compacted > leader.Compacted {
		u.log.Warn("compact revision from follower must be less than or equal to leader's",
			"leader-compact-revision", leader.Compacted, "follower-compact-revision", a.hash.Compacted, "follower-peer-id", id)
		return true
	}
	return false
}

// compactions compares the hashes that members took when they compacted, while
// this one leads.
func (u *Upkeep) compactions(ctx context.Context) {
	for pause(ctx, u.o.CompactHashCheck) {
		if u.leading() != 0 {
			u.compareCompactions(ctx)
		}
	}
}

// compareCompactions goes back from the newest compaction to one that all
// members can be compared at.
func (u *Upkeep) compareCompactions(ctx context.Context) {
	v := u.member.View()
	peers := u.peers(v)
	size := len(v.Members.Members())
	looked := 0
	for _, h := range v.Keys.CompactHashes() {
		if h.Revision <= u.checked || len(peers) == 0 || ctx.Err() != nil {
			break
		}
		looked++
		own := Hash{Hash: h.Hash, Compacted: h.Previous, At: h.Revision}
		answers := u.hashes(ctx, peers, h.Revision)
		if ctx.Err() != nil {
			return
		}
		ruling := judge(u.id, own, answers, size)
		if !ruling.agreed {
			u.metrics.check("compaction", resultDisagreed)
			u.sayMismatch("Detected compaction hash mismatch", own, answers, ruling)
			u.raise(ctx, ruling.accused())
			break
		}
		if ruling.compared == len(peers) {
			u.metrics.check("compaction", resultAgreed)
			u.log.Info("successfully checked hash on whole cluster", "number-of-peers-checked", len(peers), "revision", h.Revision, "compactRevision", h.Previous)
			u.checked = h.Revision
			break
		}
		u.metrics.check("compaction", resultIncomplete)
		u.saySkipped(own, answers)
	}
	if looked > 0 {
		u.log.Info("finished compaction hash check", "number-of-hashes-checked", looked)
	}
}

func (u *Upkeep) saySkipped(own Hash, answers []answer) {
	for _, a := range answers {
		switch {
		case a.err != nil:
			u.log.Warn("Skipped peer's hash", "peer-id", a.member.ID.String(), "revision", own.At, "error", a.err)
		case a.hash.Compacted != own.Compacted:
			u.log.Warn("Skipped peer's hash", "peer-id", a.member.ID.String(), "revision", own.At,
				"leader-compact-revision", own.Compacted, "peer-compact-revision", a.hash.Compacted)
		}
	}
}

// sayMismatch logs what every member has answered: whoever repairs the cluster
// wants to see it.
func (u *Upkeep) sayMismatch(text string, own Hash, answers []answer, ruling verdict) {
	log := u.log.With("leader-id", u.id.String(), "revision", own.At, "compact-revision", own.Compacted,
		"leader-hash", own.Hash, "quorum-exist", ruling.decided)
	if !ruling.decided {
		log.Error("members disagree about the data and no majority says which are right; the alarm is raised for the whole cluster (member 0)",
			sd.Message(sd.MessageDisagree))
	}
	for _, a := range answers {
		if a.err == nil && a.hash.Compacted == own.Compacted {
			log.Error(text, "peer-id", a.member.ID.String(), "peer-hash", a.hash.Hash,
				"found-corrupt", slices.Contains(ruling.bad, a.member.ID))
		}
	}
}

// raise raises the alarm CORRUPT for members that have none yet.
func (u *Upkeep) raise(ctx context.Context, ids []member.ID) {
	raised := corrupt(u.member.View())
	for _, id := range ids {
		if slices.Contains(raised, id) {
			continue
		}
		u.log.Error("raising the alarm CORRUPT", "alarmed-member-id", id.String())
		alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(id), Alarm: pb.AlarmType_CORRUPT}
		if err := u.propose(ctx, &state.Request{Alarm: alarm}); err != nil && ctx.Err() == nil {
			u.log.Error("the alarm is not raised; the next check tries again", "alarmed-member-id", id.String(), "error", err)
		}
	}
}

// corrupt are the members with the alarm CORRUPT, ascending.
func corrupt(v *state.View) (ids []member.ID) {
	for _, a := range v.Alarms {
		if a.Type == pb.AlarmType_CORRUPT {
			ids = append(ids, a.Member)
		}
	}
	return ids
}

// observe tells of alarms and of the cluster's version as the view shows them, of
// the version if it is another than before.
func (u *Upkeep) observe(ctx context.Context, version member.Version) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	known := false
	var told []member.ID
	for {
		v := u.member.View()
		if now := corrupt(v); !slices.Equal(now, told) {
			told = now
			u.metrics.alarmed(now, u.id)
			u.corrupt(now)
		}
		now := v.Members.ClusterVersion()
		if now != version {
			u.sayVersion(version, now)
			version = now
		}
		if now.Known() && !known {
			known = true
			close(u.agreed)
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		case <-u.changed:
		}
	}
}

func (u *Upkeep) sayVersion(was, is member.Version) {
	if was.Known() {
		u.log.Info("updated cluster version", "from", line(was), "to", line(is))
	} else {
		u.log.Info("set initial cluster version", "cluster-version", line(is))
	}
	if job := u.member.View().Members.Downgrade(); job.Enabled && is.Compare(was) < 0 {
		u.log.Info("The server is ready to downgrade", "target-version", job.Target, "server-version", u.o.Version)
	}
}
