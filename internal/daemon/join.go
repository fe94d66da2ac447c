package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"

	"kvd/internal/replica"
	"kvd/internal/sd"
	"kvd/internal/state"
)

const (
	firstJoin = 500 * time.Millisecond // the first try to publish this member; each one may take twice as long as the one before,
	lastJoin  = time.Minute            // up to this
	retryJoin = 100 * time.Millisecond // the pause between two tries
)

// join makes this member known: it publishes name and client URLs through the
// log, which succeeds once there is a leader. It returns when that is done and
// the cluster has a version.
func (m *running) join(ctx context.Context) error {
	name, urls := m.config.Member.Name, texts(m.config.Advertise.Client)
	id, cluster := m.opened.ID.String(), m.opened.Cluster.String()
	attributes := &state.Request{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
		Member_ID:        uint64(m.opened.ID),
		MemberAttributes: &membershippb.Attributes{Name: name, ClientUrls: urls},
	}}
	propose := func(ctx context.Context) error {
		attributes.Header = &pb.RequestHeader{}
		_, err := m.replica.Propose(ctx, attributes, nil)
		return err
	}
	if err := insist(ctx, m.log, propose); err != nil {
		return fmt.Errorf("publish this member: %w", err)
	}
	m.log.Info("published local member to cluster through raft", "local-member-id", id,
		"local-member-attributes", fmt.Sprintf("{Name:%s ClientURLs:%v}", name, urls), "cluster-id", cluster)
	m.upkeep.Nudge()
	select {
	case <-m.upkeep.Agreed():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// insist proposes until the proposal is applied. What a member that has just
// joined sends to the leader may be lost, as their connections are being made,
// and then no try would end before raft's patience does: so the first ones are
// short. One that comes through after its time does no harm.
func insist(ctx context.Context, log *slog.Logger, propose func(context.Context) error) error {
	for patience := firstJoin; ; patience = min(2*patience, lastJoin) {
		try, cancel := context.WithTimeout(ctx, patience)
		err := propose(try)
		cancel()
		switch {
		case err == nil, errors.Is(err, replica.ErrStopped), ctx.Err() != nil:
			return err
		case errors.Is(err, replica.ErrTooManyRequests): // the log is being replayed
			patience = firstJoin
		default:
			log.Warn("waiting for the cluster to accept this member", message(sd.MessageWaiting), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryJoin):
		}
	}
}
