package api

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/replica"
	"kvd/internal/state"
)

// others are the other members as a test wants them.
type others struct {
	active map[member.ID]time.Time
	// answer is what the leader says to whatever it is asked: a TTL, or an error.
	answer func(urls []string) (int64, error)
	asked  atomic.Int64
}

func (o *others) ActiveSince(id member.ID) time.Time { return o.active[id] }

func (o *others) ask(urls []string) (int64, error) {
	o.asked.Add(1)
	return o.answer(urls)
}

func (o *others) Promote(_ context.Context, urls []string, id member.ID, _ string) ([]member.Member, error) {
	_, err := o.ask(urls)
	return []member.Member{{ID: id, PeerURLs: urls}}, err
}

func (o *others) Renew(_ context.Context, urls []string, _ lease.ID) (int64, error) {
	return o.ask(urls)
}

func (o *others) TimeToLive(_ context.Context, urls []string, id lease.ID, _ bool) (*pb.LeaseTimeToLiveResponse, error) {
	ttl, err := o.ask(urls)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: int64(id), TTL: ttl, GrantedTTL: 100, Keys: [][]byte{[]byte("k")}}, nil
}

// always gives the same answer.
func always(ttl int64, err error) func([]string) (int64, error) {
	return func([]string) (int64, error) { return ttl, err }
}

func TestMembersComeAndGo(t *testing.T) {
	s := newSolo(t)
	cluster := pb.NewClusterClient(serve(t, s, Options{Strict: true}))
	before := time.Now()
	added := must(cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{" http://b:2", "http://a:1"}}))(t)
	urls := []string{"http://a:1", "http://b:2"}
	if h := added.Header; h.Revision != 0 || h.ClusterId != 0xc1 || h.MemberId != soloID || h.RaftTerm != 2 {
		t.Errorf("the header is %v", h)
	}
	if m := added.Member; !slices.Equal(m.PeerURLs, urls) || m.Name != "" || m.IsLearner {
		t.Errorf("added is %v", m)
	}
	id := added.Member.ID
	if member.ID(id) != member.AddedID(urls, before) && member.ID(id) != member.AddedID(urls, before.Add(time.Second)) {
		t.Errorf("the ID is %x", id)
	}
	if len(added.Members) != 2 || !proto.Equal(added.Members[slices.IndexFunc(added.Members, func(m *pb.Member) bool { return m.ID == id })], added.Member) {
		t.Errorf("the members are %v", added.Members)
	}
	updated := must(cluster.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"https://d:4", "unix://c:3"}}))(t)
	list := must(cluster.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true}))(t)
	for _, members := range [][]*pb.Member{updated.Members, list.Members} {
		if m := members[slices.IndexFunc(members, func(m *pb.Member) bool { return m.ID == id })]; !slices.Equal(m.PeerURLs, []string{"https://d:4", "unix://c:3"}) {
			t.Errorf("after the update there is %v", m)
		}
	}
	removed := must(cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}))(t)
	if len(removed.Members) != 1 || removed.Members[0].ID != soloID || removed.Header.Revision != 0 || updated.Header.Revision != 0 {
		t.Errorf("remove answers %v", removed)
	}
	_, err := cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id})
	refuses(t, err, codes.NotFound, "etcdserver: member not found")
	_, err = cluster.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: 99, PeerURLs: urls})
	refuses(t, err, codes.NotFound, "etcdserver: member not found")
	_, err = cluster.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: soloID, PeerURLs: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Errorf("an update to the same: %v", err)
	}
	_, err = cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://x:1", "http://127.0.0.1:1"}})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: Peer URLs already exists")
}

