package daemon

import (
	"context"
	"errors"
	"log/slog"

	"kvd/internal/config"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/upkeep"
)

// newUpkeep makes what this member does for its cluster unasked.
func (m *running) newUpkeep() (err error) {
	c := m.config
	o := upkeep.Options{
		Version:        etcdVersion,
		DowngradeCheck: c.Checks.DowngradeInterval,
		CorruptCheck:   c.Checks.CorruptInterval,
		RequestTimeout: requestTimeout(c.Raft),
	}
	if c.Gates.On(config.CompactHashCheck) {
		o.CompactHashCheck = c.Checks.CompactHashInterval
	}
	m.upkeep, err = upkeep.New(o, upkeep.Parts{
		Member: m.replica, Others: others{m.transport.Client(), m.opened.Cluster}, ID: m.opened.ID,
		Corrupt: m.corrupt, Log: m.log, Registry: m.registry,
	})
	return err
}

// compare compares the data of a member that starts again with that of those
// that run, before it takes part.
func (m *running) compare(ctx context.Context) error {
	if m.opened.New || !m.config.Gates.On(config.InitialCorruptCheck) {
		return nil
	}
	err := upkeep.CheckStart(ctx, upkeep.Start{
		ID: m.opened.ID, View: m.replica.View(), Others: others{m.transport.Client(), m.opened.Cluster},
		Log: m.log, Progress: m.progress,
	})
	if err != nil {
		m.log.LogAttrs(ctx, slog.LevelError, "this member does not start: its data is not that of the cluster", message(messageCorrupt), slog.Any("error", err))
	}
	return err
}

// corrupt is told which members are alarmed as corrupt.
func (m *running) corrupt(members []member.ID) {
	ctx := context.Background()
	for _, id := range members {
		switch id {
		case m.opened.ID:
			m.log.LogAttrs(ctx, slog.LevelError, "this member's data differs from that of the others; it serves no more keys: run 'kvd member rejoin' on this host",
				message(messageCorrupt), slog.String("member-id", id.String()))
		default:
			m.log.LogAttrs(ctx, slog.LevelError, "a member's data differs from that of the others; no keys are served before the alarm is disarmed",
				message(messageCorrupt), slog.String("member-id", id.String()))
		}
	}
}

// others asks other members for upkeep.
type others struct {
	client  *peer.Client
	cluster member.ClusterID
}

// Version implements upkeep.Others.
func (o others) Version(ctx context.Context, of member.Member) (string, error) {
	var errs []error
	for _, url := range of.PeerURLs {
		v, err := o.client.Versions(ctx, url)
		if err == nil {
			return v.Server, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// HashKV implements upkeep.Others.
func (o others) HashKV(ctx context.Context, of member.Member, rev int64) (upkeep.Hash, error) {
	h, err := o.client.HashKV(ctx, of.PeerURLs, o.cluster, rev)
	return upkeep.Hash(h), err
}
