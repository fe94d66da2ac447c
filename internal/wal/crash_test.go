package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/vfs"
)

const crashDir = "/member/wal"

// twin is what a log should hold: every entry since the last Reset, plainly.
type twin struct {
	base    Snapshot // the entries begin behind it
	entries []*raftpb.Entry
	start   Snapshot // newest snapshot record
	state   State
	synced  State // the newest state that must be on disk
}

func (w twin) last() uint64 { return w.base.Index + uint64(len(w.entries)) }

func (w twin) after(index uint64) []*raftpb.Entry {
	if index < w.base.Index || index > w.last() {
		return nil
	}
	return w.entries[index-w.base.Index:]
}

func (w twin) termAt(index uint64) uint64 {
	if index == w.base.Index {
		return w.base.Term
	}
	return w.entries[index-w.base.Index-1].GetTerm()
}

// call is one call to a log and what the twin is afterwards.
type call struct {
	text    string
	do      func(l *Log) error
	after   twin
	entries []*raftpb.Entry // Append: what is written one by one
	ops     int             // operations of the file system when it had returned
}

// script makes calls up at random: what an appender would do over some terms.
func script(rng *rand.Rand, steps int) (calls []call) {
	w := twin{}
	w.state.Term = 1
	for range steps {
		c := call{}
		switch pick := rng.IntN(20); {
		case pick == 0 && w.last() > w.start.Index: // disk snapshot
			at := w.start.Index + 1 + rng.Uint64N(w.last()-w.start.Index)
			s := Snapshot{at, w.termAt(at), testConf}
			c.text, c.do = fmt.Sprintf("snapshot %d", at), func(l *Log) error { return l.MarkSnapshot(s) }
			w.start = s
			w.state.Commit = max(w.state.Commit, at)
			w.synced = w.state
		case pick == 1: // a snapshot from the leader
			w.state.Term++
			s := Snapshot{w.state.Commit + 1 + rng.Uint64N(30), w.state.Term, testConf}
			w.state.Commit = s.Index
			hs := w.state.message()
			c.text, c.do = fmt.Sprintf("reset %d", s.Index), func(l *Log) error { return l.Reset(s, hs) }
			w.base, w.entries, w.start, w.synced = s, nil, s, w.state
		case pick == 2:
			c.text, c.do = "purge", func(l *Log) error { return l.Purge(2) }
		case pick == 3 && w.state.Commit > 0: // memory only
			at := w.state.Commit
			c.text, c.do = fmt.Sprintf("compact %d", at), func(l *Log) error { return l.Compact(at) }
		case pick < 8 && w.state.Commit < w.last(): // commit alone
			w.state.Commit += 1 + rng.Uint64N(w.last()-w.state.Commit)
			hs := w.state.message()
			c.text, c.do = fmt.Sprintf("commit %d", w.state.Commit), func(l *Log) error { return l.Append(hs, nil, false) }
		default:
			first := w.last() + 1
			if rng.IntN(6) == 0 { // a new leader replaces what is not committed
				w.state.Term++
				w.state.Vote = rng.Uint64N(3)
				first = w.state.Commit + 1 + rng.Uint64N(w.last()-w.state.Commit+1)
			}
			for i := range 1 + rng.Uint64N(6) {
				c.entries = append(c.entries, entry(w.state.Term, first+i, payload(rng)))
			}
			if rng.IntN(2) == 0 {
				w.state.Commit += rng.Uint64N(w.last() - w.state.Commit + 1)
				w.state.Commit = min(w.state.Commit, first-1)
			}
			hs, entries := w.state.message(), c.entries
			c.text = fmt.Sprintf("append %s commit %d", brief(entries), w.state.Commit)
			c.do = func(l *Log) error { return l.Append(hs, entries, true) }
			w.entries = append(slices.Clip(w.entries[:first-w.base.Index-1]), c.entries...)
			w.synced = w.state
		}
		c.after = w
		calls = append(calls, c)
	}
	return calls
}

