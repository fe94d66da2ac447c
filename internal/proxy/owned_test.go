package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const ourSession = 7

// owning is a table with a session that is trusted for a while, and keys that are
// owned since revision 10 on.
func owning(t *testing.T, long time.Duration, keys ...string) *owned {
	t.Helper()
	o := newOwned()
	o.watch(true)
	o.open(ourSession, trust{time.Now(), long})
	head, err := proto.Marshal(&pb.ResponseHeader{Revision: 20, ClusterId: 3})
	if err != nil {
		t.Fatal(err)
	}
	o.see(head)
	for i, key := range keys {
		o.add(asked(t, o, key), int64(10+i), &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v"), ModRevision: 5})
	}
	return o
}

func asked(t *testing.T, o *owned, key string) *acquisition {
	t.Helper()
	if o.ask(key) != nil {
		t.Fatalf("%s is asked for when it is read once", key)
	}
	a := o.ask(key)
	if a == nil {
		t.Fatalf("%s is not asked for", key)
	}
	return a
}

// answered is what a table answers for a key; nil: nothing.
func answered(t *testing.T, o *owned, key string) *pb.RangeResponse {
	t.Helper()
	data, _ := o.read(key, &pb.RangeRequest{Key: []byte(key)})
	if data == nil {
		return nil
	}
	var r pb.RangeResponse
	if err := proto.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestAnOwnedKeyIsAnsweredOnlyAsLongAsItsSessionIsTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := owning(t, 5*time.Second, "k")
		time.Sleep(5*time.Second - 1)
		if r := answered(t, o, "k"); r == nil || r.Count != 1 || string(r.Kvs[0].Value) != "v" || r.Header.Revision != 20 || r.Header.ClusterId != 3 {
			t.Errorf("answered %v", r)
		}
		time.Sleep(1 * time.Nanosecond)
		if r := answered(t, o, "k"); r != nil {
			t.Errorf("when it is not trusted: %v", r)
		}
		if o.ask("j"); o.ask("j") != nil {
			t.Error("a session that is not trusted asks for keys")
		}
		o.renew(ourSession, trust{time.Now(), 5 * time.Second})
		if answered(t, o, "k") == nil {
			t.Error("a session that is renewed has lost its keys")
		}
		o.renew(ourSession+1, trust{time.Now(), time.Hour})
		time.Sleep(5 * time.Second)
		if answered(t, o, "k") != nil {
			t.Error("it was renewed by another session")
		}
		o.drop()
		o.open(ourSession+1, trust{time.Now(), time.Hour})
		if answered(t, o, "k") != nil {
			t.Error("a key has outlived its session")
		}
	})
}

// TestTimeIsWhatEitherClockSays, as one of them may stand still or be set.
func TestTimeIsWhatEitherClockSays(t *testing.T) {
	now := time.Now()
	if got := elapsed(now.Round(0).Add(-time.Hour), now); got != time.Hour { // by the wall
		t.Errorf("%s have passed", got)
	}
	if got := elapsed(now.Add(-time.Minute), now); got != time.Minute {
		t.Errorf("%s have passed", got)
	}
}

func TestWhatIsBeingWrittenIsNotAnswered(t *testing.T) {
	o := owning(t, time.Hour, "k", "j")
	read := func() (bool, *ticket) {
		answer, ticket := o.read("k", &pb.RangeRequest{Key: []byte("k")})
		return answer != nil, ticket
	}
	first := o.begin("l/", []span{{key: "k"}})
	second := o.begin("l/", []span{{key: "k"}})
	if g := first.guards; len(g) != 1 || g[0].span.key != "l/k" || g[0].owned != 10 {
		t.Errorf("the guards are %v", g)
	}
	if answer, ticket := read(); answer || ticket != nil {
		t.Error("it is answered, or learned, while it is written")
	}
	first.end(nil)
	if answer, ticket := read(); answer || ticket != nil {
		t.Error("it is answered, or learned, while another write is under way")
	}
	second.end(nil)
	_, early := read()
	if early == nil {
		t.Fatal("it cannot be learned")
	}
	third := o.begin("l/", []span{{key: "k"}})
	third.end(status.Error(codes.InvalidArgument, "no such lease"))
	o.learn(early, &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("old")})
	if r := answered(t, o, "k"); r != nil {
		t.Errorf("what was read before a write is answered: %v", r)
	}
	_, late := read()
	o.learn(late, nil)
	if r := answered(t, o, "k"); r == nil || r.Count != 0 || len(r.Kvs) != 0 {
		t.Errorf("a key that is not there: %v", r)
	}
	if answered(t, o, "j") == nil {
		t.Error("a write has cost another key")
	}
}

func TestAWriteOfWhichNothingIsKnownCostsTheOwnership(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal, codes.Aborted} {
		o := owning(t, time.Hour, "k")
		o.begin("l/", []span{{key: "k"}}).end(status.Error(code, "it may have been done"))
		if _, ticket := o.read("k", &pb.RangeRequest{}); ticket != nil || answered(t, o, "k") != nil || o.goes(9)["k"] != 10 {
			t.Errorf("%s: it is owned still", code)
		}
	}
}

