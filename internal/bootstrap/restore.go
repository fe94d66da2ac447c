package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// ErrOccupied says that a member cannot be restored into a directory, as
// something is there.
var ErrOccupied = errors.New("not empty")

// Restored is what a restored member begins with.
type Restored struct {
	From *store.File  // all buckets but those of the membership are taken over
	Rows *store.Batch // that are added; nil: none
	// Visit sees every row before it is taken over, and ends it all by an
	// error. May be nil.
	Visit func(bucket store.Bucket, key, value []byte) error
}

// buildSuffix ends the names of what is being built. It gets its own name when
// it is whole.
const buildSuffix = ".restoring"

// Restore makes a member of the initial cluster in an empty data directory,
// with the data of a snapshot: what a new cluster of old data begins with. Every
// member restores the same snapshot with the same initial cluster. It returns
// who the member is.
//
// All is built beside and gets its name last, the log at the end; whatever fails
// before that leaves the directory as it was. Before anything is written the
// options are checked.
func Restore(ctx context.Context, o Options, r Restored) (_ member.ID, _ member.ClusterID, err error) {
	o.complete()
	defer func() { err = Explain(err) }()
	own, err := o.ownSeed(o.Cluster)
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(o.agree(ctx, own.PeerURLs), distinct("initial cluster", o.Cluster)); err != nil {
		return 0, 0, err
	}
	born, err := o.founders(o.Cluster, o.Token)
	if err != nil {
		return 0, 0, err
	}
	if err := o.vacant(); err != nil {
		return 0, 0, err
	}
	b := &build{o: &o, born: born, member: o.memberDir() + buildSuffix}
	if err := b.begin(); err != nil {
		return 0, 0, fmt.Errorf("restore: %w", err)
	}
	err = b.make(ctx, r)
	if err == nil {
		err = b.reveal()
	}
	if err := b.end(err); err != nil {
		return 0, 0, fmt.Errorf("restore: %w", err)
	}
	return born.self, born.cluster, nil
}

// vacant makes sure that there is room for a member: nobody's files are written
// over.
func (o *Options) vacant() error {
	entries, err := os.ReadDir(o.DataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data-dir %q not empty or could not be read: %w", o.DataDir, err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lost+found", name == "member"+buildSuffix, strings.HasPrefix(name, AsidePrefix):
		default:
			return fmt.Errorf("data-dir %q is %w or could not be read: it holds %q; name a new directory, or move what is there away first (nothing has been changed)",
				o.DataDir, ErrOccupied, name)
		}
	}
	if o.walDir() == o.usualWAL() {
		return nil
	}
	entries, err = os.ReadDir(o.walDir())
	switch {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("wal-dir %q exists and is %w; name a new directory, or move what is there away first (nothing has been changed)", o.walDir(), ErrOccupied)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("wal-dir %q: %w", o.walDir(), err)
	}
	return nil
}

// build is a member that is being restored.
type build struct {
	o      *Options
	born   *birth
	member string   // becomes the member's directory
	lock   *os.File // on it
	fresh  bool     // the data directory was made for it
	like   string   // the directory whose owner it is given to
}

// log is where the log is built.
func (b *build) log() string {
	if b.o.walDir() == b.o.usualWAL() {
		return filepath.Join(b.member, "wal")
	}
	return b.o.walDir() + buildSuffix
}

// begin makes the place where all is built, and keeps another restore out of it.
// What one has left that died is removed.
func (b *build) begin() error {
	b.like = b.o.DataDir
	for {
		if _, err := os.Stat(b.like); !errors.Is(err, os.ErrNotExist) {
			break
		}
		b.fresh = true
		b.like = filepath.Dir(b.like)
	}
	for _, dir := range []string{b.o.DataDir, filepath.Dir(b.o.walDir())} {
		if dir == b.o.memberDir() {
			continue
		}
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
		if err := writable(dir); err != nil {
			return err
		}
	}
	if err := makeDir(b.member); err != nil {
		return err
	}
	var err error
	if b.lock, err = os.Open(b.member); err != nil {
		return err
	}
	if err := unix.Flock(int(b.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		b.lock.Close()
		return fmt.Errorf("%w: %s restores into %s", ErrHeld, HolderOf(b.member), b.o.DataDir)
	}
	return b.sweep()
}

// sweep empties the place.
func (b *build) sweep() error {
	left, err := os.ReadDir(b.member)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(b.member, e.Name())); err != nil {
			return err
		}
	}
	if b.o.walDir() != b.o.usualWAL() {
		return os.RemoveAll(b.log())
	}
	return nil
}

