package replica

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// fallBehind stops one of three members until the others no longer have the
// entries that it needs.
func fallBehind(t *testing.T) (board *switchboard, leader *running, lost *home) {
	t.Helper()
	board, homes, members := startCluster(t, 3, func(h *home) { h.options.CatchupEntries = 10 })
	leader, other := leaderOf(t, members)
	leader.mustPut("before", "v")
	for i, m := range members {
		if m == other {
			lost = homes[i]
		}
	}
	board.connect(lost.self, nil)
	other.close()
	for i := range 300 {
		leader.mustPut(fmt.Sprintf("k%03d", i), "v")
	}
	eventually(t, "the leader lets go of old entries", func() bool {
		first, err := leader.log.FirstIndex()
		must(t, err)
		return first > 200
	})
	return board, leader, lost
}

func TestMemberFarBehindGetsASnapshot(t *testing.T) {
	board, leader, lost := fallBehind(t)
	done := make(chan struct{})
	writing := make(chan struct{})
	go func() { // writes go on meanwhile
		defer close(writing)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				leader.mustPut(fmt.Sprint("w", i%50), fmt.Sprint(i))
			}
		}
	}()
	back := lost.start(t)
	old := back.View()
	board.connect(lost.self, back.Replica)
	eventually(t, "the snapshot is installed", func() bool {
		_, ok := back.get("k299")
		return ok
	})
	close(done)
	<-writing
	must(t, back.Barrier(t.Context()))
	if _, _, _, err := old.Keys.HashKV(0); !errors.Is(err, mvcc.ErrCollected) {
		t.Errorf("a view from before the snapshot: %v", err)
	}
	must(t, leader.Barrier(t.Context()))
	at := leader.View().Keys.Revision()
	var sums []uint32
	for _, m := range []*running{leader, back} {
		must(t, m.Flush(t.Context()))
		sum, _, _, err := m.View().Keys.HashKV(at)
		must(t, err)
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("hashes %v differ", sums)
	}
	leader.mustPut("after", "v")
	must(t, back.Barrier(t.Context()))
	if _, ok := back.get("after"); !ok {
		t.Error("it does not follow any more")
	}

	// And it starts again from what it was sent.
	board.connect(lost.self, nil)
	back.close()
	again := lost.start(t)
	board.connect(lost.self, again.Replica)
	must(t, again.Barrier(t.Context()))
	if _, ok := again.get("after"); !ok {
		t.Error("it was lost with the restart")
	}
}

func TestDamagedSnapshotIsSentAgain(t *testing.T) {
	board, _, lost := fallBehind(t)
	tries := 0
	board.damage = func(b *bytes.Buffer) {
		tries++
		switch tries {
		case 1:
			b.Truncate(b.Len() / 2)
		case 2:
			page := os.Getpagesize()
			for i := 2 * page; i < b.Len(); i++ {
				b.Bytes()[i] ^= 0xff
			}
		}
	}
	back := lost.start(t)
	board.connect(lost.self, back.Replica)
	eventually(t, "a whole snapshot is installed", func() bool {
		_, ok := back.get("k299")
		return ok
	})
	if left, _ := filepath.Glob(filepath.Join(lost.snapDir(), "tmp*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSnapshotOfAnotherEntryIsRefused(t *testing.T) {
	r := newHome(t).start(t)
	r.mustPut("k", "v")
	must(t, r.Flush(t.Context()))
	image, err := r.Copy(t.Context())
	must(t, err)
	defer image.Close()
	var b bytes.Buffer
	_, err = image.WriteTo(&b)
	must(t, err)
	index := image.Stamp().Index + 1
	m := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index}}}
	if err := r.Receive(t.Context(), m, &b); !errors.Is(err, ErrSnapshot) {
		t.Errorf("receive: %v", err)
	}
	var corrupt *store.CorruptError
	if err := r.Receive(t.Context(), m, bytes.NewReader(make([]byte, 1<<16))); !errors.As(err, &corrupt) {
		t.Errorf("receive zeroes: %v", err)
	}
}