func TestLearnersComeAndGrow(t *testing.T) {
	s := newSolo(t)
	cluster := pb.NewClusterClient(serve(t, s, Options{Strict: true}))
	added := must(cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}, IsLearner: true}))(t)
	id := added.Member.ID
	if !added.Member.IsLearner || s.changes[0].Type != raftpb.ConfChangeAddLearnerNode {
		t.Errorf("added is %v by %v", added.Member, s.changes[0])
	}
	_, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://b:1"}, IsLearner: true})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: too many learner members in cluster")

	promote := func(id uint64) (*pb.MemberPromoteResponse, error) {
		return cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id})
	}
	s.matches = map[member.ID]uint64{soloID: 100, member.ID(id): 89}
	_, err = promote(id)
	refuses(t, err, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
	_, err = promote(99)
	refuses(t, err, codes.NotFound, "etcdserver: member not found")
	s.matches[member.ID(id)] = 90
	promoted := must(promote(id))(t)
	if len(promoted.Members) != 2 || promoted.Members[0].IsLearner || promoted.Members[1].IsLearner || promoted.Header.Revision != 0 {
		t.Errorf("promote answers %v", promoted)
	}
	_, err = promote(soloID)
	refuses(t, err, codes.FailedPrecondition, "etcdserver: can only promote a learner member")
	s.lag.Store(1)
	_, err = promote(id)
	refuses(t, err, codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long")
}

func TestBadPeerURLsAreRefused(t *testing.T) {
	s := newSolo(t)
	s.join("a", "b")
	s.peers = &others{}
	cluster := pb.NewClusterClient(serve(t, s, Options{Strict: true}))
	for _, urls := range [][]string{
		nil,
		{""},
		{"notaurl"},
		{"http://host"},
		{"http://host:1/"},
		{"http://host:1/path"},
		{"host:1"},
		{"ftp://host:1"},
		{"http://good:1", "http://[::1"},
		{"http://a:b"},
		{"://"},
	} {
		// It is refused before the cluster's health is looked at, which is bad.
		_, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls})
		refuses(t, err, codes.InvalidArgument, "etcdserver: given member URLs are invalid")
		_, err = cluster.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: uint64(idOf("a")), PeerURLs: urls})
		refuses(t, err, codes.InvalidArgument, "etcdserver: given member URLs are invalid")
	}
	if len(s.changes) > 0 {
		t.Errorf("proposed were %v", s.changes)
	}
}

func TestStrictnessGuardsTheQuorum(t *testing.T) {
	for _, strict := range []bool{true, false} {
		s := newSolo(t)
		s.join("a", "b")
		s.peers = &others{active: map[member.ID]time.Time{idOf("a"): time.Now().Add(-time.Minute)}} // b is down
		cluster := pb.NewClusterClient(serve(t, s, Options{Strict: strict}))
		_, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://c:1"}})
		if strict {
			refuses(t, err, codes.Unavailable, "etcdserver: unhealthy cluster")
			_, err = cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: uint64(idOf("a"))})
			refuses(t, err, codes.Unavailable, "etcdserver: unhealthy cluster")
		} else if err != nil {
			t.Errorf("without strictness: %v", err)
		}
		// A learner takes no part in the quorum.
		must(cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://l:1"}, IsLearner: true}))(t)
		must(cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: uint64(idOf("b"))}))(t)
	}
}

func TestStrictnessCountsTheStarted(t *testing.T) {
	s := newSolo(t)
	s.peers = &others{}
	s.add(member.Member{ID: idOf("a"), PeerURLs: []string{"http://a:1"}})
	s.add(member.Member{ID: idOf("l"), PeerURLs: []string{"http://l:1"}, Learner: true})
	cluster := pb.NewClusterClient(serve(t, s, Options{Strict: true}))
	const text = "etcdserver: re-configuration failed due to not enough started members"
	_, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://b:1"}})
	refuses(t, err, codes.Unknown, text)
	_, err = cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: soloID})
	refuses(t, err, codes.Unknown, text)
	s.add(member.Member{ID: idOf("b"), PeerURLs: []string{"http://b:1"}})
	s.matches = map[member.ID]uint64{soloID: 10, idOf("l"): 10}
	_, err = cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: uint64(idOf("l"))})
	refuses(t, err, codes.Unknown, text)
}

func TestErrorsOfAChangeReachTheClient(t *testing.T) {
	s := newSolo(t)
	cluster := pb.NewClusterClient(serve(t, s, Options{}))
	s.refuse = replica.ErrTimeoutConnection
	_, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}})
	refuses(t, err, codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost")
	s.refuse = replica.ErrTooManyRequests
	_, err = cluster.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: soloID + 1})
	refuses(t, err, codes.Unknown, "etcdserver: too many requests")
}

