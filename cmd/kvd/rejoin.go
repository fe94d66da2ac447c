package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"kvd/internal/bootstrap"
	"kvd/internal/member"
)

// identity is what is known of the member that is replaced.
type identity struct {
	ID       member.ID // of its log; 0: not known
	Cluster  member.ClusterID
	Name     string
	PeerURLs []string  // that it is configured to be reached at
	Recorded []string  // that the others knew it to be at; none: not known
	Fresh    member.ID // as which an earlier run has added it; 0: none has, or it is not known
}

// livedAt reports whether a member is at this one's place.
func (who *identity) livedAt(m *member.Member) bool {
	return sameURLs(m.PeerURLs, who.PeerURLs) || sameURLs(m.PeerURLs, who.Recorded)
}

func sameURLs(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// cluster is what the other members do. Errors are those of etcd's client.
type cluster interface {
	// members are all of a cluster, as its majority knows them.
	members(ctx context.Context) (member.ClusterID, []member.Member, error)
	remove(ctx context.Context, id member.ID) error
	add(ctx context.Context, peerURLs []string, learner bool) (member.ID, error)
	// disarm ends a member's alarm CORRUPT, if it has one. Corrupt are the
	// members that still have.
	disarm(ctx context.Context, id member.ID) (corrupt []member.ID, err error)
}

// rejoining is one run of the command. Each of its steps looks at what is there,
// so that a run that was cut short can be repeated.
type rejoining struct {
	who     identity
	options rejoinOptions
	cluster cluster
	remains *bootstrap.Remains
	dataDir string
	out     io.Writer
	ask     func() (bool, error)
	now     func() time.Time
}

// plan is what there is to do.
type plan struct {
	old     *member.Member // to be removed; nil: that is done
	fresh   *member.Member // added already; nil: to be added
	learner bool           // to be added as one
	promote bool           // and to get a vote later
}

func (r *rejoining) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func (r *rejoining) run(ctx context.Context) error {
	id, all, err := r.cluster.members(ctx)
	if err != nil {
		return explainRefusal(fmt.Errorf("ask the cluster who is in it: %w", err))
	}
	p, err := r.plan(id, all)
	if err != nil {
		return err
	}
	r.announce(p)
	if r.options.dryRun {
		r.say("Nothing has been done (--dry-run).")
		return nil
	}
	if !r.options.yes {
		if yes, err := r.ask(); err != nil || !yes {
			return errors.Join(errors.New("given up; nothing has been done"), err)
		}
	}
	if err := r.do(ctx, p); err != nil {
		return fmt.Errorf("%w\nit is safe to run the command again", err)
	}
	return nil
}

// plan finds the member among those of the cluster.
func (r *rejoining) plan(id member.ClusterID, all []member.Member) (p plan, err error) {
	if r.who.Cluster != 0 && r.who.Cluster != id {
		return p, fmt.Errorf("the members that were asked are cluster %s, and this one belongs to %s; name others with --endpoints", id, r.who.Cluster)
	}
	for i := range all {
		m := &all[i]
		here := r.who.livedAt(m)
		switch {
		case r.who.ID != 0 && m.ID == r.who.ID:
			p.old = m
		case !m.Started() && (here || m.ID == r.who.Fresh):
			p.fresh = m
		case here && r.who.ID == 0:
			p.old = m // nothing here says who it was, but it lived at this place
		case here:
			return p, fmt.Errorf("the cluster has another member at %s: %s (%s), and the data here is of member %s; is it the right data directory?",
				strings.Join(m.PeerURLs, ", "), m.Name, m.ID, r.who.ID)
		}
	}
	if p.old != nil && len(all) == 1 {
		return p, errors.New("this member is its whole cluster, so there is nobody to fetch the data from; restore it from a snapshot")
	}
	p.learner = !r.options.voter
	p.promote = p.learner
	switch {
	case p.fresh != nil:
		p.learner = p.fresh.Learner
		p.promote = p.learner
	case p.old != nil && p.old.Learner: // it had no vote
		p.learner, p.promote = true, false
	}
	return p, nil
}

// announce says what is going to be done.
func (r *rejoining) announce(p plan) {
	r.say("Member %q of %s, data in %s:", r.who.Name, strings.Join(r.who.PeerURLs, ", "), r.dataDir)
	if p.old != nil {
		r.say("  - remove member %s from the cluster", p.old.ID)
	} else {
		r.say("  - the old member is not in the cluster (any more)")
	}
	switch {
	case p.fresh != nil:
		r.say("  - it has been added again already, as %s", p.fresh.ID)
	case p.learner:
		r.say("  - add it again, as a learner")
	default:
		r.say("  - add it again, as a voter")
	}
	for _, path := range r.remains.Paths {
		if r.options.delete {
			r.say("  - delete %s", path)
		} else {
			r.say("  - set %s aside, as %s%s", path, path, badSuffix+"…")
		}
	}
	r.say("  - leave word for the next start, which fetches the data from the other members")
}

// badSuffix and a date name what is set aside.
const badSuffix = ".bad-"

// do does it. The member is out of the cluster before its data is touched, and
// word for the next start is left before there is a first one.
func (r *rejoining) do(ctx context.Context, p plan) error {
	if err := r.remove(ctx, p); err != nil {
		return err
	}
	id, err := r.add(ctx, p)
	if err != nil {
		return err
	}
	_, all, err := r.cluster.members(ctx)
	if err != nil {
		return fmt.Errorf("ask the cluster who is in it: %w", err)
	}
	note := r.note(id, all, p.promote)
	if err := note.Write(r.dataDir); err != nil {
		return err
	}
	if err := r.clear(); err != nil {
		return err
	}
	r.say("Done. Start kvd now (systemctl start kvd): it joins as %s and fetches the data.", id)
	if p.promote {
		r.say("It gets its vote as soon as it has the data; 'kvctl member list' shows it.")
	}
	return nil
}

// remove takes the old member out of the cluster, and the alarm that its data
// had raised.
func (r *rejoining) remove(ctx context.Context, p plan) error {
	old := r.who.ID
	if p.old != nil {
		old = p.old.ID
		err := r.insist(ctx, func() error { return r.cluster.remove(ctx, old) })
		if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			return explainRefusal(fmt.Errorf("remove member %s: %w", old, err))
		}
		r.say("Removed member %s.", old)
	}
	if old == 0 {
		return nil
	}
	corrupt, err := r.cluster.disarm(ctx, old)
	if err != nil {
		r.say("Could not look after its alarm (%v); see 'kvctl alarm list'.", err)
		return nil
	}
	if len(corrupt) > 0 {
		r.say("The cluster still has the alarm CORRUPT (member %v; 0 is all of it) and refuses requests; when no bad member is left, run 'kvctl alarm disarm'.", corrupt)
	}
	return nil
}

