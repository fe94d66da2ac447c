package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
)

// switchboard carries messages between replicas of one process.
type switchboard struct {
	mu    sync.Mutex
	lines map[uint64]*Replica

	tap    func(*raftpb.Message) bool // sees every message; false: it is lost
	damage func(*bytes.Buffer)        // of snapshots on their way
	alone  map[uint64]bool            // cut off from the others
}

// isolate cuts a member off, or lets it back.
func (s *switchboard) isolate(id uint64, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone == nil {
		s.alone = map[uint64]bool{}
	}
	s.alone[id] = cut
}

func (s *switchboard) send(ms []*raftpb.Message) {
	for _, m := range ms {
		s.mu.Lock()
		to := s.lines[m.GetTo()]
		if s.alone[m.GetTo()] != s.alone[m.GetFrom()] {
			to = nil
		}
		if s.tap != nil && !s.tap(m) {
			to = nil
		}
		s.mu.Unlock()
		if to != nil {
			to.Deliver(proto.Clone(m).(*raftpb.Message))
		}
	}
}

// sendSnapshot carries one within its call: the flusher waits.
func (s *switchboard) sendSnapshot(from uint64) func(*raftpb.Message, *store.Copy) {
	return func(m *raftpb.Message, image *store.Copy) {
		defer image.Close()
		s.mu.Lock()
		to, sender := s.lines[m.GetTo()], s.lines[from]
		s.mu.Unlock()
		var b bytes.Buffer
		_, err := image.WriteTo(&b)
		if err == nil && to != nil {
			if s.damage != nil {
				s.damage(&b)
			}
			err = to.Receive(context.Background(), proto.CloneOf(m), &b)
		}
		if sender != nil {
			sender.SnapshotSent(member.ID(m.GetTo()), to != nil && err == nil)
		}
	}
}

func (s *switchboard) connect(id uint64, r *Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines[id] = r
}

// startCluster starts members 1 to n, their homes changed by tune.
func startCluster(t *testing.T, n int, tune ...func(*home)) (*switchboard, []*home, []*running) {
	board := &switchboard{lines: map[uint64]*Replica{}}
	var homes []*home
	var members []*running
	for i := range n {
		h := newHome(t)
		h.dir, h.self, h.send = t.TempDir(), uint64(i+1), board.send
		h.sendSnapshot = board.sendSnapshot(h.self)
		for _, change := range tune {
			change(h)
		}
		h.makeDirs(t)
		ids := []uint64{h.self}
		for j := range n {
			if j != i {
				ids = append(ids, uint64(j+1))
			}
		}
		h.createLog(t, ids...)
		r := h.start(t)
		board.connect(h.self, r.Replica)
		homes, members = append(homes, h), append(members, r)
	}
	return board, homes, members
}

func leaderOf(t *testing.T, members []*running) (leader, other *running) {
	t.Helper()
	eventually(t, "one leader that all know", func() bool {
		leader, other = nil, nil
		for _, m := range members {
			switch s := m.Status(); {
			case s.Leader == 0 || s.Leader != members[0].Status().Leader:
				return false
			case s.Leading():
				leader = m
			default:
				other = m
			}
		}
		return leader != nil
	})
	return leader, other
}

func TestThreeMembersAgree(t *testing.T) {
	board, homes, members := startCluster(t, 3)
	leader, other := leaderOf(t, members)
	for i, m := range members {
		m.mustPut(fmt.Sprint(i), "v")
	}
	for _, m := range members {
		must(t, m.Barrier(t.Context()))
		for i := range members {
			if _, ok := m.get(fmt.Sprint(i)); !ok {
				t.Errorf("%d is missing behind a barrier", i)
			}
		}
	}
	if _, err := other.Renew(t.Context(), 1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("renew on a follower: %v", err)
	}
	if err := other.Transfer(t.Context(), 1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("transfer by a follower: %v", err)
	}
	must(t, leader.Transfer(t.Context(), member.ID(other.Status().Member)))
	if !other.Status().Leading() {
		t.Error("transferred, and does not lead")
	}

	// The leader goes; the others go on, and it catches up when it is back.
	board.connect(other.Status().Member, nil)
	other.close()
	var rest []*running
	var lost *home
	for i, m := range members {
		if m == other {
			lost = homes[i]
		} else {
			rest = append(rest, m)
		}
	}
	leader, _ = leaderOf(t, rest)
	leader.mustPut("after", "v")
	back := lost.start(t)
	board.connect(lost.self, back.Replica)
	eventually(t, "the lost member catches up", func() bool {
		_, ok := back.get("after")
		return ok
	})
}

