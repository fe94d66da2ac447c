package api

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"kvd/internal/mvcc"
	"kvd/internal/state"
)

// claimant speaks Election and Lock in bytes, whose messages are described in
// a module that is not ours.
type claimant struct {
	t      *testing.T
	member *solo
	conn   *grpc.ClientConn
}

func newClaimant(t *testing.T) *claimant {
	s := newSolo(t)
	return &claimant{t, s, serve(t, s, Options{})}
}

func (c *claimant) call(ctx context.Context, method string, in []byte) ([]byte, error) {
	var out []byte
	err := c.conn.Invoke(ctx, method, &in, &out, grpc.ForceCodecV2(rawCodec{}))
	return out, err
}

// rawCodec leaves messages as they are.
type rawCodec struct{ bytesCodec }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func lockBytes(name string, lease int64) []byte {
	return appendInt(appendOctets(nil, 1, []byte(name)), 2, uint64(lease))
}

func campaignBytes(name string, lease int64, value string) []byte {
	return appendOctets(lockBytes(name, lease), 3, []byte(value))
}

func leaderBytes(k leadership) []byte {
	r := campaignReply{k}.AppendTo(nil, state.Header{})
	var leader []byte
	if err := scan(r, func(f wireField) error {
		if f.num == 2 {
			f.octets(&leader)
		}
		return nil
	}); err != nil {
		panic(err)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), leader)
}

// octetsOf is field num of a message.
func octetsOf(t *testing.T, message []byte, num int) (b []byte) {
	t.Helper()
	if err := scan(message, func(f wireField) error {
		if int(f.num) == num {
			f.octets(&b)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *claimant) lock(ctx context.Context, name string, lease int64) (key string, err error) {
	out, err := c.call(ctx, "/v3lockpb.Lock/Lock", lockBytes(name, lease))
	return string(octetsOf(c.t, out, 2)), err
}

func (c *claimant) unlock(key string) {
	c.t.Helper()
	if _, err := c.call(c.t.Context(), "/v3lockpb.Lock/Unlock", appendOctets(nil, 1, []byte(key))); err != nil {
		c.t.Fatal(err)
	}
}

func (c *claimant) lease() int64 {
	c.t.Helper()
	r, err := pb.NewLeaseClient(c.conn).LeaseGrant(c.t.Context(), &pb.LeaseGrantRequest{TTL: 600})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.ID
}

// keys are those under a prefix, in the order in which they were created.
func (c *claimant) keys(prefix string) (all []string) {
	page, err := c.member.View().Range(&pb.RangeRequest{
		Key: []byte(prefix), RangeEnd: prefixEnd(prefix), SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_CREATE,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, b := range page.KVs {
		kv, err := mvcc.Parse(b)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, string(kv.Key))
	}
	return all
}

// until waits for something that other goroutines bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestWaitersAreWokenInOrder(t *testing.T) {
	c := newClaimant(t)
	first, err := c.lock(t.Context(), "l", c.lease())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 3)
	var running sync.WaitGroup
	for i := range 3 {
		lease := c.lease()
		running.Go(func() {
			key, err := c.lock(t.Context(), "l", lease)
			if err != nil {
				t.Error(err)
			}
			got <- key
		})
		until(t, "a waiter", func() bool { return len(c.keys("l/")) == i+2 })
	}
	places := c.keys("l/")
	if places[0] != first {
		t.Fatalf("%s holds the lock, and %s is first", first, places[0])
	}
	for i, place := range places[:3] {
		c.unlock(place)
		if next := <-got; next != places[i+1] {
			t.Errorf("after %s comes %s, want %s", place, next, places[i+1])
		}
		if len(got) > 0 {
			t.Errorf("two hold the lock after %s", place)
		}
	}
	running.Wait()
}

func TestACancelledWaiterLeavesNothingBehind(t *testing.T) {
	for _, method := range []string{"/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"} {
		c := newClaimant(t)
		if _, err := c.call(t.Context(), method, lockBytes("n", c.lease())); err != nil {
			t.Fatal(err)
		}
		for _, own := range []bool{true, false} {
			lease, leases := int64(0), len(must(c.member.Leases(t.Context()))(t))
			if own {
				lease = c.lease()
				leases++
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				_, err := c.call(ctx, method, campaignBytes("n", lease, "x"))
				ended <- err
			}()
			until(t, "a waiter", func() bool { return len(c.keys("n/")) == 2 })
			cancel()
			if err := <-ended; status.Code(err) != codes.Canceled {
				t.Errorf("%s: got %v", method, err)
			}
			until(t, "the waiter's key to go", func() bool { return len(c.keys("n/")) == 1 })
			until(t, "only leases of clients", func() bool { return len(must(c.member.Leases(t.Context()))(t)) == leases })
		}
	}
}

func TestAWaiterWhoseLeaseEndsIsTold(t *testing.T) {
	for method, text := range map[string]string{
		"/v3lockpb.Lock/Lock":             "mutex: session is expired",
		"/v3electionpb.Election/Campaign": "election: not leader",
	} {
		c := newClaimant(t)
		if _, err := c.call(t.Context(), method, lockBytes("n", c.lease())); err != nil {
			t.Fatal(err)
		}
		lease, ended := c.lease(), make(chan error)
		go func() {
			_, err := c.call(t.Context(), method, campaignBytes("n", lease, "x"))
			ended <- err
		}()
		until(t, "a waiter", func() bool { return len(c.keys("n/")) == 2 })
		if _, err := pb.NewLeaseClient(c.conn).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: lease}); err != nil {
			t.Fatal(err)
		}
		refuses(t, <-ended, codes.Unknown, text)
	}
}

