package vfs

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// Mem is a file system in memory for tests. It keeps a journal of every change,
// from which Crash makes the disk as it may be after a power failure, and its
// Fault hook makes operations fail. Names are slash-separated; "/" exists.
type Mem struct {
	// Fault is asked before every change and every sync, if set, with the
	// number of operations before it. An error is returned to the caller and
	// the change is not made, but for the first op.Land bytes of a write. Set
	// it between calls; it must not call the file system.
	Fault func(n int, op *Op) error

	mu      sync.Mutex
	dirs    map[int]map[string]int // directory inode: name to inode
	files   map[int]*memInode
	next    int
	journal []Op
}

type memInode struct {
	data   []byte
	locked bool
}

// Kind says what an Op did.
type Kind uint8

// The kinds of operations in the journal.
const (
	Create   Kind = iota + 1 // of a file or directory
	Unlink                   // of a file or directory
	Rename                   // within a directory
	SyncDir                  // of a directory
	Write                    // to a file
	Truncate                 // of a file
	Allocate                 // of a file
	Sync                     // of a file, also Datasync
)

// String returns the kind's name.
func (k Kind) String() string {
	names := []string{"", "create", "unlink", "rename", "syncdir", "write", "truncate", "allocate", "sync"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// Op is one operation.
type Op struct {
	Kind Kind
	Name string // path as the caller gave it
	Data []byte // Write; owned by the journal
	Off  int64  // Write: offset; Truncate, Allocate: size
	Land int    // Fault may set it: bytes of a failing write that reach the file

	dir, inode int
	base, to   string // names in dir
	isDir      bool
}

// String tells the operation in one line.
func (o Op) String() string {
	switch o.Kind {
	case Write:
		return fmt.Sprintf("write %s [%d,%d)", o.Name, o.Off, o.Off+int64(len(o.Data)))
	case Truncate, Allocate:
		return fmt.Sprintf("%s %s %d", o.Kind, o.Name, o.Off)
	case Rename:
		return fmt.Sprintf("rename %s to %s", o.Name, o.to)
	}
	return o.Kind.String() + " " + o.Name
}

const memRoot = 1

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{
		dirs:  map[int]map[string]int{memRoot: {}},
		files: map[int]*memInode{},
		next:  memRoot + 1,
	}
}

// Ops returns how many operations the journal has.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.journal)
}

// Journal returns the operations so far. The result is not to be changed.
func (m *Mem) Journal() []Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clip(m.journal)
}

// do asks Fault, journals and applies one operation.
func (m *Mem) doLocked(op Op) error {
	if m.Fault != nil {
		if err := m.Fault(len(m.journal), &op); err != nil {
			if op.Kind == Write && op.Land > 0 {
				op.Data = op.Data[:min(op.Land, len(op.Data))]
				m.journal = append(m.journal, op)
				m.applyLocked(op)
			}
			return &os.PathError{Op: op.Kind.String(), Path: op.Name, Err: err}
		}
	}
	m.journal = append(m.journal, op)
	m.applyLocked(op)
	return nil
}

func (m *Mem) applyLocked(op Op) {
	switch op.Kind {
	case Create:
		m.dirs[op.dir][op.base] = op.inode
		if op.isDir {
			m.dirs[op.inode] = map[string]int{}
		} else {
			m.files[op.inode] = &memInode{}
		}
	case Unlink:
		delete(m.dirs[op.dir], op.base)
	case Rename:
		m.dirs[op.dir][op.to] = m.dirs[op.dir][op.base]
		delete(m.dirs[op.dir], op.base)
	case Write, Truncate, Allocate:
		m.files[op.inode].change(op)
	}
}

func (n *memInode) change(op Op) {
	switch op.Kind {
	case Write:
		n.grow(op.Off + int64(len(op.Data)))
		copy(n.data[op.Off:], op.Data)
	case Truncate:
		n.grow(op.Off)
		n.data = n.data[:op.Off:op.Off]
	case Allocate:
		n.grow(op.Off)
	}
}

func (n *memInode) grow(size int64) {
	if more := size - int64(len(n.data)); more > 0 {
		n.data = append(n.data, make([]byte, more)...)
	}
}

