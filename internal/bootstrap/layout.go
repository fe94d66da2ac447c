package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kvd/internal/wal"
)

// dirMode keeps everybody else from reading the data.
const dirMode = 0o700

// makeDirs makes the directories that are missing and looks whether all of them
// can be written to.
func (o *Options) makeDirs() error {
	o.lookAround()
	for _, dir := range []string{o.DataDir, o.memberDir(), o.snapDir(), o.own(), filepath.Dir(o.walDir())} {
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
		if err := writable(dir); err != nil {
			return err
		}
	}
	if _, err := os.Stat(o.walDir()); err == nil {
		return writable(o.walDir())
	}
	return nil
}

// makeDir makes a directory and what is missing above it. Each is durable in
// the one above before anything is put into it.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &os.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	above := filepath.Dir(dir)
	if err := makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(above)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writable asks the kernel, without trying.
func writable(dir string) error {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	if err != nil {
		return fmt.Errorf("the directory cannot be written to: %w", &os.PathError{Op: "access", Path: dir, Err: err})
	}
	return nil
}

// lookAround warns of what is odd about directories that exist.
func (o *Options) lookAround() {
	for _, dir := range []string{o.DataDir, o.memberDir()} {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm() != dirMode {
			o.Logger.Warn("check file permission", "error", fmt.Errorf(
				"directory %q has mode %s; with %s nobody else can read the data", dir, info.Mode().Perm(), os.FileMode(dirMode)))
		}
	}
	entries, err := os.ReadDir(o.DataDir)
	if err != nil {
		return // it is about to be made, or to be refused
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case slices.Contains([]string{"member", "proxy", "fixtures", "lost+found", rejoinFile}, name), strings.HasPrefix(name, AsidePrefix):
		default:
			o.Logger.Warn("found invalid file under data directory", "filename", e.Name(), "data-dir", o.DataDir)
		}
	}
}

// hasLog reports whether there is a log in dir. A directory that cannot be read
// may hold one.
func hasLog(dir string) (bool, error) {
	if _, err := os.ReadDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("look for the log: %w", err)
	}
	return wal.Exists(dir), nil
}

// clear removes what was being written when an earlier process died: a database
// that was being made, or received from another member.
func (o *Options) clear() error {
	left, err := filepath.Glob(filepath.Join(o.snapDir(), tempPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove a left-over file: %w", err)
		}
	}
	return nil
}

// tempPrefix begins the names of files in the snapshot directory that are not
// whole yet; etcd removes them, too.
const tempPrefix = "tmp"
