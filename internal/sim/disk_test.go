package sim

import (
	"os"
	"strings"

	"kvd/internal/vfs"
)

// disk is a member's file system: one that can crash. The log's spare segment
// is allocated by a goroutine of its own, whenever that runs; it is kept apart,
// so that it leaves no trace in the journal. Runs are too short to need it.
type disk struct {
	*vfs.Mem
	spare *vfs.Mem
	lies  bool // a planted bug: what is said to be synced is not
}

func newDisk() *disk {
	d := &disk{Mem: vfs.NewMem(), spare: vfs.NewMem()}
	for _, files := range []*vfs.Mem{d.Mem, d.spare} {
		must(files.Mkdir("/m", 0o700))
		must(files.SyncDir("/"))
		must(files.Mkdir("/m/wal", 0o700))
		must(files.SyncDir("/m"))
	}
	must(d.Remove("/m/wal")) // the log makes it
	must(d.SyncDir("/m"))
	return d
}

// crashed is the disk after the power failed at that operation.
func (d *disk) crashed(w *world, at int) *disk {
	how := []vfs.Survival{vfs.Lost, vfs.Kept, vfs.Torn}[w.random.IntN(3)]
	fresh := newDisk()
	fresh.Mem, fresh.lies = d.Crash(at, how, w.random), d.lies
	return fresh
}

// Open implements vfs.FS.
func (d *disk) Open(name string, flag int, perm os.FileMode) (vfs.File, error) {
	if strings.HasSuffix(name, "/0.tmp") {
		return d.spare.Open(name, flag, perm)
	}
	f, err := d.Mem.Open(name, flag, perm)
	if err == nil && d.lies {
		f = liar{f}
	}
	return f, err
}

// Remove implements vfs.FS.
func (d *disk) Remove(name string) error {
	if strings.HasSuffix(name, "/0.tmp") {
		return d.spare.Remove(name)
	}
	return d.Mem.Remove(name)
}

type liar struct{ vfs.File }

func (liar) Datasync() error { return nil }
