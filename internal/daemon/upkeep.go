package daemon

import (
	"context"
	"errors"
	"log/slog"

	"go.etcd.io/etcd/api/v3/version"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/replica"
	"kvd/internal/upkeep"
)

// newUpkeep makes the upkeep of the member.
func (m *running) newUpkeep(others upkeep.Others) (*upkeep.Upkeep, error) {
	c := m.config
	o := upkeep.Options{
		Version:        version.Version,
		DowngradeCheck: c.Checks.DowngradeInterval,
		CorruptCheck:   c.Checks.CorruptInterval,

		QuotaBytes:        c.Store.QuotaBytes,
		ManualDisarm:      !c.Store.AutoDisarm,
		DefragFreePercent: int(c.Store.DefragFreePercent),
		DefragFreeBytes:   c.Store.DefragFreeBytes,
		DefragInterval:    c.Store.DefragInterval,
	}
	if c.Gates.On(config.CompactHashCheck) {
		o.CompactHashCheck = c.Checks.CompactHashInterval
	}
	p := upkeep.Parts{
		Member: m.replica, Others: others, ID: m.opened.ID,
		Corrupt: m.sayCorrupt, Log: m.log, Registry: m.registry,
		Space: m.space, Filled: m.sayFilled, Room: m.copyRoom, Defragment: m.services.Defragment,
	}
	note, err := bootstrap.ReadRejoin(c.Member.DataDir)
	if err == nil && note != nil && note.Member == m.opened.ID {
		p.Joined = m.rejoined
		if note.Promote {
			p.Promote = m.promoteSelf
		}
	}
	return upkeep.New(o, p)
}

// rejoined ends what 'kvd member rejoin' has begun.
func (m *running) rejoined() {
	if err := bootstrap.ForgetRejoin(m.config.Member.DataDir); err != nil {
		m.log.Warn("the note of 'kvd member rejoin' stays in the data directory; remove it", "error", err)
	}
}

// promoteSelf asks the leader for this member's vote.
func (m *running) promoteSelf(ctx context.Context) error {
	leader, ok := m.replica.View().Members.Member(member.ID(m.replica.Status().Leader))
	if !ok {
		return errors.New("the leader's place is not known")
	}
	_, err := m.transport.Client().Promote(ctx, leader.PeerURLs, m.opened.ID, "")
	return err
}

// sayCorrupt tells the operator when this member is found corrupt, and when the
// alarm is gone.
func (m *running) sayCorrupt(alarmed []member.ID) {
	mine := upkeep.Concerns(alarmed, m.opened.ID)
	was := m.corrupt.Swap(mine)
	switch {
	case mine && !was:
		m.log.LogAttrs(context.Background(), slog.LevelError,
			"the data of this member is not what the other members hold, and the cluster refuses requests; replace it with 'kvd member rejoin', which also ends its alarm",
			message(messageCorrupt), slog.String("local-member-id", m.opened.ID.String()), slog.Any("alarmed-members", alarmed))
	case was && !mine:
		m.log.Info("this member is not alarmed as corrupt any more", "local-member-id", m.opened.ID.String())
	case len(alarmed) > 0 && !mine:
		m.log.Error("another member's data is corrupt, and the cluster refuses requests", message(messageOther), slog.Any("alarmed-members", alarmed))
	}
}

// checkStart compares the member that was opened with those that run, unless
// that is switched off.
func (m *running) checkStart(ctx context.Context, others upkeep.Others) error {
	if !m.config.Gates.On(config.InitialCorruptCheck) || m.opened.New {
		return nil
	}
	return upkeep.CheckStart(ctx, upkeep.Start{
		ID: m.opened.ID, View: m.opened.Machine.View(), Others: others, Log: m.log, Progress: m.progress,
	})
}

// others reach the other members.
func (m *running) others() upkeep.Others {
	return others{m.transport.Client(), m.opened.Cluster}
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

// ExitUnfit is the status of a process whose member must be replaced: another
// start with the same data would end in the same way.
const ExitUnfit = 65

// Unfit reports whether that is why a member ended.
func Unfit(err error) bool {
	return errors.Is(err, replica.ErrLogRegressed) || errors.Is(err, upkeep.ErrCorrupt)
}
