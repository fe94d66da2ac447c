package store

import "time"

const (
	defaultMmapBytes = 10 << 30
	defaultTimeout   = 3 * time.Second
)

// Options tune a File. A zero field takes the default named beside it.
type Options struct {
	NoSync           bool          // never fsync: an outage of power may lose acknowledged commits
	FreelistArray    bool          // bbolt's array freelist instead of its map
	InitialMmapBytes int           // address space set aside; a commit past it waits for every reader; 10 GiB
	Timeout          time.Duration // how long Open waits for another process to let go of the file; 3 s
	ReadOnly         bool          // share the file with other readers; it must exist
	Resident         bool          // lock the file's pages in memory, so that no read waits for the disk

	// Trim cuts the room for growth off a file that was written anew: nobody is
	// going to write to it soon.
	Trim bool

	// OnCommit, if set, is told after each commit what it took.
	OnCommit func(CommitTimes)
	// OnDefragment, if set, is told after each defragmentation that went well.
	OnDefragment func(took time.Duration)
	// OnRewrite, if set, is told now and then how many bytes of rows a
	// defragmentation, or CopyInto, has copied, of about how many.
	OnRewrite func(done, total int64)
}

// CommitTimes says where the time of a commit went.
type CommitTimes struct{ Rebalance, Spill, Write, Total time.Duration }

func (o Options) complete() Options {
	if o.InitialMmapBytes == 0 {
		o.InitialMmapBytes = defaultMmapBytes
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return o
}
