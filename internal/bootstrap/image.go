package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kvd/internal/store"
)

// imageSuffix ends the name of a database that the leader has sent; before it
// is the index of its last entry in 16 hex digits, as etcd has it.
const imageSuffix = ".snap.db"

func (o *Options) imagePath(index uint64) string {
	return o.Paths().Image(index)
}

// recoverImage finishes what a crash has interrupted: the log begins behind a
// snapshot that came from the leader, and its database was still to take the
// place of the old one. If it is not there, nothing is done: fit says so.
func (m *Member) recoverImage(o *Options) error {
	start := m.Log.Start().Index
	held := uint64(0)
	if m.Store != nil {
		at, err := m.stamp()
		if err != nil {
			return err
		}
		held = at.Index
	}
	image := o.imagePath(start)
	if _, err := os.Stat(image); held >= start || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	o.Progress("putting the leader's snapshot in place")
	o.Logger.Info("Recovering from snapshot backend", "consistent-index", held, "snapshot-index", start, "path", image)
	if err := o.checkImage(image, start); err != nil {
		return err
	}
	if m.Store != nil {
		err := m.Store.Close()
		m.Store = nil
		if err != nil {
			return fmt.Errorf("close the database: %w", err)
		}
	}
	if err := errors.Join(os.Rename(image, o.storePath()), syncDir(o.snapDir())); err != nil {
		return fmt.Errorf("put the leader's snapshot in place: %w", err)
	}
	return m.openStore(o)
}

// checkImage reads the whole image before it takes the place of anything.
func (o *Options) checkImage(image string, index uint64) error {
	plain := o.Store
	plain.ReadOnly, plain.Resident = true, false
	file, err := store.Open(image, plain)
	if err != nil {
		return fmt.Errorf("open the snapshot that the leader sent: %w; if it cannot be put back, remove this member from its cluster and add it again with an empty directory", err)
	}
	read := Member{Store: file}
	at, err := read.stamp()
	if err := errors.Join(err, read.checkVersion(o), file.Close()); err != nil {
		return fmt.Errorf("read the snapshot that the leader sent, %s: %w", image, err)
	}
	if at.Index < index {
		return fmt.Errorf("%w: the snapshot %s that the leader sent ends at entry %d, before its own name; remove this member from its cluster and add it again with an empty directory",
			ErrInconsistent, image, at.Index)
	}
	return nil
}

// clearImages removes the images that the database has caught up with. Another
// one may belong to a snapshot that raft has not seen yet.
func (m *Member) clearImages(o *Options) error {
	at, err := m.stamp()
	if err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(o.snapDir(), "*"+imageSuffix))
	if err != nil {
		return err
	}
	for _, path := range images {
		index, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), imageSuffix), 16, 64)
		if err != nil || index > at.Index {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove a left-over file: %w", err)
		}
	}
	return nil
}