// payload is mostly short, sometimes of many sectors, sometimes of zeroes,
// which look like lost sectors.
func payload(rng *rand.Rand) string {
	n := rng.IntN(60)
	if rng.IntN(4) == 0 {
		n = rng.IntN(3000)
	}
	if rng.IntN(4) == 0 {
		return strings.Repeat("\x00", n)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// settle waits for the allocating goroutine, so that a run is repeatable.
func (l *Log) settle() *Log {
	if l.spare != nil {
		<-l.spare.done
	}
	return l
}

func newDisk(t *testing.T) (*vfs.Mem, Options) {
	m, o := memory(4096)
	ok(t, errors.Join(m.Mkdir("/member", 0o700), m.SyncDir("/")))
	return m, o
}

// perform runs a script and notes the journal's length after each call. The
// first call is Create, a last one Close. It stops at the first error.
func perform(t *testing.T, m *vfs.Mem, o Options, calls []call) ([]call, error) {
	t.Helper()
	created := call{text: "create"}
	created.after.state, created.after.synced = State{}, State{}
	l, err := Create(crashDir, testID, o)
	if err != nil {
		return nil, err
	}
	created.ops = m.Ops()
	l.settle()
	done := []call{created}
	closing := call{text: "close", do: (*Log).Close, after: calls[len(calls)-1].after}
	for _, c := range append(slices.Clip(calls), closing) {
		if err := c.do(l); err != nil {
			return append(done, c), errors.Join(err, l.Close())
		}
		c.ops = m.Ops()
		l.settle()
		done = append(done, c)
	}
	return done, nil
}

// recovered checks what Open makes of a disk on which the first calls were
// acknowledged and at most one more was under way (flying may be nil).
func recovered(disk *vfs.Mem, acked twin, flying *call) (*Log, error) {
	l, err := Open(crashDir, Options{Files: disk, SegmentBytes: 4096})
	if err != nil {
		return nil, err
	}
	l.settle()
	if err := holds(l, acked, flying); err != nil {
		return l, err
	}
	return l, nil
}

func holds(l *Log, acked twin, flying *call) error {
	next := acked
	if flying != nil {
		next = flying.after
	}
	hs, _, _ := l.InitialState()
	state := stateOf(hs)
	if voted := (State{state.Term, state.Vote, 0}); voted != (State{acked.synced.Term, acked.synced.Vote, 0}) &&
		voted != (State{next.state.Term, next.state.Vote, 0}) {
		return fmt.Errorf("state %+v, acknowledged %+v, under way %+v", state, acked.synced, next.state)
	}
	if state.Commit < acked.synced.Commit || state.Commit > next.state.Commit {
		return fmt.Errorf("commit %d, synced %d, under way %d", state.Commit, acked.synced.Commit, next.state.Commit)
	}
	start := l.Start()
	if start.Index != acked.start.Index && start.Index != next.start.Index {
		return fmt.Errorf("starts at %d, not at %d or %d", start.Index, acked.start.Index, next.start.Index)
	}
	last, _ := l.LastIndex()
	got, err := l.Entries(start.Index+1, last+1, 1<<62)
	if last == start.Index {
		got, err = nil, nil
	}
	if err != nil {
		return err
	}
	var could [][]*raftpb.Entry
	if start.Index == acked.start.Index {
		could = append(could, acked.after(start.Index))
		if flying != nil && len(flying.entries) > 0 { // some of the batch, in order
			keep := acked.after(start.Index)[:flying.entries[0].GetIndex()-start.Index-1]
			for n := range flying.entries {
				could = append(could, append(slices.Clip(keep), flying.entries[:n+1]...))
			}
		}
	}
	if start.Index == next.start.Index {
		could = append(could, next.after(start.Index))
	}
	for _, entries := range could {
		if sameEntries(got, entries) {
			return nil
		}
	}
	return fmt.Errorf("entries after %d are %s, not %s or some of what was under way", start.Index, brief(got), brief(could[0]))
}

// appendable checks that a recovered log can be appended to and opened again.
func appendable(l *Log, disk *vfs.Mem) error {
	last, _ := l.LastIndex()
	hs, _, _ := l.InitialState()
	e := entry(hs.GetTerm()+1, last+1, "after the crash")
	if err := l.Append(hard(hs.GetTerm()+1, 1, hs.GetCommit()), []*raftpb.Entry{e}, true); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	again, err := Open(crashDir, Options{Files: disk, SegmentBytes: 4096})
	if err != nil {
		return err
	}
	defer again.Close()
	got, err := again.Entries(last+1, last+2, 0)
	if err != nil {
		return err
	}
	if !proto.Equal(got[0], e) {
		return fmt.Errorf("entry %d came back as %v", last+1, got[0])
	}
	return nil
}

// seeds are 1 to usual and one never tried; KVD_TEST_SEED picks one to replay,
// KVD_TEST_SEEDS a number of new ones.
func seeds(t *testing.T, usual int) (list []uint64) {
	if s := os.Getenv("KVD_TEST_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		ok(t, err)
		return []uint64{seed}
	}
	if s := os.Getenv("KVD_TEST_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		ok(t, err)
		for range n {
			list = append(list, rand.Uint64())
		}
		return list
	}
	for i := range usual {
		list = append(list, uint64(i+1))
	}
	return append(list, rand.Uint64())
}

// The power fails after every operation of the file system; what was not
// synced is lost, kept, or torn. Every acknowledged entry is there afterwards
// and nothing is invented.
func TestEveryCrashIsRecovered(t *testing.T) {
	repairs := 0
	for _, seed := range seeds(t, 3) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			m, o := newDisk(t)
			begin := m.Ops()
			calls, err := perform(t, m, o, script(rng, 60))
			ok(t, err)
			for n := begin; n <= m.Ops(); n++ {
				for _, s := range []vfs.Survival{vfs.Lost, vfs.Kept, vfs.Torn, vfs.Torn, vfs.Torn} {
					repaired, err := crashAt(m, calls, n, s, rng)
					if err != nil {
						t.Fatalf("crash after %d operations, %v, unsynced writes %v: %v", n, m.Journal()[n-1:n],
							[]string{"lost", "kept", "torn"}[s], err)
					}
					if repaired {
						repairs++
					}
				}
			}
		})
	}
	if repairs == 0 {
		t.Error("no crash left a torn record: the test does not test what it should")
	}
}