// following is a member that follows another, which answers so.
func following(t *testing.T, o Options, answer func([]string) (int64, error)) (*solo, *others, *API, pb.ClusterClient, pb.LeaseClient) {
	t.Helper()
	s := newSolo(t)
	s.join("a")
	s.leader.Store(uint64(idOf("a")))
	peers := &others{answer: answer}
	s.peers = peers
	conn, a := serving(t, s, o)
	return s, peers, a, pb.NewClusterClient(conn), pb.NewLeaseClient(conn)
}

func TestTheLeaderIsAskedForWhatItAloneKnows(t *testing.T) {
	_, _, _, cluster, leases := following(t, Options{}, func(urls []string) (int64, error) {
		if !slices.Equal(urls, []string{"http://a:1"}) {
			t.Errorf("asked at %q", urls)
		}
		return 42, nil
	})
	left := must(leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}))(t)
	want := &pb.LeaseTimeToLiveResponse{
		Header: &pb.ResponseHeader{ClusterId: 0xc1, MemberId: soloID, Revision: 1, RaftTerm: 2},
		ID:     7, TTL: 42, GrantedTTL: 100, Keys: [][]byte{[]byte("k")},
	}
	if !proto.Equal(left, want) {
		t.Errorf("time to live answers %v, want %v", left, want)
	}
	if m := renew(t, leases, 7); m.ID != 7 || m.TTL != 42 || m.Header.MemberId != soloID {
		t.Errorf("renew answers %v", m)
	}
	promoted := must(cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: 9}))(t)
	if promoted.Header.MemberId != soloID || promoted.Header.Revision != 0 || len(promoted.Members) != 1 || promoted.Members[0].ID != 9 {
		t.Errorf("promote answers %v", promoted)
	}
}

// renew renews once.
func renew(t *testing.T, leases pb.LeaseClient, id int64) *pb.LeaseKeepAliveResponse {
	t.Helper()
	stream := must(leases.LeaseKeepAlive(t.Context()))(t)
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	return must(stream.Recv())(t)
}

func TestFinalAnswersOfTheLeaderAreNotAskedForAgain(t *testing.T) {
	var answer atomic.Pointer[error]
	_, peers, _, cluster, leases := following(t, Options{RequestTimeout: time.Minute}, func([]string) (int64, error) { return 0, *answer.Load() })
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{peer.ErrNotReady, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{member.ErrNotFound, codes.NotFound, "etcdserver: member not found"},
		{member.ErrNotLearner, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
	} {
		answer.Store(&c.err)
		_, err := cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: 9})
		refuses(t, err, c.code, c.text)
	}
	answer.Store(&lease.ErrNotFound)
	left := must(leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 7}))(t)
	if left.ID != 7 || left.TTL != -1 || left.GrantedTTL != 0 || left.Header.MemberId != soloID {
		t.Errorf("time to live of no lease answers %v", left)
	}
	if m := renew(t, leases, 7); m.ID != 7 || m.TTL != 0 {
		t.Errorf("renew of no lease answers %v", m)
	}
	if n := peers.asked.Load(); n != 5 {
		t.Errorf("asked %d times, want 5", n)
	}
}

func TestTheLeaderIsAskedUntilItAnswers(t *testing.T) {
	var tries atomic.Int64
	_, _, _, _, leases := following(t, Options{RequestTimeout: time.Minute}, func([]string) (int64, error) {
		if tries.Add(1) < 3 {
			return 0, peer.ErrBehind
		}
		return 42, nil
	})
	began := time.Now()
	if m := renew(t, leases, 7); m.TTL != 42 {
		t.Errorf("renew answers %v", m)
	}
	if took := time.Since(began); tries.Load() != 3 || took < 2*forwardPause {
		t.Errorf("asked %d times in %v", tries.Load(), took)
	}
}

func TestALeaderThatDoesNotAnswerIsGivenUp(t *testing.T) {
	s, _, _, cluster, leases := following(t, Options{RequestTimeout: 60 * time.Millisecond}, always(0, errors.New("connection refused")))
	try := func(code codes.Code, text string) {
		t.Helper()
		_, err := cluster.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: 9})
		refuses(t, err, code, text)
		_, err = leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 7})
		refuses(t, err, code, text)
		stream := must(leases.LeaseKeepAlive(t.Context()))(t)
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 7}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		refuses(t, err, code, text)
	}
	try(codes.Unavailable, "etcdserver: request timed out")
	s.leader.Store(0)
	try(codes.Unavailable, "etcdserver: no leader")
	s.leader.Store(99) // who is that?
	try(codes.Unavailable, "etcdserver: no leader")
}

