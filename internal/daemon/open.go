package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/mvcc"
	"kvd/internal/replica"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// open opens or makes the member in the data directory. It asks for more time
// as long as that takes: a large database is read whole.
func (m *running) open(ctx context.Context) error {
	hurryHeap()
	m.metrics = replica.NewMetrics(m.registry)
	type result struct {
		member *bootstrap.Member
		err    error
	}
	client := m.newPeerClient()
	defer client.Close()
	done := make(chan result, 1)
	go func() {
		member, err := bootstrap.Open(ctx, m.bootOptions(client))
		done <- result{member, err}
	}()
	extend := time.NewTicker(extendBy / 3)
	defer extend.Stop()
	for {
		select {
		case r := <-done:
			if errors.Is(r.err, bootstrap.ErrCluster) {
				return &ConfigError{r.err}
			}
			if r.err != nil {
				return r.err
			}
			m.opened = r.member
			return m.admit()
		case <-extend.C:
			m.extend()
		case <-ctx.Done():
			select {
			case r := <-done:
				if r.err == nil {
					r.err = r.member.Close()
				}
				return errors.Join(ctx.Err(), r.err)
			case <-time.After(openGrace):
				return ctx.Err() // nothing has been acknowledged, so the process may end anywhere
			}
		}
	}
}

func (m *running) bootOptions(peers bootstrap.Peers) bootstrap.Options {
	c := m.config
	return bootstrap.Options{
		DataDir:    c.Member.DataDir,
		WALDir:     c.Member.WALDir,
		Name:       c.Member.Name,
		Cluster:    Seeds(c.Cluster.Initial),
		Advertised: texts(c.Advertise.Peer),
		Token:      c.Cluster.Token,
		Existing:   c.Cluster.State == "existing",
		SRV:        bootstrap.SRV{Domain: c.Discovery.SRVDomain, Suffix: c.Discovery.SRVName},
		Discovery:  discovery(c.Discovery),
		ForceNew:   c.Unsafe.ForceNewCluster,
		Peers:      peers,
		// etcd gives a request 5 s, and time for an election before and after.
		RequestTimeout: 5*time.Second + 2*c.Raft.ElectionTimeout,
		Store: store.Options{
			NoSync:        c.Unsafe.NoFsync,
			FreelistArray: c.Store.FreelistType == "array",
			Resident:      c.Member.MemoryLock,
			OnCommit:      m.metrics.Committed,
			OnDefragment:  m.metrics.Defragmented,
		},
		Log: wal.Options{NoSync: c.Unsafe.NoFsync, Files: m.in.Files, OnFsync: m.metrics.LogSynced, OnWrite: m.metrics.LogWritten},
		Machine: state.Options{
			Keys:        mvcc.Options{CacheBytes: c.Store.ValueCacheBytes},
			MinLeaseTTL: minLeaseTTL(c.Raft),
			MaxLearners: cmp.Or(c.Cluster.MaxLearners, -1), // 0 is none
		},
		DefragmentFrom: int64(c.Store.DefragAtStartMiB) << 20,
		Logger:         m.log,
		Progress:       m.progress,
	}
}

// admit looks at whose data was opened: a member that was removed has no place
// to come back to.
func (m *running) admit() error {
	if m.opened.Machine.Members().Removed(m.opened.ID) {
		return errors.Join(m.removed(), m.opened.Close())
	}
	start := "restarting local member"
	if m.opened.New {
		start = "starting local member"
	}
	m.log.Info(start, "local-member-id", m.opened.ID.String(), "cluster-id", m.opened.Cluster.String(),
		"name", m.config.Member.Name, "data-dir", m.config.Member.DataDir)
	return nil
}

func discovery(d config.Discovery) bootstrap.Discovery {
	return bootstrap.Discovery{
		Endpoints: d.Endpoints, Token: d.Token,
		DialTimeout: d.DialTimeout, RequestTimeout: d.RequestTimeout,
		KeepAliveTime: d.KeepAliveTime, KeepAliveTimeout: d.KeepAliveTimeout,
		InsecureTransport: d.InsecureTransport, InsecureSkipVerify: d.InsecureSkipVerify,
		CertFile: d.CertFile, KeyFile: d.KeyFile, CAFile: d.CAFile,
		User: d.User, Password: d.Password,
	}
}

// minLeaseTTL is the least lease that outlives an election, in seconds: one and
// a half election timeouts, in whole ticks.
func minLeaseTTL(r config.Raft) int64 {
	ticks := time.Duration(3 * r.ElectionTicks() / 2)
	return int64((ticks*r.HeartbeatInterval + time.Second - 1) / time.Second)
}

// Seeds are the members of an initial cluster, by name.
func Seeds(initial config.InitialCluster) []bootstrap.Seed {
	var all []bootstrap.Seed
	for _, name := range slices.Sorted(maps.Keys(initial.Members)) {
		all = append(all, bootstrap.Seed{Name: name, PeerURLs: texts(initial.Members[name])})
	}
	return all
}

func texts(urls []url.URL) []string {
	all := make([]string, 0, len(urls))
	for _, u := range urls {
		all = append(all, u.String())
	}
	return all
}

// Texts writes URLs as they are told to others.
func Texts(urls []url.URL) []string { return texts(urls) }
