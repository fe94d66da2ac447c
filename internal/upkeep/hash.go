package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"

	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/state"
)

// OwnHash is this member's hash at a revision (0: the newest), as other members
// ask for it. Errors are those of mvcc.View.HashKV and of flushing.
func OwnHash(ctx context.Context, view func() *state.View, flush func(context.Context) error, rev int64) (Hash, error) {
	for {
		v := view()
		if err := flush(ctx); err != nil {
			return Hash{}, err
		}
		h, err := hashOf(v, rev)
		if !errors.Is(err, mvcc.ErrCollected) || ctx.Err() != nil { // else a compaction was faster: take the next view
			return h, err
		}
	}
}

func hashOf(v *state.View, rev int64) (Hash, error) {
	hash, compacted, at, err := v.Keys.HashKV(rev)
	if err != nil {
		return Hash{}, err
	}
	return Hash{Hash: hash, Revision: v.Keys.Revision(), Compacted: compacted, At: at}, nil
}

func (u *Upkeep) ownHash(ctx context.Context) (Hash, error) {
	return OwnHash(ctx, u.member.View, u.member.Flush, 0)
}

// answer is what came of asking a member for its hash.
type answer struct {
	member member.Member
	hash   Hash
	err    error
}

// hashes asks members for their hashes at rev.
func (u *Upkeep) hashes(ctx context.Context, of []member.Member, rev int64) []answer {
	ctx, cancel := context.WithTimeout(ctx, u.o.HashTimeout)
	defer cancel()
	return askHashes(ctx, u.others, of, rev)
}

func askHashes(ctx context.Context, others Others, of []member.Member, rev int64) []answer {
	return each(of, func(m member.Member) answer {
		h, err := others.HashKV(ctx, m, rev)
		return answer{m, h, err}
	})
}

// verdict is what the hashes of a cluster say together.
type verdict struct {
	compared int // members whose hashes could be compared with this one's
	agreed   bool
	decided  bool        // a majority of all members agrees
	bad      []member.ID // those that the majority contradicts, ascending
}

// judge compares hashes of one revision. Only those that leave out the same
// past can be compared. Right is what most members hold: size is how many
// there are, whether or not they have answered.
func judge(self member.ID, own Hash, answers []answer, size int) verdict {
	groups := map[uint32][]member.ID{own.Hash: {self}}
	compared := 0
	for _, a := range answers {
		if a.err != nil || a.hash.Compacted != own.Compacted {
			continue
		}
		compared++
		groups[a.hash.Hash] = append(groups[a.hash.Hash], a.member.ID)
	}
	v := verdict{compared: compared, agreed: len(groups) == 1}
	for hash, ids := range groups {
		if len(ids) > size/2 {
			v.decided = true
			delete(groups, hash) // those that are left are wrong
			break
		}
	}
	if !v.agreed && v.decided {
		for _, ids := range groups {
			v.bad = append(v.bad, ids...)
		}
		slices.Sort(v.bad)
	}
	return v
}

// accused is who gets an alarm: the bad ones, or the cluster as a whole (0) if
// its members disagree and nobody can say who is right.
func (v verdict) accused() []member.ID {
	if !v.agreed && !v.decided {
		return []member.ID{0}
	}
	return v.bad
}

// findings are the members that a check has found wrong.
type findings map[member.ID]bool

func (f findings) add(ids ...member.ID) {
	for _, id := range ids {
		f[id] = true
	}
}

func (f findings) sorted() []member.ID { return slices.Sorted(maps.Keys(f)) }
