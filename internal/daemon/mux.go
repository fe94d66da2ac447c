package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/gateway"
	"kvd/internal/member"
	"kvd/internal/mvcc"
)

// etcdVersion is the version whose behaviour kvd has, as clients are told.
const etcdVersion = "3.7.3"

// newGateway makes the HTTP side of the member.
func (m *running) newGateway() *gateway.Gateway {
	http := m.config.HTTP
	return gateway.New(gateway.Options{
		Pprof:         http.Pprof,
		HostWhitelist: http.HostWhitelist,
		CORS:          http.CORS,
	}, gateway.Questions{
		Versions: m.versions,
		Alarms:   m.alarms,
		Leader:   func() bool { return m.replica.Status().Leader != 0 },
		Learner:  m.learner,
		Read:     m.probe,
		Vars:     map[string]func() any{"raft.status": m.raftStatus},
	}, gateway.Build{Version: m.in.Version, Commit: m.in.Commit}, m.log, m.registry, m.registry)
}

func (m *running) versions() gateway.Versions {
	v := gateway.Versions{Server: etcdVersion}
	if cluster := m.replica.View().Members.ClusterVersion(); cluster.Known() {
		v.Cluster, v.Storage = cluster.String(), cluster.Line().String()
	}
	return v
}

func (m *running) alarms() []string {
	var names []string
	for _, a := range m.replica.View().Alarms {
		names = append(names, a.Type.String())
	}
	return names
}

func (m *running) learner() bool {
	self, _ := m.replica.View().Members.Member(m.opened.ID)
	return self.Learner
}

// probe reads one key, as a client would: from this member alone, or with the
// cluster's word that it is the newest.
func (m *running) probe(ctx context.Context, serializable bool) error {
	if !serializable {
		if err := m.replica.Barrier(ctx); err != nil {
			return err
		}
	}
	for {
		_, err := m.replica.View().Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true, Limit: 1})
		if !errors.Is(err, mvcc.ErrCollected) {
			return err
		}
	}
}

// raftStatus is raft's standing in the form that etcd shows it in.
func (m *running) raftStatus() any {
	s := m.replica.Status()
	hex := func(id uint64) string { return strconv.FormatUint(id, 16) }
	return map[string]any{
		"id": hex(s.Member), "term": s.Term, "commit": s.Commit, "lead": hex(s.Leader),
		"raftState": s.State.String(), "applied": s.Applied,
	}
}

// peerMux is what other members and their tools may ask of one member.
func (m *running) peerMux(g *gateway.Gateway) http.Handler {
	mux := http.NewServeMux()
	g.Peer(mux)
	mux.HandleFunc("GET /members", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Etcd-Cluster-ID", m.opened.Cluster.String())
		w.Header().Set("Content-Type", "application/json")
		members := m.replica.View().Members.Members()
		if members == nil {
			members = []member.Member{}
		}
		json.NewEncoder(w).Encode(members) //nolint:errcheck // the asker has gone
	})
	return mux
}
