package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// ErrSnapshot says that a snapshot of another member is not what it claims to
// be. Nothing has changed.
var ErrSnapshot = errors.New("the snapshot cannot be used")

// ErrReceiving says that another snapshot is being received.
var ErrReceiving = errors.New("another snapshot is being received")

// snapDBName is the name of a received database until it has become this
// member's own; etcd's, as a start has to find it.
func snapDBName(index uint64) string { return fmt.Sprintf("%016x.snap.db", index) }

// Receive takes a snapshot that another member sends: the message, and the
// database that follows it. It returns when the database is on disk and found
// to be whole and of the entry that the message says, and raft has been told;
// before that nothing has changed. It may take long.
func (r *Replica) Receive(_ context.Context, m *raftpb.Message, image io.Reader) error {
	if !r.receiving.TryLock() {
		return ErrReceiving
	}
	defer r.receiving.Unlock()
	meta := m.GetSnapshot().GetMetadata()
	if meta.GetIndex() == 0 {
		return fmt.Errorf("%w: it is of no entry", ErrSnapshot)
	}
	began := time.Now()
	temp, err := r.save(image)
	if err != nil {
		return fmt.Errorf("save snapshot at entry %d: %w", meta.GetIndex(), err)
	}
	defer os.Remove(temp) //nolint:errcheck // it has another name by then, or is swept by the next start
	stamp, err := store.StampOf(temp, store.Options{})
	if err != nil {
		return fmt.Errorf("check snapshot at entry %d: %w", meta.GetIndex(), err)
	}
	if stamp.Index != meta.GetIndex() || stamp.Term != 0 && stamp.Term != meta.GetTerm() {
		return fmt.Errorf("%w: the message says entry %d of term %d, the database is at entry %d of term %d",
			ErrSnapshot, meta.GetIndex(), meta.GetTerm(), stamp.Index, stamp.Term)
	}
	if err := os.Rename(temp, filepath.Join(r.parts.SnapDir, snapDBName(meta.GetIndex()))); err != nil {
		return fmt.Errorf("save snapshot at entry %d: %w", meta.GetIndex(), err)
	}
	if err := syncDir(r.parts.SnapDir); err != nil {
		return fmt.Errorf("save snapshot at entry %d: %w", meta.GetIndex(), err)
	}
	r.metrics.snapReceived.Observe(time.Since(began).Seconds())
	r.log.Info("received and saved database snapshot", "from", member.ID(m.GetFrom()).String(),
		"snapshot-index", meta.GetIndex(), "took", time.Since(began))
	r.Deliver(m)
	return nil
}

// save writes the image to a file that a start would remove, and syncs it.
func (r *Replica) save(image io.Reader) (path string, err error) {
	file, err := os.CreateTemp(r.parts.SnapDir, "tmp-receive-*")
	if err != nil {
		return "", err
	}
	err = trickle(file, image)
	if err == nil {
		began := time.Now()
		err = file.Sync()
		r.metrics.snapReceiveSync.Observe(time.Since(began).Seconds())
	}
	if err = errors.Join(err, file.Close()); err != nil {
		os.Remove(file.Name()) //nolint:errcheck // swept by the next start
		return "", err
	}
	return file.Name(), nil
}

// trickleBytes is how much of an image the disk is given at once. Left to the end,
// it would be given all, and every fdatasync of a log on the same disk, this
// member's or a neighbour's, would wait for it.
const trickleBytes = 1 << 20

