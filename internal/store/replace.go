package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Replace puts the file at path, which another member has sent, in this one's
// place. StampOf has checked it: it is not read a second time for that. load then
// reads it, and nothing has changed if load fails. After that it takes the name, new readers
// see it, and those that are open keep the old one until they close. Like a
// commit it is for the one goroutine that may write.
func (f *File) Replace(path string, load func(open func() (Reader, error)) error) error {
	if f.options.ReadOnly {
		return fmt.Errorf("replace %s: %w", f.path, ErrReadOnly)
	}
	if f.dead != nil {
		return f.dead
	}
	next := &File{path: path, options: f.options, closed: make(chan struct{})}
	h, err := next.open(true)
	if err != nil {
		return fmt.Errorf("replace %s: %w", f.path, err)
	}
	next.live = h
	err = makeBuckets(h.db)
	if err == nil {
		err = load(next.Read)
	}
	if err == nil {
		err = os.Rename(path, f.path)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", f.path, errors.Join(err, next.Close()))
	}
	f.rewrite = nil // what it has copied is of the past
	old := f.swap(h)
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		f.dead = fmt.Errorf("replace %s: the new file is in place but maybe not on disk: %w", f.path, err)
		return errors.Join(f.dead, old.release())
	}
	old.nameless(f)
	if err := errors.Join(f.measure(h), old.release()); err != nil {
		return fmt.Errorf("replace %s: %w", f.path, err)
	}
	return nil
}

// StampOf checks the file at path, page by page, and returns its stamp.
func StampOf(path string, o Options) (_ Stamp, err error) {
	defer Catch(&err)
	o.ReadOnly = true
	f, err := Open(path, o)
	if err != nil {
		return Stamp{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := f.Read()
	if err != nil {
		return Stamp{}, err
	}
	defer r.Close()
	return r.Stamp(), nil
}
