package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// One round is held up while readers come to every member of five. The round
// after it serves them all: raft confirms twice that the leader leads, not once
// a member.
func TestARoundOfTheLeaderServesEveryMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, _, members := startCluster(t, 5)
		leader, _ := leaderOf(t, members)
		rounds := map[string]bool{}
		held := true
		board.mu.Lock()
		board.tap = func(m *raftpb.Message) bool {
			context := string(m.GetContext())
			switch {
			case context == "":
				return true
			case m.GetType() == raftpb.MsgHeartbeat:
				rounds[context] = true
			}
			return !held || m.GetType() != raftpb.MsgHeartbeatResp
		}
		board.mu.Unlock()
		read := make(chan error)
		barrier := func(m *running) { go func() { read <- m.Barrier(t.Context()) }() }

		barrier(leader)
		synctest.Wait()
		for _, m := range members {
			barrier(m)
		}
		synctest.Wait()
		board.mu.Lock()
		if len(rounds) != 1 {
			t.Errorf("%d rounds are on their way, want the first only", len(rounds))
		}
		held = false
		board.mu.Unlock()
		for range 6 {
			if err := <-read; err != nil {
				t.Error(err)
			}
		}
		board.mu.Lock()
		if len(rounds) != 2 {
			t.Errorf("%d rounds served six readers, want 2", len(rounds))
		}
		board.mu.Unlock()
		for _, m := range members {
			m.close()
		}
	})
}

// The leader that a member has asked is cut off before it can answer. The
// member's readers are sent away, or served by the next leader; never by the old.
func TestReadersOfADeposedLeaderAreNotServedByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, _, members := startCluster(t, 5)
		leader, follower := leaderOf(t, members)
		old := leader.Status().Member
		asked := make(chan struct{}, 1)
		board.mu.Lock()
		board.tap = func(m *raftpb.Message) bool {
			if m.GetType() == raftpb.MsgReadIndex && m.GetTo() == old {
				select {
				case asked <- struct{}{}:
				default:
				}
			}
			if m.GetType() == raftpb.MsgReadIndexResp && m.GetFrom() == old {
				t.Error("the leader answered without having asked a quorum")
			}
			return m.GetType() != raftpb.MsgHeartbeatResp || len(m.GetContext()) == 0
		}
		board.mu.Unlock()
		read := make(chan error, 1)
		go func() { read <- follower.Barrier(t.Context()) }()
		<-asked
		board.isolate(old, true)
		select {
		case <-read: // served or sent away
		case <-time.After(time.Minute):
			t.Error("the reader still waits")
		}
		for _, m := range members {
			m.close()
		}
	})
}