// trickle copies to the file, and has each piece written before the next but one.
func trickle(file *os.File, from io.Reader) error {
	piece := make([]byte, trickleBytes)
	for at := int64(0); ; {
		n, err := io.ReadFull(from, piece)
		if _, err := file.Write(piece[:n]); err != nil {
			return err
		}
		if err := writeBack(file, at, n); err != nil {
			return err
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// writeBack begins to write n bytes at an offset, and waits for the piece before.
func writeBack(file *os.File, at int64, n int) error {
	err := unix.SyncFileRange(int(file.Fd()), at, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	if err == nil && at > 0 {
		err = unix.SyncFileRange(int(file.Fd()), max(0, at-trickleBytes), trickleBytes, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the sync at the end does it
	}
	if err != nil {
		return &os.PathError{Op: "sync_file_range", Path: file.Name(), Err: err}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// restart makes the log go on behind a snapshot of another member, whose
// database is on disk already. From here on a start finds the database by the
// log's record, so the machine may be replaced after it.
func (a *appender) restart(m *raftpb.Message) error {
	if err := a.write(); err != nil {
		return err
	}
	s := m.GetSnapshot()
	meta := s.GetMetadata()
	if err := wal.WriteSnap(a.r.parts.SnapDir, s); err != nil {
		return fmt.Errorf("snapshot at entry %d: %w", meta.GetIndex(), err)
	}
	var hard *raftpb.HardState
	if m.GetTerm() != 0 {
		hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	err := a.r.parts.Log.Reset(wal.Snapshot{Index: meta.GetIndex(), Term: meta.GetTerm(), ConfState: meta.GetConfState()}, hard)
	if err != nil {
		return fmt.Errorf("restart the log behind entry %d: %w", meta.GetIndex(), err)
	}
	a.r.applier.queue.put(order{snapshot: s}) // before raft hands out what comes after it
	return nil
}

// install replaces machine and store by what another member has sent. Readers
// of older views are told to take the newest, as they do behind a compaction.
func (a *applier) install(s *raftpb.Snapshot) error {
	index := s.GetMetadata().GetIndex()
	if at, _ := a.machine.Applied(); index <= at {
		panic(fmt.Sprintf("replica: snapshot at entry %d after %d", index, at))
	}
	a.r.log.Info("applying snapshot", "current-applied-index", a.r.applied.Load(), "incoming-leader-snapshot-index", index)
	a.r.metrics.snapApplying.Inc()
	defer a.r.metrics.snapApplying.Dec()
	a.r.installing.Store(true)
	defer a.r.installing.Store(false)
	began := time.Now()
	var next *state.Machine
	path := filepath.Join(a.r.parts.SnapDir, snapDBName(index))
	err := a.r.flusher.do(context.Background(), func(context.Context) error {
		return a.r.flusher.replace(path, func(open func() (store.Reader, error)) (view *state.View, err error) {
			if next, err = a.r.parts.Load(open); err != nil {
				return nil, err
			}
			a.machine.Retire() // the rows are about to be others
			return next.View(), nil
		})
	})
	if errors.Is(err, ErrStopped) {
		return nil // the flusher's error is the one that counts
	}
	if err != nil {
		return fmt.Errorf("apply snapshot at entry %d: %w", index, err)
	}
	a.machine, a.stored, a.sweeping = next, next.Revision(), true
	view := a.r.flusher.committed
	a.r.view.Store(view)
	a.r.applied.Store(view.Applied)
	a.r.metrics.applied.Set(float64(view.Applied))
	a.r.parts.Members(view.Members)
	a.r.parts.Replaced()
	a.r.intake.apply(applied{}, true)
	a.r.log.Info("applied snapshot", "snapshot-index", index, "revision", view.Keys.Revision(), "took", time.Since(began))
	return nil
}

// replace puts the file at path in the store's place. Whoever applies waits for
// it, so no rows come meanwhile.
func (f *flusher) replace(path string, load func(open func() (store.Reader, error)) (*state.View, error)) error {
	var view *state.View
	err := f.r.parts.Store.Replace(path, func(open func() (store.Reader, error)) (err error) {
		view, err = load(open)
		return err
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.rows, f.bytes, f.view = nil, 0, view
	f.mu.Unlock()
	f.committed, f.snapshot = view, view.Applied
	f.r.stored.Store(view.Applied)
	f.revision.Store(view.Keys.Revision())
	return nil
}
