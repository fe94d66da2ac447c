package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/config"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/upkeep"
)

// newTransport makes what carries messages to and from the other members. It
// needs the replica, and the replica needs it, but not before both run.
func (m *running) newTransport() (err error) {
	c := m.config
	m.transport, err = peer.New(peer.Options{
		Member:       m.opened.ID,
		Cluster:      m.opened.Cluster,
		URLs:         texts(c.Advertise.Peer),
		TLS:          m.peers.Client,
		LocalAddress: m.localAddress(),
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

// localAddress is where connections to others come from: the first address that
// this member advertises, where that is asked for; else the kernel chooses.
func (m *running) localAddress() string {
	if !m.config.Gates.On(config.SetMemberLocalAddr) {
		return ""
	}
	for _, u := range m.config.Advertise.Peer {
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			return ip.String()
		}
	}
	return ""
}

// newPeerClient makes what asks others before there is a member.
func (m *running) newPeerClient() *peer.Client {
	return peer.NewClient(peer.ClientOptions{TLS: m.peers.Client, LocalAddress: m.localAddress(), Election: m.config.Raft.ElectionTimeout})
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
