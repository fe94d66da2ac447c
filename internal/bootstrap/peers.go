package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kvd/internal/member"
	"kvd/internal/peer"
)

// How long a member that is asked may take.
const (
	probeTimeout   = time.Second      // whether this one is a member already
	membersTimeout = 10 * time.Second // for the members of a cluster that is joined
	requestTimeout = 7 * time.Second  // for its version, unless the options say otherwise
)

// Peers asks other members, each at one of its peer URLs; *peer.Client is one. Its methods end with
// ctx and may be called from several goroutines.
type Peers interface {
	Members(ctx context.Context, url string) (member.ClusterID, []member.Member, error)
	// Versions are in that member's words: a cluster's may be "not_decided".
	Versions(ctx context.Context, url string) (peer.Versions, error)
	DowngradeEnabled(ctx context.Context, url string) (bool, error)
}

// nobody are the peers of a member that can reach none.
type nobody struct{}

var errNobody = errors.New("this member has no way to its peers")

func (nobody) Members(context.Context, string) (member.ClusterID, []member.Member, error) {
	return 0, nil, errNobody
}

func (nobody) Versions(context.Context, string) (peer.Versions, error) {
	return peer.Versions{}, errNobody
}

func (nobody) DowngradeEnabled(context.Context, string) (bool, error) { return false, errNobody }

// otherURLs are where the others are, sorted.
func (o *Options) otherURLs(seeds []Seed) []string {
	var all []string
	for _, s := range seeds {
		if s.Name != o.Name {
			all = append(all, s.PeerURLs...)
		}
	}
	slices.Sort(all)
	return all
}

// refuseSecondBirth asks the others whether they know this member as one that
// has run. It would otherwise vote a second time on what it has forgotten. That
// nobody answers is how most clusters begin.
func (o *Options) refuseSecondBirth(ctx context.Context, seeds []Seed, self member.ID) error {
	urls := o.otherURLs(seeds)
	if len(urls) == 0 {
		return nil
	}
	o.Progress("asking the other members whether this one is new")
	known := make([]bool, len(urls))
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for i, u := range urls {
		asking.Go(func() {
			_, members, err := o.Peers.Members(limited, u)
			known[i] = err == nil && slices.ContainsFunc(members, func(m member.Member) bool {
				return m.ID == self && len(m.ClientURLs) > 0
			})
		})
	}
	asking.Wait()
	if at := slices.Index(known, true); at >= 0 {
		return fmt.Errorf("%w: member %s has already been bootstrapped: %s knows it; put its data directory back, or remove it from the cluster and add it again (member remove, member add, initial-cluster-state=existing)",
			ErrCluster, self, urls[at])
	}
	return ctx.Err()
}

// cluster asks one member after the other for the members of their cluster. The
// first answer that can be used counts.
func (o *Options) cluster(ctx context.Context, urls []string, limit time.Duration) (member.ClusterID, []member.Member, error) {
	for _, u := range urls {
		o.Progress("asking " + u + " for the members")
		limited, cancel := context.WithTimeout(ctx, limit)
		id, members, err := o.Peers.Members(limited, u)
		cancel()
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		if err != nil {
			o.Logger.Warn("failed to get cluster response", "address", u+"/members", "error", err)
			continue
		}
		if len(members) == 0 {
			return 0, nil, errors.New("failed to get raft cluster member(s) from the given URLs")
		}
		return id, members, nil
	}
	return 0, nil, errors.New("could not retrieve cluster information from the given URLs")
}
