package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// elect lets a leader vanish, tells the others or not, and returns how long it
// takes until one of them leads.
func electAfter(t *testing.T, tell func(m *running) bool) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		board, _, members := startCluster(t, 3)
		leader, _ := leaderOf(t, members)
		time.Sleep(time.Minute)
		lost := leader.Status().Member
		for _, m := range members {
			if m == leader {
				board.connect(lost, nil)
				leader.close()
			}
		}
		began := time.Now()
		var rest []*running
		for _, m := range members {
			if m == leader {
				continue
			}
			rest = append(rest, m)
			if tell(m) {
				m.Refused(1)
				m.Refused(2)
				m.Refused(3)
			}
		}
		for {
			if rest[0].Status().Leading() || rest[1].Status().Leading() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		took = time.Since(began)
		for _, m := range rest {
			m.close()
		}
	})
	return took
}

func TestLeaderWhosePortRefusesIsReplacedAtOnce(t *testing.T) {
	const heartbeat, election = 10 * time.Millisecond, 100 * time.Millisecond
	if took := electAfter(t, func(*running) bool { return true }); took > 5*heartbeat {
		t.Errorf("took %v of an election timeout of %v", took, election)
	}
	one := false
	took := electAfter(t, func(*running) bool { one = !one; return one })
	if took < election-2*heartbeat {
		t.Errorf("one member alone believed it, and after %v there was a leader", took)
	}
}

func TestMessagesThatNoMemberSendsAreDropped(t *testing.T) {
	in := newIntake()
	from := uint64(2)
	for _, m := range []*raftpb.Message{
		{},
		{Type: raftpb.MsgHup.Enum(), From: &from},
		{Type: raftpb.MsgStorageAppendResp.Enum(), From: &from},
		{Type: raftpb.MsgHeartbeatResp.Enum(), From: &from, Context: []byte("short")},
		{Type: raftpb.MsgProp.Enum(), From: &from},
		{Type: raftpb.MsgApp.Enum()},
		{Type: raftpb.MessageType(99).Enum(), From: &from},
	} {
		in.deliver(m)
	}
	if n := len(in.messages); n != 0 {
		t.Errorf("%d taken", n)
	}
	in.deliver(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, Context: make([]byte, readContextLength)})
	if n := len(in.messages); n != 1 {
		t.Errorf("%d taken, want 1", n)
	}
}
