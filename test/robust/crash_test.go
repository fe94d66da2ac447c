package robust

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

const (
	lanes       = 2 // servers that are killed at the same time
	writers     = 8 // of a lane
	roundsInAll = 30
	answerIn    = 15 * time.Second
)

// quick makes a member lead soon after its start.
var quick = []string{"--heartbeat-interval=20", "--election-timeout=200"}

// TestKillLosesNothingAcknowledged kills a server under load again and again.
// Each time it starts, every acknowledged write must be there, no other may be
// half there, and a watch that goes on where it was must see every revision
// once. At the end etcd must read the same from the directory.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	rounds := number(t, "KVD_CRASH_ROUNDS", roundsInAll)
	seed := uint64(number(t, "KVD_CRASH_SEED", int(rand.Uint32())))
	for i := range lanes {
		t.Run(fmt.Sprintf("lane %d", i), func(t *testing.T) {
			t.Parallel()
			t.Logf("KVD_CRASH_SEED=%d", seed)
			crash(t, rand.New(rand.NewPCG(seed, uint64(i))), (rounds+lanes-1)/lanes)
		})
	}
}

// number reads a variable that holds one.
func number(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// judged is the program under test: kvd, or what KVD_COMPAT_TARGET names.
func judged(t testing.TB) oracle.Binary {
	if path := os.Getenv("KVD_COMPAT_TARGET"); path != "" {
		return oracle.Binary{Name: "target", Path: path}
	}
	return oracle.Kvd(t)
}

// A lane is one server that is killed, and all that is known of its data.
type lane struct {
	*rand.Rand
	t         *testing.T
	options   oracle.Options
	writers   []*writer
	told      map[int64][]string // what the watch said of each revision, over all starts
	live      map[int64][]string // what a watch said before the last kill
	revision  int64              // as of the last check
	compacted int64              // asked for at most
	sum       struct{ acked, doubts, done int }
}

func crash(t *testing.T, random *rand.Rand, rounds int) {
	l := &lane{Rand: random, t: t, told: map[int64][]string{}, revision: 1}
	l.options = oracle.Options{
		DataDir: filepath.Join(t.TempDir(), "data"), Args: append([]string{"--snapshot-count=500"}, quick...),
		ClientURL: "http://" + oracle.FreeAddress(t), PeerURL: "http://" + oracle.FreeAddress(t),
	}
	for i := range writers {
		l.writers = append(l.writers, &writer{
			Rand: rand.New(rand.NewPCG(random.Uint64(), 0)), prefix: fmt.Sprintf("w%d", i),
			keys: map[string]record{}, acked: map[int64][]string{},
		})
	}
	for round := range rounds {
		if l.IntN(10) == 0 { // not even ready
			m := oracle.Launch(t, judged(t), l.options)
			time.Sleep(time.Duration(l.IntN(150)) * time.Millisecond)
			m.Kill()
		}
		m := oracle.Start(t, judged(t), l.options)
		l.check(m, fmt.Sprintf("round %d", round))
		if t.Failed() {
			return
		}
		l.load(m)
	}
	m := oracle.Start(t, judged(t), l.options)
	l.check(m, "last start")
	hash := hashOf(t, m)
	m.Stop()
	etcd := oracle.Start(t, oracle.Etcd(t), l.options)
	l.check(etcd, "start of etcd")
	if got := hashOf(t, etcd); got.Hash != hash.Hash || got.CompactRevision != hash.CompactRevision {
		t.Errorf("etcd: hash %d compacted %d, kvd said %d and %d", got.Hash, got.CompactRevision, hash.Hash, hash.CompactRevision)
	}
	t.Logf("%d kills: %d writes acknowledged, %d in doubt of which %d were done, %d revisions watched",
		rounds, l.sum.acked, l.sum.doubts, l.sum.done, len(l.told))
}

func hashOf(t *testing.T, m *oracle.Member) *pb.HashKVResponse {
	t.Helper()
	h, err := pb.NewMaintenanceClient(m.Dial()).HashKV(context.Background(), &pb.HashKVRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// load lets all writers write, and one watcher watch, until the server is
// killed.
func (l *lane) load(m *oracle.Member) {
	pause := time.Duration(20+l.IntN(300)) * time.Millisecond
	compact := int64(0)
	if l.IntN(4) == 0 && l.revision > l.compacted+1 {
		compact = l.compacted + 1 + l.Int64N(l.revision-l.compacted)
	}
	var all sync.WaitGroup
	for _, w := range l.writers {
		conn := m.Dial() // each a connection of its own
		all.Go(func() {
			if err := w.write(conn); err != nil {
				l.t.Errorf("%s: %v", w.prefix, err)
			}
		})
	}
	all.Go(func() { l.live = follow(m, l.revision+1) })
	time.Sleep(pause / 2)
	if compact > 0 {
		_, err := pb.NewKVClient(m.Dial()).Compact(context.Background(), &pb.CompactionRequest{Revision: compact})
		if err != nil {
			l.t.Errorf("compact %d: %v", compact, err)
		}
		l.compacted = compact
	}
	if l.IntN(6) == 0 {
		all.Go(func() { // the kill meets it at work, or not
			pb.NewMaintenanceClient(m.Dial()).Defragment(context.Background(), &pb.DefragmentRequest{})
		})
	}
	time.Sleep(pause / 2)
	m.Kill()
	all.Wait()
}

// write sends steps until the server is gone.
func (w *writer) write(conn *grpc.ClientConn) error {
	for {
		s := w.choose()
		if s.empty() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), answerIn)
		revision, err := s.send(ctx, conn)
		cancel()
		if status.Code(err) == codes.Unavailable {
			w.doubt = &s
			return nil
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", s, err)
		}
		var events []string
		w.keys, events = s.after(w.keys, revision)
		w.leases = s.leasesAfter(w.leases)
		if len(events) > 0 {
			w.acked[revision] = events
		}
	}
}

// follow watches from a revision until the server is gone, and returns what it
// was told of each revision.
func follow(m *oracle.Member, from int64) map[int64][]string {
	told := map[int64][]string{}
	stream, err := pb.NewWatchClient(m.Dial()).Watch(context.Background())
	if err != nil {
		return told
	}
	for err = stream.Send(watchFrom(from)); err == nil; {
		var r *pb.WatchResponse
		if r, err = stream.Recv(); err == nil {
			tell(told, r)
		}
	}
	return told
}

func watchFrom(revision int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: revision,
	}}}
}

// tell files the events of a message by their revision. A revision that comes
// in two messages is marked, and so differs from any other account of it.
func tell(told map[int64][]string, r *pb.WatchResponse) {
	fresh := map[int64][]string{}
	for _, e := range r.Events {
		text := fmt.Sprintf("put %s %s", e.Kv.Key, e.Kv.Value)
		if e.Type == mvccpb.DELETE {
			text = "delete " + string(e.Kv.Key)
		}
		fresh[e.Kv.ModRevision] = append(fresh[e.Kv.ModRevision], text)
	}
	for revision, events := range fresh {
		if was, twice := told[revision]; twice {
			events = append(append(was, "and again"), events...)
		}
		told[revision] = events
	}
}