// TestWhoIsAskedForAKeyNeverOwnsIt, in whatever order it hears of it.
func TestWhoIsAskedForAKeyNeverOwnsIt(t *testing.T) {
	for what, c := range map[string]struct {
		before, after func(o *owned)
		owned         bool
	}{
		"nobody asks": {owned: true},
		"somebody asks before the key is known as ours": {before: func(o *owned) { o.wanted("k", 30, 31, ourSession) }},
		"somebody asks after":                           {after: func(o *owned) { o.wanted("k", 30, 31, ourSession) }},
		"somebody asked the owner before":               {before: func(o *owned) { o.wanted("k", 28, 29, 5) }, owned: true},
		"the owner before has left":                     {before: func(o *owned) { o.deleted("k", 29) }, owned: true},
		"the ownership is deleted before it is known":   {before: func(o *owned) { o.deleted("k", 31) }},
		"the ownership is deleted":                      {after: func(o *owned) { o.deleted("k", 31) }},
		"an earlier ownership of ours is found":         {before: func(o *owned) { o.orphan("k", 28) }, owned: true},
		"a writer finds this one before it is known":    {before: func(o *owned) { o.orphan("k", 30) }},
		"a writer finds an earlier one":                 {after: func(o *owned) { o.orphan("k", 28) }, owned: true},
		"the session ends":                              {before: func(o *owned) { o.drop(); o.open(ourSession+1, trust{time.Now(), time.Hour}) }},
		"a range is written":                            {after: func(o *owned) { o.begin("l/", []span{{"a", "\x00"}}) }},
		"the ownership keys are deleted":                {after: func(o *owned) { o.begin("l/", []span{{"l/", "l0"}}) }},
	} {
		o := owning(t, time.Hour)
		a := asked(t, o, "k")
		if c.before != nil {
			c.before(o)
		}
		o.add(a, 30, nil)
		if c.after != nil {
			c.after(o)
		}
		if got := answered(t, o, "k") != nil; got != c.owned {
			t.Errorf("%s: it is owned: %t", what, got)
		}
		if o.ask("k"); !c.owned && o.session == ourSession && o.ask("k") != nil {
			t.Errorf("%s: it is asked for again at once", what)
		}
	}
}

func TestOwnedKeysKeepWithinTheirBounds(t *testing.T) {
	o := owning(t, time.Hour)
	for i := range maxOwned + 200 {
		key := fmt.Sprint(i)
		o.ask(key)
		if a := o.ask(key); a != nil {
			o.add(a, int64(i+1), nil)
		}
		if held, leaving := o.counts(); held+leaving > maxOwned {
			t.Fatalf("%d keys are owned and %d left", held, leaving)
		}
		o.went(o.goes(1))
	}
	if held, _ := o.counts(); held < maxOwned/2 {
		t.Errorf("only %d keys are owned", held)
	}
	o = owning(t, time.Hour)
	value := bytes.Repeat([]byte("x"), 4<<20)
	for i := range 30 {
		key := fmt.Sprint(i)
		o.add(asked(t, o, key), int64(i+1), &mvccpb.KeyValue{Key: []byte(key), Value: value})
		if o.bytes > ownedBytes {
			t.Fatalf("%d bytes are kept", o.bytes)
		}
	}
	if answered(t, o, "29") == nil || answered(t, o, "0") != nil {
		t.Error("what was read last is not kept, or what was read first is")
	}
	o.add(asked(t, o, "huge"), 99, &mvccpb.KeyValue{Value: bytes.Repeat(value, 5)})
	if answered(t, o, "huge") != nil || answered(t, o, "29") == nil {
		t.Error("one key takes all")
	}
	for key := range o.all {
		o.deleted(key, 1000)
	}
	if o.bytes != 0 || o.order.Len() != 0 {
		t.Errorf("of no keys %d bytes are kept", o.bytes)
	}
}

// TestGuardsCoverWhatIsWritten: whoever owns a key that is written, or whose
// ownership key is in a range that is written, is in the way.
func TestGuardsCoverWhatIsWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	letters := []string{"", "a", "k", "l", "l/", "l/a", "l0", "m", "\xff"}
	word := func() string { return letters[rng.IntN(len(letters))] + letters[rng.IntN(len(letters))] }
	for range 20000 {
		var spans []span
		for range 1 + rng.IntN(3)*rng.IntN(30) {
			s := span{key: word()}
			switch rng.IntN(4) {
			case 0:
				s.end = word()
			case 1:
				s.end = "\x00"
			}
			spans = append(spans, s)
		}
		prefix := []string{"l/", "\xff", "a"}[rng.IntN(3)]
		narrowed := narrow(prefix, spans)
		if len(narrowed) > mostGuards {
			t.Fatalf("%d spans", len(narrowed))
		}
		guards := newOwned().begin(prefix, narrowed).guards
		for range 20 {
			key := word()
			written := false
			for _, s := range spans {
				plays := s.end == "" && len(s.key) >= len(prefix) && s.key[:len(prefix)] == prefix
				written = written || s.holds(key) && !plays || s.end != "" && s.holds(prefix+key)
			}
			guarded := false
			for _, g := range guards {
				guarded = guarded || g.span.holds(prefix+key)
			}
			if written && !guarded {
				t.Fatalf("%q of %q is written by %q, and guarded by none of %v", key, prefix, spans, guards)
			}
		}
	}
}
