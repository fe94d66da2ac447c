package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"kvd/internal/member"
	"kvd/internal/state"
)

// oldestCluster is the oldest cluster version that a member may join.
var oldestCluster = member.Version{Major: 3}

// join finds this member among those of a cluster that runs. Its log will have
// nothing: it learns its cluster from the leader, who contacts it.
func (o *Options) join(ctx context.Context, seeds []Seed) (*birth, error) {
	own, err := o.ownSeed(seeds)
	if err != nil {
		return nil, err
	}
	if err := distinct("initial cluster", seeds); err != nil {
		return nil, err
	}
	cluster, members, err := o.cluster(ctx, o.otherURLs(seeds), membersTimeout)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	slices.SortFunc(members, func(a, b member.Member) int { return slices.Compare(sorted(a.PeerURLs), sorted(b.PeerURLs)) })
	matched, err := o.match(ctx, members, seeds)
	if err != nil {
		return nil, fmt.Errorf("error validating peerURLs %s: %w", brief(members), err)
	}
	if err := o.compatible(ctx, seeds); err != nil {
		return nil, err
	}
	if err := o.tooManyLearners(members); err != nil {
		return nil, err
	}
	return &birth{cluster: cluster, self: matched[own.Name], remotes: members}, nil
}

// match finds for every member the seed that it is, by its peer URLs, and
// returns the seeds' IDs by name. Names are resolved only for those whose texts
// do not say it.
func (o *Options) match(ctx context.Context, members []member.Member, seeds []Seed) (map[string]member.ID, error) {
	if len(members) != len(seeds) {
		return nil, fmt.Errorf("member count is unequal: the cluster has %d members and initial-cluster %d", len(members), len(seeds))
	}
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	ids := map[string]member.ID{}
	var open []member.Member
	for _, m := range members {
		at := slices.IndexFunc(seeds, func(s Seed) bool { return slices.Equal(sorted(s.PeerURLs), sorted(m.PeerURLs)) })
		if at < 0 {
			open = append(open, m)
			continue
		}
		ids[seeds[at].Name] = m.ID
	}
	for _, m := range open {
		var last error
		found := false
		for _, s := range seeds {
			if _, taken := ids[s.Name]; taken {
				continue
			}
			if last = o.differ(ctx, m.PeerURLs, s.PeerURLs); last == nil {
				ids[s.Name], found = m.ID, true
				break
			}
		}
		if !found {
			return nil, fmt.Errorf("PeerURLs: no match found for existing member (%s, %v), last resolver error (%w)", m.ID, m.PeerURLs, last)
		}
	}
	return ids, nil
}

// compatible makes sure that this version may be part of the cluster: at least
// one member knows the cluster's version and none knows one that does not fit.
// A cluster on its way back by one minor version takes the older version in.
func (o *Options) compatible(ctx context.Context, seeds []Seed) error {
	others := slices.DeleteFunc(slices.Clone(seeds), func(s Seed) bool { return s.Name == o.Name })
	o.Progress("asking the members for the version of the cluster")
	versions := make([]string, len(others))
	var asking sync.WaitGroup
	for i, s := range others {
		asking.Go(func() { versions[i] = o.clusterVersion(ctx, s) })
	}
	least, most := oldestCluster, state.ClusterVersion
	if o.downgrading(ctx, others) {
		most.Minor++
		least = most
	}
	asking.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	const incompatible = "incompatible with current running cluster"
	fitting := 0
	for i, text := range versions {
		v, err := member.ParseVersion(text)
		switch {
		case text == "": // it did not answer
		case err != nil:
			o.Logger.Warn("failed to parse cluster version of remote member",
				"remote-member-name", others[i].Name, "remote-member-cluster-version", text, "error", err)
		case v.Compare(least) < 0 || v.Compare(most) > 0:
			return fmt.Errorf("%s: %s is part of one of version %s, and this member fits into %s to %s", incompatible, others[i].Name, v, least, most)
		default:
			fitting++
		}
	}
	if fitting == 0 {
		return errors.New(incompatible + ": no member tells the version of the cluster")
	}
	return nil
}

// clusterVersion is the cluster's version in the words of one member; "" if it
// says nothing.
func (o *Options) clusterVersion(ctx context.Context, s Seed) string {
	for _, u := range s.PeerURLs {
		limited, cancel := context.WithTimeout(ctx, o.RequestTimeout)
		v, err := o.Peers.Versions(limited, u)
		cancel()
		if err == nil {
			return v.Cluster
		}
		o.Logger.Warn("failed to get version", "remote-member-name", s.Name, "address", u+"/version", "error", err)
	}
	return ""
}

// downgrading asks until one member says whether the cluster is on its way to
// an older version.
func (o *Options) downgrading(ctx context.Context, others []Seed) bool {
	for _, s := range others {
		for _, u := range s.PeerURLs {
			limited, cancel := context.WithTimeout(ctx, o.RequestTimeout)
			enabled, err := o.Peers.DowngradeEnabled(limited, u)
			cancel()
			if err == nil {
				return enabled
			}
			o.Logger.Warn("failed to get downgrade enabled status", "remote-member-name", s.Name, "address", u+"/downgrade/enabled", "error", err)
		}
	}
	return false
}

// tooManyLearners refuses what raising the limit would allow. All members must
// have the same one.
func (o *Options) tooManyLearners(members []member.Member) error {
	limit := max(cmp.Or(o.Machine.MaxLearners, 1), 0) // as the machine reads it
	n := 0
	for _, m := range members {
		if m.Learner {
			n++
		}
	}
	if n > limit {
		return fmt.Errorf("%w: there are %d, and max-learners is %d", member.ErrTooManyLearners, n, limit)
	}
	return nil
}

// brief names members by ID and URLs.
func brief(members []member.Member) string {
	all := make([]string, 0, len(members))
	for _, m := range members {
		all = append(all, fmt.Sprintf("%s=%s", m.ID, strings.Join(m.PeerURLs, "+")))
	}
	return "[" + strings.Join(all, " ") + "]"
}
