package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/upkeep"
)

// newTransport makes what carries messages to and from the other members. It
// needs the replica, and the replica needs it, but not before both run.
func (m *running) newTransport() (err error) {
	c := m.config
	secure, err := m.peerTLS()
	if err != nil {
		return err
	}
	m.transport, err = peer.New(peer.Options{
		Member:       m.opened.ID,
		Cluster:      m.opened.Cluster,
		URLs:         texts(c.Advertise.Peer),
		TLS:          secure,
		ReadTimeout:  c.Raft.ReadTimeout,
		WriteTimeout: c.Raft.WriteTimeout,
		Election:     c.Raft.ElectionTimeout,
	}, peer.Parts{Raft: m.replica, Desk: m.desk(), Log: m.log, Registry: m.registry})
	if err != nil {
		return err
	}
	for _, r := range m.opened.Remotes {
		if r.ID != m.opened.ID {
			m.transport.AddRemote(r.ID, r.PeerURLs)
		}
	}
	m.follow(m.replica.View().Members)
	return nil
}

// peerTLS is how this member connects to others; nil while no peer URL asks for
// TLS.
func (m *running) peerTLS() (*tls.Config, error) { return nil, nil }

// newPeerClient makes what asks others before there is a member.
func (m *running) newPeerClient() (*peer.Client, error) {
	secure, err := m.peerTLS()
	if err != nil {
		return nil, err
	}
	return peer.NewClient(peer.ClientOptions{TLS: secure, Election: m.config.Raft.ElectionTimeout}), nil
}

// strangers are the members of a cluster that this one is not part of yet.
type strangers struct{ *peer.Client }

// ClusterVersion implements bootstrap.Peers.
func (s strangers) ClusterVersion(ctx context.Context, url string) (string, error) {
	v, err := s.Versions(ctx, url)
	return v.Cluster, err
}

// desk answers what other members ask beside raft.
func (m *running) desk() peer.Desk {
	return peer.Desk{
		Members:   func() []member.Member { return m.replica.View().Members.Members() },
		Versions:  func() peer.Versions { return peer.Versions(m.versions()) },
		Downgrade: m.downgradeEnabled,
		HashKV:    m.hashKV,

		Promote:    m.services.PromoteHere,
		Renew:      m.services.RenewHere,
		TimeToLive: m.services.TimeToLiveHere,
	}
}

// distant is how the services reach other members. It is made before the
// transport, which they serve in turn.
type distant struct{ m *running }

// ActiveSince implements api.Peers.
func (d distant) ActiveSince(id member.ID) time.Time { return d.m.transport.ActiveSince(id) }

// Promote implements api.Peers.
func (d distant) Promote(ctx context.Context, urls []string, id member.ID, token string) ([]member.Member, error) {
	return d.m.transport.Client().Promote(ctx, urls, id, token)
}

// Renew implements api.Peers.
func (d distant) Renew(ctx context.Context, urls []string, id lease.ID) (ttl int64, err error) {
	return d.m.transport.Client().Renew(ctx, urls, id)
}

// TimeToLive implements api.Peers.
func (d distant) TimeToLive(ctx context.Context, urls []string, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	return d.m.transport.Client().TimeToLive(ctx, urls, id, keys)
}

func (m *running) downgradeEnabled(ctx context.Context) (bool, error) {
	if err := m.replica.Barrier(ctx); err != nil {
		return false, err
	}
	return m.replica.View().Members.Downgrade().Enabled, nil
}

// hashKV is the hash of this member's keyspace at a revision. It is taken of
// what is on disk.
func (m *running) hashKV(ctx context.Context, rev int64) (peer.Hash, error) {
	h, err := upkeep.OwnHash(ctx, m.replica.View, m.replica.Flush, rev)
	return peer.Hash(h), err
}

// peerMux is everything that the peer port answers.
func (m *running) peerMux() http.Handler {
	mux := http.NewServeMux()
	m.transport.Routes(mux)
	return mux
}

// servePeers answers on the peer ports.
func (m *running) servePeers() {
	m.crew.start("transport", func(ctx context.Context) error {
		err := m.transport.Run(ctx)
		if errors.Is(err, peer.ErrRemoved) {
			return m.removed()
		}
		return err
	})
	m.serveHTTP("peers", m.peerMux(), listeners(m.ports.peer), m.transport.Prepare)
}
