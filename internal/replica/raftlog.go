package replica

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
	"kvd/internal/wal"
)

// lifted is the log with its commit index lifted to what has been applied:
// commit alone is never synced, so the one on disk may be older.
type lifted struct {
	*wal.Log
	applied uint64
}

// InitialState implements raft.Storage.
func (l lifted) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hard, conf, err := l.Log.InitialState()
	if err != nil || hard.GetCommit() >= l.applied {
		return hard, conf, err
	}
	term, vote := hard.GetTerm(), hard.GetVote()
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &l.applied}, conf, nil
}

// checkLog makes sure that the log holds what comes after the store.
func checkLog(l *wal.Log, at store.Stamp) error {
	first, err := l.FirstIndex()
	if err != nil {
		return fmt.Errorf("read the log's first index: %w", err)
	}
	last, err := l.LastIndex()
	if err != nil {
		return fmt.Errorf("read the log's last index: %w", err)
	}
	switch {
	case at.Index+1 < first:
		return fmt.Errorf("%w: the store ends at entry %d and the log begins at %d: entries between them are missing; "+
			"restore the member from a backup, or remove it and add it again", ErrMismatch, at.Index, first)
	case at.Index > last:
		return fmt.Errorf("%w: the store holds entry %d and the log ends at %d: they are not of the same member, "+
			"or acknowledged entries were lost from the log; restore the member from a backup, or remove it and add it again",
			ErrMismatch, at.Index, last)
	}
	term, err := l.Term(at.Index)
	if err != nil {
		return fmt.Errorf("read the term of entry %d: %w", at.Index, err)
	}
	if at.Term != 0 && term != at.Term {
		return fmt.Errorf("%w: entry %d has term %d in the store and %d in the log: they are not of the same member; "+
			"restore the member from a backup, or remove it and add it again", ErrMismatch, at.Index, at.Term, term)
	}
	return nil
}

// raftLogger lets raft log: elections as information, its other chatter for
// debugging. A panic of raft's is one of ours.
type raftLogger struct{ log *slog.Logger }

// newsworthy are the beginnings of what raft has to say to an operator, after
// the member's ID.
var newsworthy = []string{
	" became leader", " became candidate", " became follower", " is starting a new election",
	" stepped down", " lost leader",
}

func (l raftLogger) say(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if level == slog.LevelInfo && !l.isNews(format) {
		level = slog.LevelDebug
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	text := fmt.Sprint(v...)
	if format != "" {
		text = fmt.Sprintf(format, v...)
	}
	l.log.Log(ctx, level, text)
}

func (l raftLogger) isNews(format string) bool {
	for _, n := range newsworthy {
		if strings.Contains(format, n) {
			return true
		}
	}
	return false
}

func (l raftLogger) Debug(v ...any)                   { l.say(slog.LevelDebug, "", v) }
func (l raftLogger) Debugf(format string, v ...any)   { l.say(slog.LevelDebug, format, v) }
func (l raftLogger) Info(v ...any)                    { l.say(slog.LevelInfo, "", v) }
func (l raftLogger) Infof(format string, v ...any)    { l.say(slog.LevelInfo, format, v) }
func (l raftLogger) Warning(v ...any)                 { l.say(slog.LevelWarn, "", v) }
func (l raftLogger) Warningf(format string, v ...any) { l.say(slog.LevelWarn, format, v) }
func (l raftLogger) Error(v ...any)                   { l.say(slog.LevelError, "", v) }
func (l raftLogger) Errorf(format string, v ...any)   { l.say(slog.LevelError, format, v) }
func (l raftLogger) Panic(v ...any)                   { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatal(v ...any)                   { l.Panic(v...) }
func (l raftLogger) Fatalf(format string, v ...any)   { l.Panicf(format, v...) }

// Panicf tells the one thing that is no fault of raft's or ours from the rest.
func (l raftLogger) Panicf(format string, v ...any) {
	if r, ok := regressionOf(format, v); ok {
		panic(r)
	}
	panic("raft: " + fmt.Sprintf(format, v...))
}

// StorageOf is the log as raft starts from it, with a store at entry applied.
func StorageOf(l *wal.Log, applied uint64) raft.Storage { return lifted{l, applied} }
