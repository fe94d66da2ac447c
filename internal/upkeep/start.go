package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/state"
)

var (
	// ErrCorrupt says that most members of the cluster hold other data than this
	// one.
	ErrCorrupt = errors.New("this member's data differs from that of most members")
	// ErrUndecided says that members hold different data, and that too few have
	// answered to say which of them are right.
	ErrUndecided = errors.New("found data inconsistency with peers")
)

// Start is what the comparison before a start needs. A zero time takes the
// default named beside it.
type Start struct {
	ID          member.ID
	View        *state.View // as the member was loaded; all of it is on disk
	Others      Others
	AskTimeout  time.Duration       // for a sign of life; members without one are left out; 1 s
	HashTimeout time.Duration       // for a living member's hash; 30 s
	Log         *slog.Logger        // nil: no logging
	Progress    func(status string) // told what is waited for; may be nil
}

// CheckStart compares a member that is about to start with those that run.
// It fails if the data of this one is wrong (ErrCorrupt), or may be
// (ErrUndecided). Members that do not answer, are behind or have compacted
// further are left out: when all start at once there may be nobody to ask.
func CheckStart(ctx context.Context, s Start) error {
	s.complete()
	all := s.View.Members.Members()
	peers := others(all, s.ID)
	if len(peers) == 0 {
		return nil
	}
	peers = s.awake(ctx, peers)
	if ctx.Err() != nil || len(peers) == 0 {
		s.Log.Info("skipping the initial corruption check: no other member answers")
		return ctx.Err()
	}
	s.Progress(fmt.Sprintf("comparing the data with %d of the other members", len(peers)))
	s.Log.Info("starting initial corruption check", "timeout", s.HashTimeout)
	ctx, cancel := context.WithTimeout(ctx, s.HashTimeout)
	defer cancel()
	rev := s.View.Keys.Revision()
	theirs := make(chan []answer, 1)
	go func() { theirs <- askHashes(ctx, s.Others, peers, rev) }()
	own, err := hashOf(s.View, rev)
	answers := <-theirs
	if err != nil {
		return fmt.Errorf("%s failed to fetch hash: %w", s.ID, err)
	}
	return s.rule(own, answers, len(all))
}

func (s *Start) complete() {
	if s.AskTimeout == 0 {
		s.AskTimeout = time.Second
	}
	if s.HashTimeout == 0 {
		s.HashTimeout = 30 * time.Second
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Progress == nil {
		s.Progress = func(string) {}
	}
	s.Log = s.Log.With("local-member-id", s.ID.String())
}

// awake are the members that answer at all.
func (s *Start) awake(ctx context.Context, peers []member.Member) (awake []member.Member) {
	s.Progress("looking for other members to compare the data with")
	ctx, cancel := context.WithTimeout(ctx, s.AskTimeout)
	defer cancel()
	for i, answers := range each(peers, func(m member.Member) bool { _, err := s.Others.Version(ctx, m); return err == nil }) {
		if answers {
			awake = append(awake, peers[i])
		}
	}
	return awake
}

// rule says what the answers mean for this member.
func (s *Start) rule(own Hash, answers []answer, size int) error {
	var differ []string
	for _, a := range answers {
		if s.explain(own, a) {
			differ = append(differ, a.member.Name+" ("+a.member.ID.String()+")")
		}
	}
	ruling := judge(s.ID, own, answers, size)
	switch {
	case ruling.agreed && ruling.compared == 0:
		s.Log.Info("initial corruption check: no other member could be compared with")
		return nil
	case ruling.agreed:
		s.Log.Info("initial corruption checking passed; no corruption", "number-of-peers-checked", ruling.compared)
		return nil
	case !ruling.decided:
		return fmt.Errorf("%s %w: %s hold other data at revision %d, and too few members answer to say which are right; "+
			"start the others, or compare them with 'kvctl endpoint hashkv --cluster'", s.ID, ErrUndecided, strings.Join(differ, ", "), own.At)
	}
	for _, id := range ruling.bad {
		if id == s.ID {
			return fmt.Errorf("member %s: %w: at revision %d it is not what %s hold; replace it with 'kvd member rejoin'",
				s.ID, ErrCorrupt, own.At, strings.Join(differ, ", "))
		}
	}
	s.Log.Error("other members hold wrong data; most agree with this one", "members", strings.Join(differ, ", "))
	return nil
}

// explain logs an answer that is not plain agreement, and reports whether it
// contradicts.
func (s *Start) explain(own Hash, a answer) bool {
	log := s.Log.With("local-member-revision", own.At, "local-member-compact-revision", own.Compacted,
		"local-member-hash", own.Hash, "remote-peer-id", a.member.ID.String())
	switch {
	case errors.Is(a.err, mvcc.ErrFuture):
		log.Warn("cannot fetch hash from slow remote peer", "error", a.err)
	case errors.Is(a.err, mvcc.ErrCompacted):
		log.Warn("cannot fetch hash from remote peer; local member is behind", "error", a.err)
	case a.err != nil:
		log.Warn("cannot fetch hash from remote peer", "error", a.err)
	case a.hash.Compacted != own.Compacted:
		log.Info("found different compact revision values from remote peer", "remote-peer-compact-revision", a.hash.Compacted)
	case a.hash.Hash != own.Hash:
		log.Warn("found different hash values from remote peer", "remote-peer-hash", a.hash.Hash, "remote-peer-compact-revision", a.hash.Compacted)
		return true
	}
	return false
}
