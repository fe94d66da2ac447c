package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"

	"kvd/internal/member"
	"kvd/internal/replica"
	"kvd/internal/state"
)

// retryJoin is the pause between two tries to publish this member.
const retryJoin = 100 * time.Millisecond

// join makes this member known: it publishes name and client URLs through the
// log, which succeeds once there is a leader, and sees to it that the cluster
// has a version. It returns when both are done.
func join(ctx context.Context, rep *replica.Replica, id member.ID, name string, clients []url.URL, log *slog.Logger) error {
	urls := texts(clients)
	attributes := &state.Request{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
		Member_ID:        uint64(id),
		MemberAttributes: &membershippb.Attributes{Name: name, ClientUrls: urls},
	}}
	if err := insist(ctx, rep, attributes, log); err != nil {
		return fmt.Errorf("publish this member: %w", err)
	}
	log.Info("published local member to cluster through raft", "member_id", id.String(), "name", name, "client_urls", urls)
	if rep.View().Members.ClusterVersion().Compare(state.ClusterVersion) >= 0 {
		return nil
	}
	version := &state.Request{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: state.ClusterVersion.String()}}
	if err := insist(ctx, rep, version, log); err != nil {
		return fmt.Errorf("set the cluster version: %w", err)
	}
	log.Info("set cluster version", "version", state.ClusterVersion.String())
	return nil
}

// insist proposes a command until it is applied.
func insist(ctx context.Context, rep *replica.Replica, command *state.Request, log *slog.Logger) error {
	for {
		command.Header = &pb.RequestHeader{}
		_, err := rep.Propose(ctx, command, nil)
		if err == nil || errors.Is(err, replica.ErrStopped) || ctx.Err() != nil {
			return err
		}
		log.Warn("waiting for the cluster to accept this member", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryJoin):
		}
	}
}