// Open opens a file.
func (m *Mem) Open(name string, flag int, _ os.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked("open", name)
	if err != nil {
		return nil, err
	}
	id, found := m.dirs[dir][base]
	switch {
	case found && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrExist}
	case !found && flag&os.O_CREATE == 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	case !found:
		id = m.next
		m.next++
		if err := m.doLocked(Op{Kind: Create, Name: name, dir: dir, base: base, inode: id}); err != nil {
			return nil, err
		}
	}
	f := &memFile{m: m, name: name, id: id}
	if flag&os.O_TRUNC != 0 {
		if err := m.doLocked(Op{Kind: Truncate, Name: name, inode: id}); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Mkdir makes a directory.
func (m *Mem) Mkdir(name string, _ os.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked("mkdir", name)
	if err != nil {
		return err
	}
	if _, found := m.dirs[dir][base]; found {
		return &os.PathError{Op: "mkdir", Path: name, Err: os.ErrExist}
	}
	id := m.next
	m.next++
	return m.doLocked(Op{Kind: Create, Name: name, dir: dir, base: base, inode: id, isDir: true})
}

// Remove removes a file or an empty directory.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked("remove", name)
	if err != nil {
		return err
	}
	id, found := m.dirs[dir][base]
	if !found {
		return &os.PathError{Op: "remove", Path: name, Err: os.ErrNotExist}
	}
	if len(m.dirs[id]) > 0 {
		return &os.PathError{Op: "remove", Path: name, Err: os.ErrExist}
	}
	return m.doLocked(Op{Kind: Unlink, Name: name, dir: dir, base: base, inode: id})
}

// Rename renames within a directory.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked("rename", from)
	if err != nil {
		return err
	}
	target, toBase, err := m.parentLocked("rename", to)
	if err != nil {
		return err
	}
	if target != dir {
		return &os.PathError{Op: "rename", Path: to, Err: fmt.Errorf("not in the directory of %s", from)}
	}
	id, found := m.dirs[dir][base]
	if !found {
		return &os.PathError{Op: "rename", Path: from, Err: os.ErrNotExist}
	}
	if old, found := m.dirs[dir][toBase]; found && len(m.dirs[old]) > 0 {
		return &os.PathError{Op: "rename", Path: to, Err: os.ErrExist}
	}
	return m.doLocked(Op{Kind: Rename, Name: from, dir: dir, base: base, to: toBase, inode: id})
}

// List returns the names in a directory, sorted.
func (m *Mem) List(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, err := m.dirLocked("list", name)
	if err != nil {
		return nil, err
	}
	var names []string
	for base := range m.dirs[id] {
		names = append(names, base)
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir makes changes of the directory durable.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, err := m.dirLocked("syncdir", name)
	if err != nil {
		return err
	}
	return m.doLocked(Op{Kind: SyncDir, Name: name, dir: id})
}

func (m *Mem) parentLocked(op, name string) (dir int, base string, err error) {
	parent, base := path.Split(path.Clean(name))
	dir, err = m.dirLocked(op, parent)
	return dir, base, err
}

func (m *Mem) dirLocked(op, name string) (int, error) {
	id := memRoot
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		id = m.dirs[id][part]
		if _, found := m.dirs[id]; !found {
			return 0, &os.PathError{Op: op, Path: name, Err: os.ErrNotExist}
		}
	}
	return id, nil
}

type memFile struct {
	m      *Mem
	name   string
	id     int
	locked bool
	closed bool
}

func (f *memFile) do(op Op) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &os.PathError{Op: op.Kind.String(), Path: f.name, Err: os.ErrClosed}
	}
	op.Name, op.inode = f.name, f.id
	return f.m.doLocked(op)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	data := f.m.files[f.id].data
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.do(Op{Kind: Write, Off: off, Data: slices.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.m.files[f.id].data)), nil
}

func (f *memFile) Truncate(size int64) error { return f.do(Op{Kind: Truncate, Off: size}) }
func (f *memFile) Allocate(size int64) error { return f.do(Op{Kind: Allocate, Off: size}) }
func (f *memFile) Datasync() error           { return f.do(Op{Kind: Sync}) }
func (f *memFile) Sync() error               { return f.do(Op{Kind: Sync}) }

func (f *memFile) Lock() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	inode := f.m.files[f.id]
	if inode.locked && !f.locked {
		return fmt.Errorf("lock %s: %w", f.name, ErrLocked)
	}
	inode.locked, f.locked = true, true
	return nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &os.PathError{Op: "close", Path: f.name, Err: os.ErrClosed}
	}
	f.closed = true
	if f.locked {
		f.m.files[f.id].locked = false
	}
	return nil
}
