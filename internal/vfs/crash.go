package vfs

import (
	"math/rand/v2"
	"os"
	"path"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Survival says what becomes of changes that were not synced before a crash.
type Survival uint8

// What a crash may do to unsynced changes.
const (
	Lost Survival = iota // all of them are gone
	Kept                 // all of them had reached the disk
	Torn                 // of writes some sectors did, of other changes the first few
)

// Crash returns the disk as it may be when the power fails after the first ops
// operations of the journal: synced changes are there, others as s says, by
// chance where s leaves a choice. rng is only needed for Torn. The result has a
// journal of its own, which begins with making what is there.
//
// The model is stricter than common file systems: a name is durable only when
// its directory was synced, content only when the file was, and neither brings
// the other along. Changes of one directory, and changes of one file's length,
// keep their order; sectors of writes do not.
func (m *Mem) Crash(ops int, s Survival, rng *rand.Rand) *Mem {
	journal := m.Journal()[:ops]
	syncedDir, syncedFile := map[int]int{}, map[int]int{} // inode: operations before this one are durable
	for i, op := range journal {
		switch op.Kind {
		case SyncDir:
			syncedDir[op.dir] = i
		case Sync:
			syncedFile[op.inode] = i
		}
	}
	disk := NewMem()
	brokenDir, brokenFile := map[int]bool{}, map[int]bool{} // later changes of it are gone
	for i, op := range journal {
		switch op.Kind {
		case Create, Unlink, Rename:
			if op.Kind == Create { // the inode may be reached by a later rename
				disk.next = max(disk.next, op.inode+1)
				disk.createInode(op)
			}
			if i >= syncedDir[op.dir] && s.drops(rng) {
				brokenDir[op.dir] = true
			}
			if !brokenDir[op.dir] {
				disk.applyEntry(op)
			}
		case Truncate, Allocate:
			if i >= syncedFile[op.inode] && s.drops(rng) {
				brokenFile[op.inode] = true
			}
			if !brokenFile[op.inode] {
				disk.files[op.inode].change(op)
			}
		case Write:
			if i < syncedFile[op.inode] {
				disk.files[op.inode].change(op)
			} else {
				disk.tear(op, s, rng)
			}
		}
	}
	return disk.copy()
}

// copy returns a file system with the same content, all of it synced.
func (m *Mem) copy() *Mem {
	to := NewMem()
	var walk func(dir string)
	walk = func(dir string) {
		names, _ := m.List(dir)
		for _, name := range names {
			name = path.Join(dir, name)
			id := m.lookup(name)
			if _, isDir := m.dirs[id]; isDir {
				must(to.Mkdir(name, 0))
				walk(name)
				continue
			}
			f, err := to.Open(name, os.O_CREATE, 0)
			must(err)
			_, err = f.WriteAt(m.files[id].data, 0)
			must(err)
			must(f.Sync())
			must(f.Close())
		}
		must(to.SyncDir(dir))
	}
	walk("/")
	return to
}

func (m *Mem) lookup(name string) int {
	dir, base, err := m.parentLocked("lookup", name)
	must(err)
	return m.dirs[dir][base]
}

func must(err error) {
	if err != nil {
		panic("vfs: " + err.Error())
	}
}

// drops decides for one unsynced change.
func (s Survival) drops(rng *rand.Rand) bool {
	return s == Lost || s == Torn && rng.IntN(4) == 0
}

func (m *Mem) createInode(op Op) {
	if op.isDir {
		m.dirs[op.inode] = map[string]int{}
	} else {
		m.files[op.inode] = &memInode{}
	}
}

// applyEntry changes a directory; inodes exist already. Names that were never
// durable are simply absent.
func (m *Mem) applyEntry(op Op) {
	names := m.dirs[op.dir]
	switch op.Kind {
	case Create:
		names[op.base] = op.inode
	case Unlink:
		delete(names, op.base)
	case Rename:
		if id, found := names[op.base]; found {
			names[op.to] = id
			delete(names, op.base)
		}
	}
}

// tear applies the surviving sectors of an unsynced write.
func (m *Mem) tear(op Op, s Survival, rng *rand.Rand) {
	if s == Lost || s == Torn && rng.IntN(4) == 0 {
		return
	}
	odds := 0
	if s == Torn {
		odds = rng.IntN(4) // of 4: how likely a sector of this write is lost
	}
	for data, off := op.Data, op.Off; len(data) > 0; {
		n := min(sector-int(off%sector), len(data))
		if rng == nil || rng.IntN(4) >= odds {
			m.files[op.inode].change(Op{Kind: Write, Off: off, Data: data[:n]})
		}
		data, off = data[n:], off+int64(n)
	}
}
