package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"

	"kvd/internal/replica"
	"kvd/internal/state"
)

// retryJoin is the pause between two tries to publish this member.
const retryJoin = 100 * time.Millisecond

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
	if err := m.insist(ctx, attributes); err != nil {
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

// insist proposes a command until it is applied.
func (m *running) insist(ctx context.Context, command *state.Request) error {
	for {
		command.Header = &pb.RequestHeader{}
		_, err := m.replica.Propose(ctx, command, nil)
		switch {
		case err == nil, errors.Is(err, replica.ErrStopped), ctx.Err() != nil:
			return err
		case errors.Is(err, replica.ErrTooManyRequests): // the log is being replayed
		default:
			m.log.Warn("waiting for the cluster to accept this member", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryJoin):
		}
	}
}
