package bootstrap

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// birth is what a new member begins with.
type birth struct {
	cluster member.ClusterID
	self    member.ID
	changes []*raftpb.ConfChange // of a new cluster: one addition each, by ID
	remotes []member.Member      // of a cluster that is joined: who is there
}

// birth works out who this member is to be, and asks whom it must ask for that.
// It writes nothing.
func (o *Options) birth(ctx context.Context) (*birth, error) {
	switch {
	case len(o.Discovery.Endpoints) > 0 && o.Existing:
		return nil, fmt.Errorf("%w: discovery URL should not be set when joining existing initial cluster", ErrCluster)
	case len(o.Discovery.Endpoints) > 0:
		return o.discover(ctx)
	}
	seeds := o.Cluster
	if o.SRV.Domain != "" {
		var err error
		if seeds, err = o.lookUpSeeds(ctx); err != nil {
			return nil, fmt.Errorf("error setting up initial cluster: %w", err)
		}
	}
	if o.Existing {
		return o.join(ctx, seeds)
	}
	return o.begin(ctx, seeds)
}

// begin makes a new cluster of the seeds, unless this member has begun it
// before and lost its data since.
func (o *Options) begin(ctx context.Context, seeds []Seed) (*birth, error) {
	own, err := o.ownSeed(seeds)
	if err != nil {
		return nil, err
	}
	if err := o.agree(ctx, own.PeerURLs); err != nil {
		return nil, err
	}
	if err := distinct("initial cluster", seeds); err != nil {
		return nil, err
	}
	born, err := o.founders(seeds, o.Token)
	if err != nil {
		return nil, err
	}
	return born, o.refuseSecondBirth(ctx, seeds, born.self)
}

// ownSeed is this member among the seeds.
func (o *Options) ownSeed(seeds []Seed) (Seed, error) {
	at := slices.IndexFunc(seeds, func(s Seed) bool { return s.Name == o.Name })
	if at < 0 || len(seeds[at].PeerURLs) == 0 {
		return Seed{}, fmt.Errorf("%w: couldn't find local name %q in the initial cluster configuration", ErrCluster, o.Name)
	}
	return seeds[at], nil
}

// founders are the first members of a cluster: this one among them.
func (o *Options) founders(seeds []Seed, token string) (*birth, error) {
	members := make([]member.Member, 0, len(seeds))
	ids := make([]member.ID, 0, len(seeds))
	born := &birth{}
	for _, s := range seeds {
		id := member.NewID(s.PeerURLs, token)
		if id == 0 {
			return nil, fmt.Errorf("%w: cannot use 0 as member id, and %s would have it; choose another initial-cluster-token", ErrCluster, pairs(s))
		}
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("%w: member exists with identical ID %s: %s", ErrCluster, id, pairs(s))
		}
		if s.Name == o.Name {
			born.self = id
		}
		members = append(members, member.Member{ID: id, PeerURLs: sorted(s.PeerURLs), Name: s.Name})
		ids = append(ids, id)
	}
	born.cluster = member.ClusterIDOf(ids)
	slices.SortFunc(members, func(a, b member.Member) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range members {
		born.changes = append(born.changes, member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}.Entry(0))
	}
	return born, nil
}

// distinct makes sure that no two members are at one place.
func distinct(what string, seeds []Seed) error {
	seen := map[string]string{}
	for _, s := range seeds {
		if len(s.PeerURLs) == 0 {
			return fmt.Errorf("%w: member %q has no peer URL", ErrCluster, s.Name)
		}
		for _, u := range s.PeerURLs {
			if other, ok := seen[u]; ok {
				return fmt.Errorf("%w: %s %s has duplicate url: %s is that of %q and of %q", ErrCluster, what, pairs(seeds...), u, other, s.Name)
			}
			seen[u] = s.Name
		}
	}
	return nil
}

// pairs writes members as the option does: name=URL, separated by commas.
func pairs(seeds ...Seed) string {
	var all []string
	for _, s := range seeds {
		for _, u := range s.PeerURLs {
			all = append(all, s.Name+"="+u)
		}
	}
	return strings.Join(all, ",")
}