// make builds the database, then the log.
func (b *build) make(ctx context.Context, r Restored) error {
	snap := filepath.Join(b.member, "snap")
	if err := makeDir(snap); err != nil {
		return err
	}
	rows := r.Rows
	if rows == nil {
		rows = &store.Batch{}
	}
	book, err := member.Load(nothing{})
	if err != nil {
		return err
	}
	for _, cc := range b.born.changes {
		c, err := member.ParseChange(cc)
		if err != nil {
			return err
		}
		book.Apply(c, rows)
	}
	last := uint64(len(b.born.changes))
	err = r.From.CopyInto(ctx, filepath.Join(snap, "db"), store.Alter{
		Without: []store.Bucket{store.Members, store.MembersRemoved},
		Rows:    rows, Stamp: store.Stamp{Index: last, Term: 1}, Visit: r.Visit,
	})
	if err != nil {
		return err
	}
	return b.makeLog(snap, last, book)
}

// makeLog writes the log that adds the members of the cluster, and says that
// the database has all of it.
func (b *build) makeLog(snap string, last uint64, book *member.Book) (err error) {
	o := b.o.Log
	log, err := wal.Create(b.log(), wal.Identity{Member: uint64(b.born.self), Cluster: uint64(b.born.cluster)}, o)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	m := &Member{Log: log}
	// The vote of that term is given, as etcd's restore has it.
	if err := m.begin(b.born, b.born.changes[0].GetNodeId()); err != nil {
		return err
	}
	conf := &raftpb.ConfState{Voters: book.ConfState().GetVoters()} // the rest is not written by etcd's restore either
	err = wal.WriteSnap(snap, &raftpb.Snapshot{
		Data:     book.Tree(),
		Metadata: &raftpb.SnapshotMetadata{Index: new(last), Term: new(uint64(1)), ConfState: conf},
	})
	if err != nil {
		return err
	}
	return log.MarkSnapshot(wal.Snapshot{Index: last, Term: 1, ConfState: conf})
}

// reveal gives the member its name. The log is what makes it one, and is last.
func (b *build) reveal() error {
	if err := b.give(); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(b.member, b.o.memberDir()), syncDir(b.o.DataDir)); err != nil {
		return err
	}
	if b.o.walDir() == b.o.usualWAL() {
		return nil
	}
	return errors.Join(os.Rename(b.log(), b.o.walDir()), syncDir(filepath.Dir(b.o.walDir())))
}

// give makes it belong to whom the data directory belongs to, or what that is
// in: who restores may be root, and who runs is not.
func (b *build) give() error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, root := range []string{b.member, b.log()} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return likeDir(path, b.like)
		})
		if err != nil {
			return err
		}
	}
	return likeDir(b.o.DataDir, b.like)
}

// end lets go of the place, and leaves nothing there if it has failed.
func (b *build) end(failed error) error {
	if failed != nil {
		failed = errors.Join(failed, b.sweep(), remove(b.member))
		if b.fresh {
			failed = errors.Join(failed, remove(b.o.DataDir))
		}
	}
	return errors.Join(failed, b.lock.Close())
}

// remove removes an empty directory, if it is there.
func remove(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// nothing is a store without rows.
type nothing struct{}

func (nothing) Value(store.Bucket, []byte) []byte                               { return nil }
func (nothing) Scan(store.Bucket, []byte, []byte, func(key, value []byte) bool) {}
func (nothing) Stamp() store.Stamp                                              { return store.Stamp{} }
func (nothing) Close() error                                                    { return nil }