// crashAt crashes the disk after n operations, recovers, and goes on.
func crashAt(m *vfs.Mem, calls []call, n int, s vfs.Survival, rng *rand.Rand) (repaired bool, err error) {
	disk := m.Crash(n, s, rng)
	at := slices.IndexFunc(calls, func(c call) bool { return c.ops > n }) // the call under way
	if at == 0 {
		if !exists(disk, crashDir) {
			l, err := Create(crashDir, testID, Options{Files: disk, SegmentBytes: 4096})
			if err != nil {
				return false, fmt.Errorf("create again: %w", err)
			}
			return false, appendable(l.settle(), disk)
		}
		at = 1 // renamed already: it is a log
	}
	var acked twin
	var flying *call
	if at > 0 {
		acked, flying = calls[at-1].after, &calls[at]
	} else {
		acked = calls[len(calls)-1].after
	}
	before := disk.Ops()
	l, err := recovered(disk, acked, flying)
	if err != nil {
		return false, fmt.Errorf("acknowledged %q: %w", calls[max(at, 1)-1].text, err)
	}
	if rng.IntN(3) == 0 { // and fails again during the recovery
		disk = disk.Crash(before+rng.IntN(disk.Ops()-before+1), vfs.Torn, rng)
		if l, err = recovered(disk, acked, flying); err != nil {
			return false, fmt.Errorf("after a second crash: %w", err)
		}
	}
	names, err := disk.List(crashDir)
	repaired = slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, brokenSuffix) })
	return repaired, errors.Join(err, appendable(l, disk))
}

// The disk fills up, or fails, at every operation. The log is dead from then
// on, and what it had acknowledged is recovered, after a crash and without.
func TestEveryFaultKillsTheLogAndIsRecovered(t *testing.T) {
	for _, seed := range seeds(t, 2) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 2))
			steps := script(rng, 40)
			m, o := newDisk(t)
			_, err := perform(t, m, o, steps)
			ok(t, err)
			for n := 8; n < m.Ops(); n++ {
				if err := faultAt(t, steps, n, rng); err != nil {
					t.Fatalf("fault at operation %d, %v: %v", n, m.Journal()[n], err)
				}
			}
		})
	}
}

func faultAt(t *testing.T, steps []call, n int, rng *rand.Rand) error {
	m, o := newDisk(t)
	full := rng.IntN(2) == 0 // else the disk fails
	hit := false
	m.Fault = func(at int, op *vfs.Op) error {
		if at < n {
			return nil
		}
		switch {
		case full && (op.Kind == vfs.Write || op.Kind == vfs.Allocate || op.Kind == vfs.Create):
			op.Land = rng.IntN(len(op.Data) + 1)
			hit = true
			return syscall.ENOSPC
		case !full && op.Kind == vfs.Sync:
			hit = true
			return syscall.EIO
		}
		return nil
	}
	calls, err := perform(t, m, o, steps)
	m.Fault = nil
	if err == nil {
		if hit && !full {
			return errors.New("a fault was swallowed")
		}
		return nil // the fault came when nothing needed the disk any more
	}
	if calls == nil {
		return nil // Create refused
	}
	acked, flying := calls[len(calls)-2].after, &calls[len(calls)-1]
	for _, s := range []vfs.Survival{vfs.Kept, vfs.Lost, vfs.Torn, vfs.Torn} {
		disk := m.Crash(m.Ops(), s, rng)
		l, err := recovered(disk, acked, flying)
		if err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		if err := appendable(l, disk); err != nil {
			return err
		}
	}
	return nil
}

func TestDeadLogRefusesEverything(t *testing.T) {
	m, o := memory(1 << 16)
	l := must(Create("/wal", testID, o))(t).settle()
	ok(t, l.Append(hard(1, 1, 1), row(1, 1, 3), true))
	m.Fault = func(_ int, op *vfs.Op) error {
		if op.Kind == vfs.Sync {
			return syscall.EIO
		}
		return nil
	}
	for what, err := range map[string]error{
		"append":   l.Append(hard(1, 1, 3), row(1, 4, 4), true),
		"again":    l.Append(hard(1, 1, 3), row(1, 4, 4), true),
		"commit":   l.Append(hard(1, 1, 3), nil, false),
		"snapshot": l.MarkSnapshot(Snapshot{2, 1, testConf}),
		"reset":    l.Reset(Snapshot{9, 1, testConf}, nil),
		"purge":    l.Purge(1),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", what, err)
		}
	}
	m.Fault = nil
	if err := l.Append(nil, row(1, 4, 4), true); !errors.Is(err, syscall.EIO) {
		t.Errorf("it came back to life: %v", err)
	}
	if last, _ := l.LastIndex(); last != 3 {
		t.Errorf("memory has entry %d, which was refused", last)
	}
	ok(t, l.Close())
	if err := l.Append(nil, row(1, 4, 4), true); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	ok(t, l.Close())
}
