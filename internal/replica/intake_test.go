package replica

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/state"
)

func wait(in *intake, id uint64, due int64, bytes int) (*waiter, error) {
	w := in.rent()
	w.due = due
	return w, in.propose(proposal{id: id, kind: raftpb.EntryNormal, data: make([]byte, bytes)}, w)
}

func TestOverdueProposalIsNotProposedLater(t *testing.T) {
	in := newIntake()
	taken, err := wait(in, 1, 100, 10)
	must(t, err)
	if got := in.takeProposals(nil, 1<<20); len(got) != 1 {
		t.Fatalf("%d proposals", len(got))
	}
	left, err := wait(in, 2, 100, 10)
	must(t, err)
	if _, err := wait(in, 3, 200, 10); err != nil {
		t.Fatal(err)
	}
	if out := in.expire(99, time.Second); out != nil {
		t.Fatalf("%d are overdue too early", len(out))
	}
	out := in.expire(100, time.Second)
	if len(out) != 2 {
		t.Fatalf("%d are overdue, want 2", len(out))
	}
	for _, o := range out {
		if o.w == taken && !o.proposed || o.w == left && o.proposed {
			t.Errorf("waiter %d: proposed %v", o.w.id, o.proposed)
		}
	}
	if got := in.takeProposals(nil, 1<<20); len(got) != 1 || got[0].id != 3 {
		t.Errorf("left to propose: %v", got)
	}
	if out := in.expire(200, time.Second); len(out) != 1 || out[0].w.id != 3 {
		t.Errorf("overdue at 200: %v", out)
	}
	if in.bytes != 0 || len(in.pending) != 0 {
		t.Errorf("%d bytes of %d are still counted", in.bytes, len(in.pending))
	}
}

func TestWaiterIsAnsweredByOne(t *testing.T) {
	in := newIntake()
	w, err := wait(in, 1, 100, 10)
	must(t, err)
	found := make([]*waiter, 3)
	in.claim([]uint64{0, 1, 2}, found)
	if found[1] != w || found[0] != nil || found[2] != nil {
		t.Fatalf("claimed %v", found)
	}
	if in.leave(w) || in.expire(1000, time.Second) != nil {
		t.Error("claimed twice")
	}
}

func TestFullIntakeRefuses(t *testing.T) {
	in := newIntake()
	if _, err := wait(in, 1, 100, maxPendingBytes+1); err != nil {
		t.Errorf("a single large one: %v", err)
	}
	if _, err := wait(in, 2, 100, 1); !errors.Is(err, ErrTooManyRequests) {
		t.Errorf("past the bytes: %v", err)
	}
	in = newIntake()
	for id := range uint64(maxPending) {
		if _, err := wait(in, id+1, 100, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := wait(in, maxPending+1, 100, 0); !errors.Is(err, ErrTooManyRequests) {
		t.Errorf("past the number: %v", err)
	}
	for range maxMessages4me + 1 {
		in.deliver(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(2))})
	}
	if n := len(in.messages); n != maxMessages4me {
		t.Errorf("%d messages wait, want %d", n, maxMessages4me)
	}
	in = newIntake()
	big := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(2)), Entries: []*raftpb.Entry{{Data: make([]byte, maxMessageQueue/2+1)}}}
	for range 3 {
		in.deliver(big)
	}
	if n := len(in.messages); n != 1 {
		t.Errorf("%d large messages wait, want 1", n)
	}
	in.take(notes{})
	in.deliver(big)
	if n := len(in.messages); n != 1 {
		t.Errorf("after a round %d large messages wait, want 1", n)
	}
}

func TestEndsOfCopiesAreNeverRefused(t *testing.T) {
	in := newIntake()
	for range maxCalls {
		if err := in.ask(func(*loop) {}); err != nil {
			t.Fatal(err)
		}
	}
	in.copied(copyEnd{2, true})
	if fresh := in.take(notes{}); len(fresh.copies) != 1 || fresh.copies[0] != (copyEnd{2, true}) {
		t.Errorf("noted are %v", fresh.copies)
	}
}

func TestBatchIsBoundedByBytes(t *testing.T) {
	in := newIntake()
	for id := range uint64(10) {
		if _, err := wait(in, id+1, 100, 400); err != nil {
			t.Fatal(err)
		}
	}
	var buf []proposal
	var ids []uint64
	for {
		buf = in.takeProposals(buf, 1000)
		if len(buf) == 0 {
			break
		}
		if len(buf) > 2 {
			t.Errorf("%d of 400 bytes at once", len(buf))
		}
		for _, p := range buf {
			ids = append(ids, p.id)
		}
	}
	if fmt.Sprint(ids) != "[1 2 3 4 5 6 7 8 9 10]" {
		t.Errorf("order %v", ids)
	}
}

func TestMemberThatLagsBehindRefuses(t *testing.T) {
	r := newHome(t).start(t)
	r.mustPut("k", "v")
	applied := r.applied.Load()
	r.commit.Store(applied + maxBehind + 1)
	if _, err := r.put("k", "v"); !errors.Is(err, ErrTooManyRequests) {
		t.Errorf("got %v", err)
	}
	r.commit.Store(applied + maxBehind)
	r.mustPut("k", "v")
}

func TestRequestIDIsFoundInTheEntry(t *testing.T) {
	for _, id := range []uint64{1, 300, 1<<64 - 1} {
		request := &state.Request{
			Header: &pb.RequestHeader{ID: id, Username: "u", AuthRevision: 3},
			Put:    &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 300)},
		}
		data, err := state.Encode(request, nil)
		must(t, err)
		if got := requestID(data); got != id {
			t.Errorf("got %x, want %x", got, id)
		}
		for cut := range data {
			requestID(data[:cut]) // must not panic
		}
	}
	if got := requestID([]byte{1 << 3, 9, 2 << 3, 1}); got != 9 {
		t.Errorf("ID of old: %d", got)
	}
}

func TestIDsAreNotRepeated(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_123)
	g := NewIDs(0x8e9e05c52164694d, now)
	first := g.Next()
	if want := uint64(0x694d)<<48 | (uint64(now.UnixMilli())<<8+1)&(1<<48-1); first != want {
		t.Errorf("first %x, want %x", first, want)
	}
	for range 1000 {
		g.Next()
	}
	if last := g.Next(); last != first+1001 {
		t.Errorf("%x after %x", last, first)
	}
	if again := NewIDs(0x8e9e05c52164694d, now.Add(time.Second)).Next(); again <= first {
		t.Errorf("a later start begins at %x, before %x", again, first)
	}
}