func TestProposersOnEveryMemberAreAnswered(t *testing.T) {
	// A change of leaders, which a busy machine may cause, loses what was passed on.
	_, _, members := startCluster(t, 3, func(h *home) { h.options.Heartbeat, h.options.Election = 100*time.Millisecond, 2*time.Second })
	leaderOf(t, members)
	var all sync.WaitGroup
	for i, m := range members {
		for c := range 20 {
			all.Go(func() {
				for n := range 20 {
					key := fmt.Sprintf("%d-%d-%d", i, c, n)
					if _, err := m.put(key, "v"); err != nil {
						t.Errorf("put: %v", err)
						return
					}
					if _, ok := m.get(key); !ok {
						t.Errorf("%s is acknowledged and not in the view", key)
					}
				}
			})
		}
	}
	all.Wait()
	want := int64(1 + 3*20*20)
	for _, m := range members {
		must(t, m.Barrier(t.Context()))
		if got := m.View().Keys.Revision(); got != want {
			t.Errorf("revision %d, want %d", got, want)
		}
	}
}

func TestLeaseOutlivesItsLeader(t *testing.T) {
	_, _, members := startCluster(t, 3)
	leader, other := leaderOf(t, members)
	leader.grant(7, 100)
	must(t, leader.Transfer(t.Context(), member.ID(other.Status().Member)))
	if _, err := other.Renew(t.Context(), 7); err != nil {
		t.Errorf("renew by the new leader: %v", err)
	}
	eventually(t, "the old leader refuses", func() bool {
		_, err := leader.Renew(t.Context(), 7)
		return errors.Is(err, ErrNotLeader)
	})
	if _, err := other.Remaining(t.Context(), 8); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("remaining: %v", err)
	}
}

// A member of two whose other never comes.
func TestWithoutALeaderEverythingEndsInTime(t *testing.T) {
	h := newHome(t)
	h.dir, h.self, h.options.Election = t.TempDir(), 1, time.Second
	h.makeDirs(t)
	h.createLog(t, 1, 2)
	synctest.Test(t, func(t *testing.T) {
		r := h.start(t)
		begin := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := r.Barrier(t.Context()); !errors.Is(err, ErrTimeout) {
				t.Errorf("barrier: %v", err)
			}
		}()
		if _, err := r.put("k", "v"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put: %v", err)
		}
		<-ended
		if took := time.Since(begin); took < 6900*time.Millisecond || took > 7500*time.Millisecond {
			t.Errorf("took %v, want 7 s", took)
		}
		r.close()
	})
}

func TestLostQuorumTimesOut(t *testing.T) {
	board, _, members := startCluster(t, 3)
	leader, _ := leaderOf(t, members)
	leader.mustPut("k", "v")
	for i := range members {
		board.connect(uint64(i+1), nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := leader.Propose(ctx, putRequest("k", "w"), nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put: %v", err)
	}
	if err := leader.Barrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("barrier: %v", err)
	}
	eventually(t, "the leader steps down", func() bool { return leader.Status().Leader == 0 })
	if v, _ := leader.get("k"); v != "v" {
		t.Errorf("%q in the view, not agreed on", v)
	}
}

// A proposal that raft has, and that never gets a quorum.
func TestProposalWithoutAQuorumTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, _, members := startCluster(t, 3)
		leader, _ := leaderOf(t, members)
		time.Sleep(time.Minute) // the election is long ago
		for i := range members {
			board.connect(uint64(i+1), nil)
		}
		begin := time.Now()
		if _, err := leader.put("k", "w"); !errors.Is(err, ErrTimeout) || errors.Is(err, ErrTimeoutLeaderFailed) {
			t.Errorf("put: %v", err)
		}
		if took := time.Since(begin); took < 5100*time.Millisecond || took > 5500*time.Millisecond {
			t.Errorf("took %v, want 5.2 s", took)
		}
		for _, m := range members {
			m.close()
		}
	})
}

func TestTimeoutBlamesALeaderThatWasLost(t *testing.T) {
	r := newHome(t).open(t)
	defer r.log.Close()
	defer r.store.Close()
	elected := time.Now()
	r.standing.Store(&standing{leader: self, since: elected})
	for ago, want := range map[time.Duration]error{
		-time.Millisecond:      ErrTimeout, // begun after the election
		100 * time.Millisecond: ErrTimeoutLeaderFailed,
		300 * time.Millisecond: ErrTimeout, // long before: 2 election timeouts are 200 ms
	} {
		if err := r.timeoutOf(elected.Add(-ago)); !errors.Is(err, want) {
			t.Errorf("begun %v before the election: %v, want %v", ago, err, want)
		}
	}
}

