package peer

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

func TestThreeMembersHearEachOther(t *testing.T) {
	a, b, c := newStation(t, 0xa), newStation(t, 0xb), newStation(t, 0xc)
	acquaint(t, a, b, c)
	for _, s := range []*station{a, b, c} {
		if n := s.Connected(); n != 2 {
			t.Errorf("%s is connected to %d members", s.id, n)
		}
		for _, to := range []*station{a, b, c} {
			if s != to {
				s.Send([]*raftpb.Message{heartbeat(s.id, to.id, 1), appendTo(s.id, to.id, 2), appendTo(s.id, to.id, 3)})
			}
		}
	}
	for _, s := range []*station{a, b, c} {
		for _, from := range []*station{a, b, c} {
			for index := uint64(1); index <= 3; index++ {
				if s != from {
					eventually(t, "the message has come", func() bool { return s.ear.heard(from.id, index) })
				}
			}
		}
	}
	if got := a.metric("etcd_network_active_peers", "b"); got != 1 {
		t.Errorf("etcd_network_active_peers is %v", got)
	}
	for _, name := range []string{"etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total"} {
		if a.metric(name, "b") == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}

func TestMessagesToNobodyAreDropped(t *testing.T) {
	a := newStation(t, 0xa)
	a.Send([]*raftpb.Message{heartbeat(0xa, 0, 1), heartbeat(0xa, 0xff, 1)})
	a.SendSnapshot(heartbeat(0xa, 0xff, 1), image(t, 1))
	if got := a.ear.fates(); len(got) != 1 || got[0] {
		t.Errorf("the fates of snapshots are %v", got)
	}
}

// TestWhoIsNotKnownYetIsAnswered is a join: the leader knows the new member, and
// the new member does not know the leader.
func TestWhoIsNotKnownYetIsAnswered(t *testing.T) {
	leader, joiner := newStation(t, 0xa), newStation(t, 0xb)
	leader.Follow(viewOf(t, []member.Member{leader.member(), joiner.member()}))
	leader.Send([]*raftpb.Message{heartbeat(0xa, 0xb, 1)})
	eventually(t, "the leader's message was posted", func() bool { return joiner.ear.heard(0xa, 1) })
	joiner.Send([]*raftpb.Message{heartbeat(0xb, 0xa, 2)})
	eventually(t, "the joiner's answer was posted", func() bool { return leader.ear.heard(0xb, 2) })
	if joiner.active(0xa) {
		t.Error("a remote counts as a peer")
	}
	joiner.Follow(viewOf(t, []member.Member{leader.member(), joiner.member()}))
	if joiner.known.Load().remotes[0xa] != nil {
		t.Error("a peer is a remote, too")
	}
	leader.meet(joiner)
	joiner.meet(leader)
}

func TestRemotesAreBounded(t *testing.T) {
	a := newStation(t, 0xa, func(o *Options, _ *Parts) { o.MaxRemotes = 3 })
	for id := member.ID(1); id <= 9; id++ {
		a.AddRemote(id, []string{"http://127.0.0.1:1"})
	}
	a.AddRemote(99, []string{"ftp://127.0.0.1:1", "", "http://"})
	a.AddRemote(0xa, []string{"http://127.0.0.1:1"})
	known := a.known.Load()
	if len(known.remotes) != 3 || known.remotes[9] == nil || known.remotes[99] != nil {
		t.Errorf("remotes are %v", known.remotes)
	}
}

func TestAMemberThatComesBackIsFound(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	acquaint(t, a, b)
	b.server.Close()
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a has lost b", func() bool { return !a.active(0xb) })
	eventually(t, "raft was told that nobody listens", func() bool { return a.ear.count(a.ear.refusals, 0xb) > 0 })
	if a.metric("etcd_network_active_peers", "b") != 0 || a.metric("etcd_network_disconnected_peers_total", "b") == 0 {
		t.Error("the metrics do not show it")
	}
	a.Send([]*raftpb.Message{heartbeat(0xa, 0xb, 1)})
	eventually(t, "raft was told of the loss", func() bool { return a.ear.count(a.ear.lost, 0xb) > 0 })
	b = newStationAt(t, 0xb, b.address)
	b.Follow(viewOf(t, []member.Member{a.member(), b.member()}))
	a.meet(b)
	b.meet(a)
	a.Send([]*raftpb.Message{heartbeat(0xa, 0xb, 2), appendTo(0xa, 0xb, 3)})
	eventually(t, "messages flow again", func() bool { return b.ear.heard(0xa, 2) && b.ear.heard(0xa, 3) })
}

func TestOtherURLsAreUsed(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	at := b.member()
	at.PeerURLs = []string{"http://127.0.0.1:1"} // nobody is there
	a.Follow(viewOf(t, []member.Member{a.member(), at}))
	b.Follow(viewOf(t, []member.Member{a.member(), b.member()}))
	eventually(t, "a looks for b in vain", func() bool { return a.ear.count(a.ear.refusals, 0xb) > 0 })
	at.PeerURLs = append(at.PeerURLs, b.url)
	a.Follow(viewOf(t, []member.Member{a.member(), at}))
	a.meet(b)
	b.meet(a)
}

func TestARemovedMemberIsTold(t *testing.T) {
	t.Run("by a stream", func(t *testing.T) {
		a, b := newStation(t, 0xa), newStation(t, 0xb)
		acquaint(t, a, b)
		both := []member.Member{a.member(), b.member()}
		a.Follow(viewOf(t, both, 0xb))
		<-b.ended
		if !errors.Is(b.err, ErrRemoved) || !strings.Contains(b.err.Error(), "told by member a") {
			t.Errorf("Run returned %v", b.err)
		}
		if a.known.Load().peers[0xb] != nil || a.metric("etcd_network_active_peers", "b") != 0 {
			t.Error("the removed one is still a peer")
		}
	})
	t.Run("by a post", func(t *testing.T) {
		a, b := newStation(t, 0xa), newStation(t, 0xb)
		a.Follow(viewOf(t, []member.Member{a.member(), b.member()}, 0xb))
		b.AddRemote(0xa, []string{a.url})
		b.Send([]*raftpb.Message{heartbeat(0xb, 0xa, 1)})
		<-b.ended
		if !errors.Is(b.err, ErrRemoved) {
			t.Errorf("Run returned %v", b.err)
		}
		if a.ear.heard(0xb, 1) {
			t.Error("the message was delivered")
		}
	})
}

func TestAnotherClusterIsRefusedInBothLogs(t *testing.T) {
	a := newStation(t, 0xa)
	b := newStation(t, 0xb, func(o *Options, _ *Parts) { o.Cluster = 0xc2 })
	both := []member.Member{a.member(), b.member()}
	a.Follow(viewOf(t, both))
	b.Follow(viewOf(t, both))
	for _, s := range []*station{a, b} {
		eventually(t, "the server has logged it", func() bool {
			return len(s.log.lines("level=WARN", "from a member of another cluster", "its-cluster-id=c", "own-cluster-id=c")) > 0
		})
		eventually(t, "the client has logged it", func() bool {
			return len(s.log.lines("level=WARN", "refuses this one", "its-cluster-id=c", "own-cluster-id=c")) > 0
		})
	}
	for i := range uint64(20) {
		before := a.ear.count(a.ear.lost, 0xb)
		a.Send([]*raftpb.Message{heartbeat(0xa, 0xb, i)})
		eventually(t, "the post was refused", func() bool { return a.ear.count(a.ear.lost, 0xb) > before })
	}
	for _, s := range []*station{a, b} {
		if n := len(s.log.lines("level=WARN", "another cluster")); n > 2 {
			t.Errorf("%s has logged it %d times", s.id, n)
		}
	}
	if len(b.ear.heardAll()) > 0 || a.active(0xb) {
		t.Error("it was taken for a peer")
	}
}

func TestShutdownDoesNotWaitForStreams(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	acquaint(t, a, b)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestRunLeavesNothingBehind(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	acquaint(t, a, b)
	a.Send([]*raftpb.Message{heartbeat(0xa, 0xb, 1)})
	for _, s := range []*station{a, b} {
		if err := s.end(); err != nil {
			t.Errorf("Run of %s returned %v", s.id, err)
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, part := range []string{"(*reader).", "(*peer).", "(*remote).", "(*Transport)."} {
		if strings.Contains(string(stacks), "internal/peer."+part) {
			t.Errorf("a goroutine is in %s:\n%s", part, stacks)
		}
	}
	a.Send([]*raftpb.Message{heartbeat(0xa, 0xb, 2)})
	a.Follow(viewOf(t, []member.Member{a.member()}))
	if status, _, _ := request(t, http.MethodPost, a.url+"/raft", introduction(0xb), http.NoBody); status != http.StatusServiceUnavailable {
		t.Errorf("after Run a post is answered with %d", status)
	}
}

func TestOptionsNameEveryFault(t *testing.T) {
	_, err := New(Options{
		LocalAddress: "localhost", MaxMessageBytes: -1, MaxRemotes: -1, ReadTimeout: -1, URLs: []string{"ftp://x"},
	}, Parts{})
	for _, want := range []string{"no ID", "local address", "largest message", "remotes", "timeout", "ftp://x"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
}
