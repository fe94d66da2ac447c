package upkeep

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/membershippb"

	"kvd/internal/member"
	"kvd/internal/state"
)

const (
	// lookInterval is how soon a member notices that it has begun to lead.
	lookInterval = 100 * time.Millisecond
	// retryInterval replaces VersionInterval while the cluster has no version
	// yet but the least: some member is about to start.
	retryInterval = 500 * time.Millisecond
)

// least is the version of a cluster that does not know all its members'.
var least = member.Version{Major: 3}

// versions keeps the cluster's version, while this member leads.
func (u *Upkeep) versions(ctx context.Context) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	var led uint64
	var next time.Time
	for {
		now := false
		select {
		case <-ctx.Done():
			return
		case <-u.nudged:
			now = true
		case <-look.C:
		}
		term := u.leading()
		if term == 0 {
			led = 0
			continue
		}
		if term == led && !now && time.Now().Before(next) {
			continue
		}
		led = term
		u.agreeOnVersion(ctx)
		wait := u.o.VersionInterval
		if u.member.View().Members.ClusterVersion().Compare(least) <= 0 {
			wait = min(wait, retryInterval)
		}
		next = time.Now().Add(wait)
	}
}

// agreeOnVersion sets the cluster's version if it should be another.
func (u *Upkeep) agreeOnVersion(ctx context.Context) {
	v := u.member.View()
	cluster := v.Members.ClusterVersion()
	lowest := u.lowest(u.serverVersions(ctx, v))
	to, err := decide(cluster, lowest, v.Members.Downgrade())
	switch {
	case err != nil:
		u.said.now("downgrade", err.Error(), func() { u.log.Error("the cluster version stays", "error", err) })
		return
	case !to.Known():
		return
	}
	u.said.now("downgrade", "", nil)
	if !cluster.Known() {
		u.log.Info("setting up initial cluster version using v3 API", "cluster-version", line(to))
	} else {
		u.log.Info("updating cluster version using v3 API", "from", line(cluster), "to", line(to))
	}
	set := &state.Request{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: to.String()}}
	if err := u.propose(ctx, set); err != nil && ctx.Err() == nil {
		u.log.Warn("the cluster version is not set; trying again", "cluster-version", line(to), "error", err)
	}
	wake(u.changed)
}

// decide says which version the cluster should go to; the zero Version: it
// stays. Lowest is the oldest program of all members, zero if one is not known.
func decide(cluster, lowest member.Version, job member.Downgrade) (to member.Version, err error) {
	lowest = lowest.Line()
	switch {
	case !cluster.Known() && lowest.Known():
		return lowest, nil
	case !cluster.Known():
		return least, nil
	case !lowest.Known():
		return to, nil
	case job.Enabled:
		return decideDowngrade(cluster.Line(), lowest, job.Target)
	case lowest.Major == cluster.Major && lowest.Minor > cluster.Minor:
		return lowest, nil
	}
	return to, nil
}

// decideDowngrade goes to the target if that is one step for all.
func decideDowngrade(cluster, lowest member.Version, text string) (to member.Version, err error) {
	target, err := member.ParseVersion(text)
	if err != nil {
		return to, fmt.Errorf("the downgrade's target cannot be read: %w", err)
	}
	target = target.Line()
	switch {
	case target == cluster:
		return to, nil
	case target.Major != cluster.Major || target.Minor+1 != cluster.Minor:
		return to, fmt.Errorf("invalid downgrade target %s: the cluster version is %s", line(target), line(cluster))
	case target.Major != lowest.Major || target.Minor+1 != lowest.Minor:
		return to, fmt.Errorf("invalid downgrade target %s: the oldest member runs %s", line(target), line(lowest))
	}
	return target, nil
}

// server is what a member says it runs.
type server struct {
	id      member.ID
	text    string
	version member.Version // zero: not known
	err     error          // why
}

// serverVersions asks every member what it runs, this one included.
func (u *Upkeep) serverVersions(ctx context.Context, v *state.View) []server {
	ctx, cancel := context.WithTimeout(ctx, u.o.AskTimeout)
	defer cancel()
	return each(v.Members.Members(), func(m member.Member) server {
		s := server{id: m.ID, text: u.o.Version}
		if m.ID != u.id {
			s.text, s.err = u.others.Version(ctx, m)
		}
		if s.err == nil {
			s.version, s.err = parseServer(s.text)
		}
		return s
	})
}

// lowest is the oldest version, and zero if not all are known. It says who
// does not answer, and who runs what this member is too old for.
func (u *Upkeep) lowest(servers []server) (lowest member.Version) {
	known := true
	own, _ := parseServer(u.o.Version)
	for _, s := range servers {
		switch {
		case s.err != nil:
			known = false
			u.said.now(s.id.String(), "unknown", func() {
				u.log.Warn("failed to get the version of a member", "remote-member-id", s.id.String(), "error", s.err)
			})
			continue
		case own.Line().Compare(s.version.Line()) < 0:
			u.said.now(s.id.String(), s.text, func() {
				u.log.Warn("leader found higher-versioned member", "local-member-version", u.o.Version,
					"remote-member-id", s.id.String(), "remote-member-version", s.text)
			})
		default:
			u.said.now(s.id.String(), "", nil)
		}
		if !lowest.Known() || s.version.Compare(lowest) < 0 {
			lowest = s.version
		}
	}
	if !known {
		return member.Version{}
	}
	return lowest
}

// downgrades ends a downgrade that every member has made, while this one leads.
func (u *Upkeep) downgrades(ctx context.Context) {
	for pause(ctx, u.o.DowngradeCheck) {
		v := u.member.View()
		job := v.Members.Downgrade()
		if u.leading() == 0 || !job.Enabled {
			continue
		}
		target, err := member.ParseVersion(job.Target)
		if err != nil || !allRun(target.Line(), u.serverVersions(ctx, v)) {
			continue
		}
		u.log.Info("the cluster has been downgraded", "cluster-version", job.Target)
		end := &state.Request{DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{}}
		if err := u.propose(ctx, end); err != nil && ctx.Err() == nil {
			u.log.Warn("failed to cancel downgrade; trying again", "error", err)
		}
	}
}

// allRun reports whether every member runs a program of this line.
func allRun(target member.Version, servers []server) bool {
	for _, s := range servers {
		if s.err != nil || s.version.Line() != target {
			return false
		}
	}
	return len(servers) > 0
}

// parseServer reads a program's version, whose patch may have a suffix, as in
// 3.8.0-alpha.1.
func parseServer(text string) (member.Version, error) {
	if at := strings.IndexAny(text, "-+"); at >= 0 {
		text = text[:at]
	}
	v, err := member.ParseVersion(text)
	if err == nil && !v.Known() {
		err = fmt.Errorf("version %q is none", text)
	}
	return v, err
}

// line is the version without its patch, as etcd's log has it.
func line(v member.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// said keeps what is looked at every few seconds from being logged as often.
type said map[string]string

// now runs say if what there is to say about the subject has changed; with an
// empty text there is nothing.
func (s said) now(subject, text string, say func()) {
	if s[subject] == text {
		return
	}
	if text == "" {
		delete(s, subject)
		return
	}
	s[subject] = text
	say()
}