// add adds the member again, unless an earlier run has.
func (r *rejoining) add(ctx context.Context, p plan) (id member.ID, err error) {
	if p.fresh != nil {
		return p.fresh.ID, nil
	}
	urls := r.who.PeerURLs
	switch { // where the others have reached it
	case p.old != nil && len(p.old.PeerURLs) > 0:
		urls = p.old.PeerURLs
	case len(r.who.Recorded) > 0:
		urls = r.who.Recorded
	}
	err = r.insist(ctx, func() (err error) {
		id, err = r.cluster.add(ctx, urls, p.learner)
		return err
	})
	if err != nil {
		return 0, explainRefusal(fmt.Errorf("add the member again: %w", err))
	}
	r.say("Added it again, as member %s.", id)
	return id, nil
}

// insist repeats what the cluster refuses for the moment: it wants its members
// to have been connected for some seconds.
func (r *rejoining) insist(ctx context.Context, try func() error) error {
	until := r.now().Add(r.options.patience)
	for {
		err := try()
		if !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) || r.now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// note is the word for the next start.
func (r *rejoining) note(id member.ID, all []member.Member, promote bool) *bootstrap.Rejoin {
	note := &bootstrap.Rejoin{Member: id, Name: r.who.Name, Promote: promote}
	taken := map[string]bool{r.who.Name: true}
	for _, m := range all {
		name := m.Name
		switch {
		case m.ID == id:
			name = r.who.Name
		case name == "" || taken[name]: // names need not differ, but the note's must
			name = m.ID.String()
		}
		taken[name] = true
		note.Cluster = append(note.Cluster, bootstrap.Seed{Name: name, PeerURLs: m.PeerURLs})
	}
	return note
}

// clear takes the old data out of the way.
func (r *rejoining) clear() error {
	aside, err := r.remains.SetAside(badSuffix + r.now().UTC().Format("20060102T150405Z"))
	if err != nil {
		return err
	}
	for _, path := range aside {
		if !r.options.delete {
			r.say("The old data is in %s; delete it when nobody wants to look into it any more.", path)
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("delete the old data: %w", err)
		}
		r.say("The old data is deleted.")
	}
	return nil
}

// explainRefusal adds what the operator can do.
func explainRefusal(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return fmt.Errorf("%w; promote or remove the other learner first, or add this member with --voter", err)
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return fmt.Errorf("%w; the change could cost the cluster its majority: see that the other members run, and try again", err)
	case errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w; log in as root with --user", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout):
		return fmt.Errorf("%w; the other members do not answer, or have no majority without this one; if it is lost, restore the cluster from a snapshot", err)
	}
	return err
}

// otherEndpoints are the client URLs of the others, as the member last knew them.
func otherEndpoints(members []member.Member, who identity) (urls []string) {
	for _, m := range members {
		if m.ID != who.ID && !who.livedAt(&m) {
			urls = append(urls, m.ClientURLs...)
		}
	}
	return urls
}