func TestTimeoutBlamesAConnectionThatWasLost(t *testing.T) {
	r := newHome(t).open(t)
	defer r.log.Close()
	defer r.store.Close()
	at := time.Now()
	links := map[member.ID]time.Time{2: at, 3: at}
	r.parts.Linked = func(id member.ID, since time.Time) bool {
		from, ok := links[id]
		return ok && from.Before(since)
	}
	machine := r.parts.Machine
	for _, id := range []member.ID{self, 2, 3} {
		index, _ := machine.Applied()
		machine.Apply(state.Entry{Index: index + 1, Term: 1, Change: member.Change{ID: id, Member: member.Member{ID: id}}.Entry(1)})
	}
	r.view.Store(machine.View())
	if n := len(r.View().Members.Members()); n != 3 {
		t.Fatalf("%d members, want 3", n)
	}
	for _, c := range []struct {
		leader uint64
		after  time.Duration
		want   error
	}{
		{0, -time.Minute, ErrTimeout},
		{2, time.Second, ErrTimeout},
		{2, -time.Second, ErrTimeoutConnection}, // it was connected later than the proposal was made
		{9, time.Second, ErrTimeoutConnection},
		{self, time.Second, ErrTimeout},
		{self, -time.Second, ErrTimeoutConnection},
	} {
		r.standing.Store(&standing{leader: c.leader, since: at.Add(-time.Hour)})
		if err := r.timeoutOf(at.Add(c.after)); !errors.Is(err, c.want) {
			t.Errorf("leader %d, %v: %v, want %v", c.leader, c.after, err, c.want)
		}
	}
	delete(links, 3) // two of three are enough
	r.standing.Store(&standing{leader: self})
	if err := r.timeoutOf(at.Add(time.Second)); !errors.Is(err, ErrTimeout) {
		t.Errorf("with two of three: %v", err)
	}
}

func TestMemberThatIsAloneLeadsAtOnce(t *testing.T) {
	h := newHome(t)
	h.options.Heartbeat, h.options.Election = 0, 0
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r := h.start(t)
		r.mustPut("k", "v")
		if took := time.Since(begin); took > 0 {
			t.Errorf("took %v, want no tick", took)
		}
		r.close()
	})
}

func TestBarrierTakesRoundsOnceThereIsALearner(t *testing.T) {
	r := newHome(t).start(t)
	must(t, r.Barrier(t.Context()))
	if !r.alone.Load() {
		t.Error("takes rounds though it is alone")
	}
	must(t, r.Change(t.Context(), member.Change{
		Type: raftpb.ConfChangeAddLearnerNode, ID: 5,
		Member: member.Member{ID: 5, PeerURLs: []string{"http://127.0.0.1:9"}, Learner: true},
	}))
	if r.alone.Load() {
		t.Error("believes to be alone after a learner was added")
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				if err := r.Barrier(t.Context()); err != nil {
					t.Errorf("barrier: %v", err)
				}
			}
		})
	}
	all.Wait()
	err := r.Change(t.Context(), member.Change{
		Type: raftpb.ConfChangeAddLearnerNode, ID: 6,
		Member: member.Member{ID: 6, PeerURLs: []string{"http://127.0.0.1:10"}, Learner: true},
	})
	if !errors.Is(err, member.ErrTooManyLearners) {
		t.Errorf("second learner: %v", err)
	}
	must(t, r.Change(t.Context(), member.Change{Type: raftpb.ConfChangeRemoveNode, ID: 5, Member: member.Member{ID: 5}}))
	if !r.alone.Load() {
		t.Error("takes rounds though the learner is gone")
	}
	r.mustPut("k", "v")
}

func TestPhysicalCompactionIsAnsweredWhenTheRowsAreGone(t *testing.T) {
	h := newHome(t)
	h.options.FlushInterval = time.Hour
	h.options.CompactionBatch = 10
	h.options.CompactionPause = time.Millisecond
	r := h.start(t)
	for range 100 {
		r.mustPut("k", "v")
	}
	request := &state.Request{Compaction: &pb.CompactionRequest{Revision: 101, Physical: true}}
	_, err := r.Propose(t.Context(), request, nil)
	must(t, err)
	reader, err := r.store.Read()
	must(t, err)
	defer reader.Close()
	rows := 0
	reader.Scan("key", nil, nil, func(_, _ []byte) bool { rows++; return true })
	if rows != 1 {
		t.Errorf("%d rows in the store, want 1", rows)
	}
	if swept := r.View().Swept; swept != 101 {
		t.Errorf("swept to %d", swept)
	}
}

func TestCompactionCutShortGoesOnAfterARestart(t *testing.T) {
	h := newHome(t)
	h.options.CompactionPause = time.Hour // the first life never gets to it
	r := h.start(t)
	for range 50 {
		r.mustPut("k", "v")
	}
	_, err := r.Propose(t.Context(), &state.Request{Compaction: &pb.CompactionRequest{Revision: 51}}, nil)
	must(t, err)
	r.close()
	h.options.CompactionPause = time.Millisecond
	again := h.start(t)
	eventually(t, "the removals are complete", func() bool { return again.View().Swept == 51 })
}
