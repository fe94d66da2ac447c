package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Check reads every page of the present moment and every row on it, as Open
// does, while the file is in service. Damage is a *CorruptError.
func (f *File) Check(ctx context.Context) error {
	m, err := f.moment()
	if err != nil {
		return err
	}
	w := walk{
		ctx:      ctx,
		pageSize: m.handle.db.Info().PageSize,
		root:     uint64(m.tx.Cursor().Bucket().RootPage()),
		free:     noFreelist,
	}
	w.high = uint64(m.tx.Size()) / uint64(w.pageSize)
	err = overMapping(m.handle.file, f.path, func(data []byte) error {
		w.data, w.mapped = data, true
		return w.file()
	})
	return errors.Join(err, m.Close())
}

// checkFile reads all of a file that nobody has open for writing, before bbolt
// sees it: bbolt meets damage with a panic, some of it in a goroutine where
// nothing can catch it. An empty file is one yet to be made.
func checkFile(ctx context.Context, file *os.File, path string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil
	}
	return overMapping(file, path, func(data []byte) error {
		w, err := newWalk(ctx, data)
		if err != nil {
			return err
		}
		w.mapped, w.helpers = true, runtime.GOMAXPROCS(0) // nobody else has anything to do yet
		return w.file()
	})
}

// overMapping calls read with the file's bytes. A page that the disk does not
// give, and every flaw that read returns, comes back as a *CorruptError.
func overMapping(file *os.File, path string, read func([]byte) error) (err error) {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("%s: map: %w", path, err)
	}
	defer func() {
		err = errors.Join(err, unix.Munmap(data))
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if _, fault := p.(interface{ Addr() uintptr }); fault {
			err = &CorruptError{File: path, Reason: fmt.Sprintf("the disk does not give all of its %d bytes (see the kernel's log)", len(data))}
		} else if p != nil {
			panic(p)
		}
	}()
	err = read(data)
	if f, ok := errors.AsType[*flaw](err); ok {
		return &CorruptError{File: path, Reason: f.Error()}
	}
	return err
}
