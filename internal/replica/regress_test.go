package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

func TestAnOldCopyOfAMemberEndsWithAnExplanation(t *testing.T) {
	board, homes, members := startCluster(t, 3)
	leader, _ := leaderOf(t, members)
	at := 0
	for members[at] == leader {
		at++
	}
	leader.mustPut("k", "early")
	eventually(t, "the follower to have it", func() bool { _, ok := members[at].get("k"); return ok })
	board.connect(homes[at].self, nil)
	members[at].close()
	copied := homes[at].clone(t)

	again := homes[at].start(t)
	board.connect(homes[at].self, again.Replica)
	for i := range 20 {
		leader.mustPut("k", fmt.Sprint("late ", i))
	}
	eventually(t, "the follower to have all", func() bool { v, _ := again.get("k"); return v == "late 19" })
	board.connect(homes[at].self, nil)
	again.close()

	back := copied.start(t)
	board.connect(copied.self, back.Replica)
	eventually(t, "the end of the old copy", func() bool {
		select {
		case <-back.ended:
			return true
		default:
			return false
		}
	})
	if !errors.Is(back.err, ErrLogRegressed) {
		t.Fatalf("it ends with %v", back.err)
	}
	if text := back.err.Error(); !strings.Contains(text, "its log ends at") || !strings.Contains(text, "kvd member rejoin") {
		t.Errorf("it says %q", text)
	}
	if s := leader.Status(); !s.Leading() {
		t.Error("the leader is hurt")
	}
}

func TestACommitPastTheLogIsExplainedAtTheStart(t *testing.T) {
	log := raft.NewMemoryStorage()
	must(t, log.Append([]*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(1))}}))
	must(t, log.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(7))}))
	err := explained(func() error {
		_, err := NewCore(CoreOptions{Self: 1, ElectionTicks: 10}, log, slog.New(slog.DiscardHandler))
		return err
	})
	if !errors.Is(err, ErrLogRegressed) || !strings.Contains(err.Error(), "has committed entry 7") {
		t.Errorf("got %v", err)
	}
}

func TestOtherPanicsPass(t *testing.T) {
	defer func() {
		if p := recover(); p != "raft: a bug in 1" {
			t.Errorf("got %v", p)
		}
	}()
	explained(func() error { raftLogger{}.Panicf("a bug in %d", 1); return nil })
	t.Error("it did not panic")
}

// Raft's words may change with its version; what they are matched by must then
// be changed, too.
func TestAHeartbeatPastTheLogIsExplained(t *testing.T) {
	log := raft.NewMemoryStorage()
	must(t, log.Append([]*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(1))}}))
	must(t, log.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}))
	core, err := NewCore(CoreOptions{Self: 1, ElectionTicks: 10}, log, slog.New(slog.DiscardHandler))
	must(t, err)
	beat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(3)), Commit: new(uint64(5))}
	err = explained(func() error { return core.Step(beat) })
	if !errors.Is(err, ErrLogRegressed) || !strings.Contains(err.Error(), "committed entry 5, which this member once held, and its log ends at 1") {
		t.Errorf("got %v", err)
	}
}