func TestAClaimIsMadeOnceForALease(t *testing.T) {
	c := newClaimant(t)
	lease := c.lease()
	first, err := c.lock(t.Context(), "l", lease)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.lock(t.Context(), "l", lease)
	if err != nil || again != first || first != fmt.Sprintf("l/%x", lease) {
		t.Errorf("first %q, then %q, %v", first, again, err)
	}
}

func TestAWaiterOutlivesACompaction(t *testing.T) {
	c := newClaimant(t)
	first, err := c.lock(t.Context(), "l", c.lease())
	if err != nil {
		t.Fatal(err)
	}
	lease, got := c.lease(), make(chan error)
	go func() {
		_, err := c.lock(t.Context(), "l", lease)
		got <- err
	}()
	until(t, "a waiter", func() bool { return len(c.keys("l/")) == 2 })
	kv := pb.NewKVClient(c.conn)
	for range 10 {
		put(t, kv, "other", "x")
	}
	if _, err := kv.Compact(t.Context(), &pb.CompactionRequest{Revision: c.member.View().Keys.Revision()}); err != nil {
		t.Fatal(err)
	}
	c.unlock(first)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestAnElectionIsObserved(t *testing.T) {
	c := newClaimant(t)
	s, err := c.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/v3electionpb.Election/Observe", grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	in := appendOctets(nil, 1, []byte("e"))
	if err := s.SendMsg(&in); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	hears := func(value string) {
		t.Helper()
		var out []byte
		if err := s.RecvMsg(&out); err != nil {
			t.Fatal(err)
		}
		kv, err := mvcc.Parse(octetsOf(t, out, 2))
		if err != nil || string(kv.Value) != value {
			t.Fatalf("hears %q, want %q (%v)", kv.Value, value, err)
		}
	}
	campaign := func(value string) leadership {
		t.Helper()
		out, err := c.call(t.Context(), "/v3electionpb.Election/Campaign", campaignBytes("e", c.lease(), value))
		if err != nil {
			t.Fatal(err)
		}
		var k *leadership
		if err := scan(out, func(f wireField) error {
			if f.num == 2 {
				return f.leader(&k)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return *k
	}
	first := campaign("one")
	hears("one")
	in = appendOctets(leaderBytes(first), 2, []byte("more"))
	if _, err := c.call(t.Context(), "/v3electionpb.Election/Proclaim", in); err != nil {
		t.Fatal(err)
	}
	hears("more")
	if _, err := c.call(t.Context(), "/v3electionpb.Election/Resign", leaderBytes(first)); err != nil {
		t.Fatal(err)
	}
	_, err = c.call(t.Context(), "/v3electionpb.Election/Leader", appendOctets(nil, 1, []byte("e")))
	refuses(t, err, codes.Unknown, "election: no leader")
	_, err = c.call(t.Context(), "/v3electionpb.Election/Proclaim", in)
	refuses(t, err, codes.Unknown, "election: not leader")
	second := campaign("two")
	hears("two")
	out, err := c.call(t.Context(), "/v3electionpb.Election/Leader", appendOctets(nil, 1, []byte("e")))
	if err != nil || !bytes.Contains(out, second.key) {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestStoppingEndsWaiters(t *testing.T) {
	s := newSolo(t)
	ended := make(chan error, 1)
	t.Cleanup(func() { // runs after the server has stopped
		if err := <-ended; err == nil {
			t.Error("the waiter has got the lock")
		}
	})
	c := &claimant{t, s, serve(t, s, Options{})}
	if _, err := c.lock(t.Context(), "l", c.lease()); err != nil {
		t.Fatal(err)
	}
	lease := c.lease()
	go func() {
		_, err := c.lock(context.WithoutCancel(t.Context()), "l", lease)
		ended <- err
	}()
	until(t, "a waiter", func() bool { return len(c.keys("l/")) == 2 })
}

// FuzzClaimRequests reads bytes as every request of Election and Lock: those are
// refused that package proto would refuse.
func FuzzClaimRequests(f *testing.F) {
	f.Add(campaignBytes("name", 7, "value"))
	f.Add(leaderBytes(leadership{name: []byte("n"), key: []byte("n/7"), rev: 3, lease: 7}))
	f.Add([]byte{0x0a, 0x80})
	f.Add([]byte{0x0b, 0x0c})
	f.Add([]byte{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		sound := proto.Unmarshal(b, &emptypb.Empty{}) == nil
		for name, decode := range map[string]func() error{
			"lock":     func() error { _, err := decodeLock(b); return err },
			"unlock":   func() error { _, err := decodeUnlock(b); return err },
			"campaign": func() error { _, err := decodeCampaign(b); return err },
			"leader":   func() error { _, err := decodeLeader(b); return err },
		} {
			if err := decode(); (err == nil) != sound {
				t.Errorf("%s of %x: %v, and package proto takes it: %v", name, b, err, sound)
			}
		}
		r, err := decodeResign(b)
		if err == nil && !sound {
			t.Errorf("resign of %x is taken", b)
		}
		if err == nil && r.leader != nil {
			again, err := decodeResign(leaderBytes(*r.leader))
			if err != nil || !bytes.Equal(again.leader.key, r.leader.key) || again.leader.rev != r.leader.rev {
				t.Errorf("%x is read as %+v, and written and read as %+v, %v", b, r.leader, again.leader, err)
			}
		}
		if _, err := decodeProclaim(b); err == nil && !sound {
			t.Errorf("proclaim of %x is taken", b)
		}
	})
}
