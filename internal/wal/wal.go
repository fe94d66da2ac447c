// Package wal is the raft log on disk, in etcd 3.7's format: append, cut,
// recover. It is raft's Storage: raft's loop reads what it keeps in memory
// while one other goroutine, the appender, writes. It knows entries by index
// and term only and never looks into their data. DESIGN.md says what may be on
// disk after a crash.
//
// Append, MarkSnapshot, Reset, Purge and Close exclude each other and may wait
// for the disk; everything else is quick and for any goroutine.
package wal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/vfs"
)

const defaultSegmentBytes = 64_000_000

// Options tune the log. A zero field takes the default named beside it.
type Options struct {
	SegmentBytes int64        // begin a new file past this; 64 000 000 as etcd
	NoSync       bool         // never wait for the disk: a crash loses acknowledged entries
	At           *Snapshot    // Open: where to start; the last valid snapshot record
	Files        vfs.FS       // vfs.OS
	Log          *slog.Logger // none

	OnFsync func(took time.Duration)            // after each fsync
	OnWrite func(bytes int, took time.Duration) // after each write
}

func (o *Options) complete() {
	o.SegmentBytes = cmp.Or(o.SegmentBytes, defaultSegmentBytes)
	if o.Files == nil {
		o.Files = vfs.OS{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Log is an open log.
type Log struct {
	view // raft.Storage

	o        Options
	dir      string
	identity Identity
	start    Snapshot

	disk     sync.Mutex // guards what follows
	segments []segment  // open and locked, oldest first; the last is written to
	offset   int64      // in the last segment: where the next frame goes
	enc      encoder    // its CRC is that of everything up to offset
	written  State      // newest state; the view's may be ahead of it after Compact
	held     bool       // written is not written yet
	marked   uint64     // entry of the newest snapshot record
	spare    *spare
	err      error // why the log is dead; nothing is retried
}

var _ raft.Storage = (*Log)(nil)

// Exists reports whether dir holds a log.
func Exists(dir string) bool { return exists(vfs.OS{}, dir) }

func exists(files vfs.FS, dir string) bool {
	names, err := files.List(dir)
	if err != nil {
		return false
	}
	for _, name := range names {
		if strings.HasSuffix(name, segmentSuffix) {
			return true
		}
	}
	return false
}

// Create makes an empty log and opens it. The directory appears whole, by
// rename; its parent must exist.
func Create(dir string, id Identity, o Options) (*Log, error) {
	o.complete()
	dir = filepath.Clean(dir)
	if exists(o.Files, dir) {
		return nil, fmt.Errorf("create %s: %w", dir, ErrExists)
	}
	l := &Log{o: o, dir: dir, identity: id}
	if err := l.create(); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, errors.Join(err, l.closeSegments()))
	}
	l.spare = prepare(o.Files, dir, o.SegmentBytes)
	return l, nil
}

func (l *Log) create() error {
	temp := l.dir + tempSuffix
	if err := removeFlat(l.o.Files, temp, isOurs); err != nil {
		return err
	}
	if err := l.o.Files.Mkdir(temp, dirMode); err != nil {
		return err
	}
	name := segmentName(0, 0)
	file, err := allocate(l.o.Files, filepath.Join(temp, name), l.o.SegmentBytes)
	if err != nil {
		return err
	}
	l.segments = []segment{{path: filepath.Join(l.dir, name), file: file}}
	l.enc.seed()
	l.enc.identity(l.identity)
	if err := l.enc.snapshot(Snapshot{}); err != nil {
		return err
	}
	if err := errors.Join(l.flush(), l.o.Files.SyncDir(temp)); err != nil {
		return err
	}
	// An empty directory may have been made for us; one with files of somebody
	// else's is not ours to delete.
	if err := removeFlat(l.o.Files, l.dir, isTemp); err != nil {
		return err
	}
	if err := l.o.Files.Rename(temp, l.dir); err != nil {
		return err
	}
	return l.o.Files.SyncDir(filepath.Dir(l.dir))
}

// Open opens the log in dir at Options.At or at the last valid snapshot
// record. A torn tail is repaired, anything else wrong is a *CorruptError.
func Open(dir string, o Options) (*Log, error) {
	o.complete()
	dir = filepath.Clean(dir)
	segments, temps, err := listSegments(o.Files, dir)
	if err != nil {
		return nil, err
	}
	if len(segments) == 0 {
		return nil, fmt.Errorf("open %s: %w", dir, ErrNotFound)
	}
	r := &recovery{Options: o, dir: dir, segments: segments}
	if err = r.run(); err == nil {
		err = r.repair()
	}
	for _, name := range temps {
		if err == nil {
			err = o.Files.Remove(filepath.Join(dir, name))
		}
	}
	if err == nil {
		err = removeFlat(o.Files, dir+tempSuffix, isOurs)
	}
	if err != nil {
		for i := range r.segments {
			err = errors.Join(err, r.segments[i].close())
		}
		return nil, fmt.Errorf("open log: %w", err)
	}
	p := &r.replay
	l := &Log{
		o: o, dir: dir, identity: p.identity, start: p.start,
		view:     view{base: position{p.start.Index, p.start.Term}, entries: p.entries, state: p.state, snapshot: p.start.memory()},
		segments: r.segments[r.first:], offset: r.tail.end, enc: encoder{crc: r.tail.crc}, written: p.state,
		marked: p.start.Index,
	}
	l.spare = prepare(o.Files, dir, o.SegmentBytes)
	return l, nil
}

// Identity returns whose log it is.
func (l *Log) Identity() Identity { return l.identity }

// Start returns the position the log was opened at. Entries follow it.
func (l *Log) Start() Snapshot { return l.start }

// Append writes entries, replacing what the log has from the first one's index
// on, and the hard state, if it is not empty. It waits for the disk if sync is
// set or safety asks for it: entries, a new term, a new vote. A commit index
// alone is kept back and goes with the next write.
//
// Entries must be consecutive and begin behind the compacted part and at most
// one past the last. The log keeps them; they must not be changed.
func (l *Log) Append(hs *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.err != nil {
		return l.err
	}
	if !raft.IsEmptyHardState(hs) {
		state := stateOf(hs)
		l.held = l.held || state != l.written
		sync = sync || state.Term != l.written.Term || state.Vote != l.written.Vote
		l.written = state
	}
	if len(entries) > 0 {
		l.mustFollow(entries)
		for _, e := range entries {
			l.enc.entry(e)
		}
		sync = true
	}
	if sync {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.append(l.written, entries)
	if l.offset >= l.o.SegmentBytes {
		return l.cut()
	}
	return nil
}

// MarkSnapshot records that the store has everything up to s.Index, so that
// the next Open starts there, and releases segments that only hold older
// entries. The entries in memory stay until Compact.
func (l *Log) MarkSnapshot(s Snapshot) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.err != nil {
		return l.err
	}
	if last := l.last(); s.Index > last {
		return fmt.Errorf("mark snapshot at %d: the log ends at %d", s.Index, last)
	}
	if s.Index > 0 && s.ConfState == nil {
		return fmt.Errorf("mark snapshot at %d: it has no conf state", s.Index)
	}
	if s.Index < l.marked {
		return nil
	}
	if s.Index > l.written.Commit {
		// What was applied is committed. Until a state says so, too, the record
		// would not be valid.
		l.written.Commit, l.held = s.Index, true
	}
	l.encodeHeld()
	if err := l.enc.snapshot(s); err != nil {
		return l.die(err)
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.marked = s.Index
	return l.release(s.Index)
}

// Reset restarts the log behind a snapshot that came from the leader: the
// store has everything up to s.Index, the entries are gone. hs is the hard
// state that came with it; nil leaves term and vote.
func (l *Log) Reset(s Snapshot, hs *raftpb.HardState) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.err != nil {
		return l.err
	}
	if s.Index == 0 || s.ConfState == nil {
		return fmt.Errorf("reset log to snapshot %d: index and conf state are needed", s.Index)
	}
	if !raft.IsEmptyHardState(hs) {
		l.written = stateOf(hs)
	}
	l.written.Commit = max(l.written.Commit, s.Index)
	// The state behind the record makes it valid: in the other order a crash
	// between them would leave a commit index without its entries.
	if err := l.enc.snapshot(s); err != nil {
		return l.die(err)
	}
	l.held = true
	if err := l.flush(); err != nil {
		return err
	}
	l.marked = s.Index
	l.restart(position{s.Index, s.Term}, l.written, s.memory())
	return l.release(s.Index)
}

// memory makes the snapshot raft sees in memory; it has no data yet.
func (s Snapshot) memory() *raftpb.Snapshot {
	if s.Index == 0 {
		return nil
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &s.Index, Term: &s.Term, ConfState: raftpb.EnsureConfState(s.ConfState),
	}}
}

