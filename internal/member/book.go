package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
)

// What a change is refused for.
var (
	ErrRemoved         = errors.New("membership: ID removed")
	ErrExists          = errors.New("membership: ID exists")
	ErrNotFound        = errors.New("membership: ID not found")
	ErrURLExists       = errors.New("membership: peerURL exists")
	ErrNotLearner      = errors.New("membership: can only promote a learner member")
	ErrTooManyLearners = errors.New("membership: too many learner members in cluster")
)

// Rows beside the members' own.
const (
	versionKey   = "clusterVersion" // bucket cluster
	downgradeKey = "downgrade"      // bucket cluster
	confStateKey = "confState"      // bucket meta
	removedValue = "removed"
)

// Book holds the members, the cluster version and the downgrade.
type Book struct {
	now *facts // replaced by each change, never changed
}

// facts are the members at one moment.
type facts struct {
	members   []Member // by ID
	removed   []ID     // ascending; no ID is used twice
	version   Version
	downgrade Downgrade
}

// Load reads the book. An empty store is a cluster that is about to begin.
func Load(r store.Reader) (*Book, error) {
	f := &facts{}
	var err error
	r.Scan(store.Members, nil, nil, func(key, value []byte) bool {
		var m Member
		if m, err = parseRow(key, value); err == nil {
			f.members = append(f.members, m)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	r.Scan(store.MembersRemoved, nil, nil, func(key, _ []byte) bool {
		var id ID
		if id, err = ParseID(string(key)); err == nil {
			f.removed = append(f.removed, id)
		}
		return err == nil
	})
	if err != nil {
		return nil, fmt.Errorf("load removed members: %w", err)
	}
	if v := r.Value(store.Cluster, []byte(versionKey)); v != nil {
		if f.version, err = ParseVersion(string(v)); err != nil {
			return nil, fmt.Errorf("load cluster version: %w", err)
		}
	}
	if v := r.Value(store.Cluster, []byte(downgradeKey)); v != nil {
		if err := json.Unmarshal(v, &f.downgrade); err != nil {
			return nil, fmt.Errorf("load downgrade: %w", err)
		}
	}
	slices.SortFunc(f.members, func(a, b Member) int { return byID(a, b.ID) }) // rows are in the order of the text
	slices.Sort(f.removed)
	return &Book{now: f}, nil
}

// parseRow reads a member's row. The key says who it is, whatever the value.
func parseRow(key, value []byte) (Member, error) {
	id, err := ParseID(string(key))
	if err != nil {
		return Member{}, fmt.Errorf("load members: %w", err)
	}
	m := Member{ID: id}
	if err := json.Unmarshal(value, &m); err != nil {
		return Member{}, fmt.Errorf("load member %s: %w", id, err)
	}
	if m.ID != id {
		return Member{}, fmt.Errorf("load member %s: the row is about %s", id, m.ID)
	}
	return m, nil
}

// View is the book as it is now. It costs the same for any number of members.
func (b *Book) View() View { return View{b.now} }

// Validate reports why a change must not be applied, if so. Every member must
// come to the same result at the same entry, so maxLearners has to be the same
// everywhere.
func (b *Book) Validate(c Change, maxLearners int) error {
	if err := b.now.validate(c, maxLearners); err != nil {
		return fmt.Errorf("change member %s: %w", c.ID, err)
	}
	return nil
}

func (f *facts) validate(c Change, maxLearners int) error {
	if _, gone := slices.BinarySearch(f.removed, c.ID); gone {
		return ErrRemoved
	}
	m, known := f.member(c.ID)
	switch {
	case c.Promote:
		if !known {
			return ErrNotFound
		}
		if !m.Learner {
			return ErrNotLearner
		}
	case c.Type == raftpb.ConfChangeAddNode || c.Type == raftpb.ConfChangeAddLearnerNode:
		if known {
			return ErrExists
		}
		if f.urlTaken(c) {
			return ErrURLExists
		}
		if c.Type == raftpb.ConfChangeAddLearnerNode && c.Member.Learner && f.learners() >= maxLearners {
			return ErrTooManyLearners
		}
	default:
		if !known {
			return ErrNotFound
		}
		if c.Type == raftpb.ConfChangeUpdateNode && f.urlTaken(c) {
			return ErrURLExists
		}
		if c.Type == raftpb.ConfChangeRemoveNode && !m.Learner && len(f.members)-f.learners() == 1 {
			return fmt.Errorf("it is the last voter: %w", ErrNotEnoughStarted) // raft would end every member, at each start
		}
	}
	return nil
}

// urlTaken reports whether a member other than the changed one has one of its
// peer URLs, letter for letter.
func (f *facts) urlTaken(c Change) bool {
	for _, m := range f.members {
		if m.ID == c.ID {
			continue
		}
		for _, url := range c.Member.PeerURLs {
			if slices.Contains(m.PeerURLs, url) {
				return true
			}
		}
	}
	return false
}

func (f *facts) learners() (n int) {
	for _, m := range f.members {
		if m.Learner {
			n++
		}
	}
	return n
}

func (f *facts) member(id ID) (Member, bool) {
	at, ok := slices.BinarySearchFunc(f.members, id, byID)
	if !ok {
		return Member{}, false
	}
	return f.members[at], true
}

// Apply makes a change that Validate has let pass.
func (b *Book) Apply(c Change, rows *store.Batch) {
	m, known := b.now.member(c.ID)
	switch {
	case c.Type == raftpb.ConfChangeRemoveNode:
		b.remove(c.ID, rows)
	case c.Promote:
		if !known {
			return
		}
		m.Learner = false
		b.put(m, rows)
	case c.Type == raftpb.ConfChangeUpdateNode:
		if !known {
			return
		}
		m.PeerURLs = c.Member.PeerURLs
		b.put(m, rows)
	default:
		b.put(c.Member, rows)
	}
	rows.Put(store.Meta, []byte(confStateKey), mustJSON(confStateRow{
		Voters: b.ConfState().Voters, Learners: b.ConfState().Learners,
	}))
}

// confStateRow is the JSON that etcd gives a raftpb.ConfState in bucket meta.
// Nobody reads it at a start: the members say the same.
type confStateRow struct {
	Voters    []uint64 `json:"voters,omitempty"`
	Learners  []uint64 `json:"learners,omitempty"`
	AutoLeave bool     `json:"auto_leave"`
}

func (b *Book) put(m Member, rows *store.Batch) {
	f := *b.now
	at, known := slices.BinarySearchFunc(f.members, m.ID, byID)
	f.members = slices.Clone(f.members)
	if known {
		f.members[at] = m
	} else {
		f.members = slices.Insert(f.members, at, m)
	}
	b.now = &f
	rows.Put(store.Members, []byte(m.ID.String()), mustJSON(m))
}

func (b *Book) remove(id ID, rows *store.Batch) {
	f := *b.now
	f.members = slices.DeleteFunc(slices.Clone(f.members), func(m Member) bool { return m.ID == id })
	if at, gone := slices.BinarySearch(f.removed, id); !gone {
		f.removed = slices.Insert(slices.Clone(f.removed), at, id)
	}
	b.now = &f
	rows.Delete(store.Members, []byte(id.String()))
	rows.Put(store.MembersRemoved, []byte(id.String()), []byte(removedValue))
}

// SetAttributes notes what a member has published about itself. ErrRemoved and
// ErrNotFound change nothing: the entry came late, or from a member that was
// never there.
func (b *Book) SetAttributes(id ID, name string, clientURLs []string, rows *store.Batch) error {
	m, known := b.now.member(id)
	if !known {
		err := ErrNotFound
		if b.Removed(id) {
			err = ErrRemoved
		}
		return fmt.Errorf("set attributes of member %s: %w", id, err)
	}
	m.Name, m.ClientURLs = name, clientURLs
	b.put(m, rows)
	return nil
}

// SetVersion sets the cluster version.
func (b *Book) SetVersion(v Version, rows *store.Batch) {
	f := *b.now
	f.version = v
	b.now = &f
	rows.Put(store.Cluster, []byte(versionKey), []byte(v.String()))
}

// SetDowngrade begins or ends a downgrade.
func (b *Book) SetDowngrade(d Downgrade, rows *store.Batch) {
	f := *b.now
	f.downgrade = d
	b.now = &f
	rows.Put(store.Cluster, []byte(downgradeKey), mustJSON(d))
}

// The same as of a View, for the machine itself.

// Members returns every member by ID. Read only.
func (b *Book) Members() []Member { return b.now.members }

// Member finds a member.
func (b *Book) Member(id ID) (Member, bool) { return b.now.member(id) }

// Removed reports whether the ID belonged to a member once.
func (b *Book) Removed(id ID) bool { return b.View().Removed(id) }

// ClusterVersion is the version that all members understand; the zero Version
// until they have agreed on one.
func (b *Book) ClusterVersion() Version { return b.now.version }

// Downgrade is the downgrade job.
func (b *Book) Downgrade() Downgrade { return b.now.downgrade }

// ConfState is raft's configuration that follows from the members.
func (b *Book) ConfState() *raftpb.ConfState { return b.View().ConfState() }

// Tree is the membership as etcd's snapshots of the log carry it.
func (b *Book) Tree() []byte { return b.View().Tree() }