func TestAMemberThatBecomesTheLeaderAnswersItself(t *testing.T) {
	s, peers, _, _, leases := following(t, Options{RequestTimeout: time.Minute}, nil)
	peers.answer = func([]string) (int64, error) {
		s.leader.Store(soloID)
		return 0, errors.New("not a primary lessor")
	}
	must(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 7, TTL: 50}))(t)
	if m := renew(t, leases, 7); m.TTL != 50 {
		t.Errorf("renew answers %v", m)
	}
}

func TestStoppingEndsWhatIsPassedOn(t *testing.T) {
	asked := make(chan struct{}, 100)
	_, _, a, _, leases := following(t, Options{RequestTimeout: time.Hour, Grace: time.Hour}, func([]string) (int64, error) {
		asked <- struct{}{}
		return 0, errors.New("connection refused")
	})
	ended := make(chan error)
	go func() {
		_, err := leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 7})
		ended <- err
	}()
	<-asked
	a.streams.end(errStopped)
	refuses(t, <-ended, codes.Unavailable, "etcdserver: server stopped")
}

func TestTheDeskSpeaksToPeers(t *testing.T) {
	s := newSolo(t)
	s.add(member.Member{ID: idOf("l"), PeerURLs: []string{"http://l:1"}, Learner: true})
	s.add(member.Member{ID: idOf("r"), PeerURLs: []string{"http://r:1"}})
	if err := s.Change(t.Context(), member.Change{Type: raftpb.ConfChangeRemoveNode, ID: idOf("r")}); err != nil {
		t.Fatal(err)
	}
	_, a := serving(t, s, Options{})
	if _, err := s.Propose(t.Context(), &state.Request{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 50}}, nil); err != nil {
		t.Fatal(err)
	}
	if ttl, err := a.RenewHere(t.Context(), 7); ttl != 50 || err != nil {
		t.Errorf("renew: %d, %v", ttl, err)
	}
	if _, err := a.RenewHere(t.Context(), 8); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("renew: %v", err)
	}
	left, err := a.TimeToLiveHere(t.Context(), 7, true)
	if err != nil || left.TTL < 40 || left.GrantedTTL != 50 || left.Header != nil {
		t.Errorf("time to live: %v, %v", left, err)
	}
	if _, err := a.TimeToLiveHere(t.Context(), 8, true); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("time to live: %v", err)
	}
	s.matches = map[member.ID]uint64{soloID: 10, idOf("l"): 5, idOf("r"): 10}
	if _, err := a.PromoteHere(t.Context(), idOf("l")); !errors.Is(err, peer.ErrNotReady) {
		t.Errorf("promote: %v", err)
	}
	if _, err := a.PromoteHere(t.Context(), idOf("r")); !errors.Is(err, member.ErrNotFound) {
		t.Errorf("promote one that was removed: %v", err)
	}
	s.matches[idOf("l")] = 10
	if members, err := a.PromoteHere(t.Context(), idOf("l")); err != nil || len(members) != 2 {
		t.Errorf("promote: %v, %v", members, err)
	}
	if _, err := a.PromoteHere(t.Context(), soloID); !errors.Is(err, member.ErrNotLearner) {
		t.Errorf("promote a voter: %v", err)
	}
	s.lag.Store(1)
	if _, err := a.RenewHere(t.Context(), 7); !errors.Is(err, peer.ErrBehind) {
		t.Errorf("renew, behind: %v", err)
	}
	s.lag.Store(0)
	s.leader.Store(uint64(idOf("l")))
	_, promote := a.PromoteHere(t.Context(), idOf("l"))
	_, renew := a.RenewHere(t.Context(), 7)
	_, ask := a.TimeToLiveHere(t.Context(), 7, false)
	for i, err := range []error{promote, renew, ask} {
		if !errors.Is(err, peer.ErrNotLeader) {
			t.Errorf("%d: the desk of a follower says %v", i, err)
		}
	}
}