// Compact drops the entries up to index from memory, for they are applied.
func (l *Log) Compact(index uint64) error { return l.compact(index) }

// Purge deletes the oldest segments beyond keep, as far as they are released.
func (l *Log) Purge(keep int) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.err != nil {
		return l.err
	}
	all, _, err := listSegments(l.o.Files, l.dir)
	if err != nil {
		return err
	}
	removed := 0
	for _, s := range all[:max(0, len(all)-keep)] {
		if s.seq >= l.segments[0].seq {
			break
		}
		if err := l.o.Files.Remove(s.path); err != nil {
			return fmt.Errorf("purge log: %w", err)
		}
		l.o.Log.Info("purged a log segment", "file", s.path)
		removed++
	}
	if removed == 0 {
		return nil
	}
	return l.o.Files.SyncDir(l.dir)
}

// Close writes what is held back and lets go of the files. It waits for the
// allocating goroutine.
func (l *Log) Close() error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if errors.Is(l.err, ErrClosed) {
		return nil
	}
	var errs []error
	if l.err == nil {
		errs = append(errs, l.flush())
	}
	if l.spare != nil {
		errs = append(errs, l.spare.drop(l.o.Files))
	}
	errs = append(errs, l.closeSegments())
	l.err = ErrClosed
	return errors.Join(errs...)
}

func (l *Log) closeSegments() error {
	var errs []error
	for i := range l.segments {
		errs = append(errs, l.segments[i].close())
	}
	return errors.Join(errs...)
}
