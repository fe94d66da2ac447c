package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/gateway"
	"kvd/internal/member"
)

// etcdVersion is the version whose behaviour kvd has, as clients are told.
const etcdVersion = "3.7.3"

// newGateway makes the HTTP side of the member. It answers before there is a
// member, too: then nothing is well.
func (m *running) newGateway() *gateway.Gateway {
	c := m.config
	return gateway.New(gateway.Options{
		Pprof:           c.HTTP.Pprof || c.Log.Level <= slog.LevelDebug, // as in etcd
		HostWhitelist:   c.HTTP.HostWhitelist,
		CORS:            c.HTTP.CORS,
		MaxRequestBytes: int(c.Limits.RequestBytes),
		ClientCertAuth:  c.ClientTLS.ClientCertAuth,
	}, gateway.Questions{
		Versions:      m.versions,
		Alarms:        m.alarms,
		Leader:        m.hasLeader,
		Learner:       m.learner,
		Authenticates: m.knowsUsers,
		Read:          m.probe,
		Vars:          map[string]func() any{"raft.status": m.raftStatus},
	}, gateway.Build{Version: m.in.Version, Commit: m.in.Commit}, m.log, m.registry, m.registry)
}

func (m *running) versions() gateway.Versions {
	v := gateway.Versions{Server: etcdVersion}
	live := m.live.Load()
	if live == nil {
		return v
	}
	if cluster := live.View().Members.ClusterVersion(); cluster.Known() {
		v.Cluster, v.Storage = cluster.String(), cluster.Line().String()
	}
	return v
}

func (m *running) alarms() []string {
	live := m.live.Load()
	if live == nil {
		return nil
	}
	var names []string
	for _, a := range live.View().Alarms {
		names = append(names, a.Type.String())
	}
	return names
}

func (m *running) hasLeader() bool {
	live := m.live.Load()
	return live != nil && live.Status().Leader != 0
}

func (m *running) learner() bool {
	live := m.live.Load()
	if live == nil {
		return false
	}
	self, _ := live.View().Members.Member(member.ID(live.Status().Member))
	return self.Learner
}

// knowsUsers reports whether callers must be users now.
func (m *running) knowsUsers() bool {
	live := m.live.Load()
	return live != nil && live.View().Users.Enabled()
}

// probe reads one key, as a client would: from this member alone, or with the
// cluster's word that it is the newest.
func (m *running) probe(ctx context.Context, serializable bool) error {
	if m.live.Load() == nil {
		return fmt.Errorf("the member is not open yet: %s", m.phase.Load())
	}
	_, _, err := m.services.Range(ctx, &pb.RangeRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable,
	})
	return err
}

// raftStatus is raft's standing in the form that etcd shows it in.
func (m *running) raftStatus() any {
	live := m.live.Load()
	if live == nil {
		return nil
	}
	s := live.Status()
	hex := func(id uint64) string { return strconv.FormatUint(id, 16) }
	return map[string]any{
		"id": hex(s.Member), "term": s.Term, "commit": s.Commit, "lead": hex(s.Leader),
		"raftState": s.State.String(), "applied": s.Applied,
	}
}
