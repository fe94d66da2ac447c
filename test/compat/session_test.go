package compat

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// A session sends one sequence to both servers in lockstep and compares.
type session struct {
	t         testing.TB
	oracle    *side
	target    *side
	model     *model
	values    map[string][]byte // of a Range that sorts by values it does not return
	restarted bool
}

// A difference is the first answer in which the two servers do not agree.
type difference struct {
	what           string
	oracle, target string
}

func (d *difference) Error() string {
	return fmt.Sprintf("%s\n  etcd: %s\n  kvd:  %s", d.what, d.oracle, d.target)
}

// newSession starts both servers afresh with the same extra flags.
func newSession(t testing.TB, judge, judged oracle.Binary, flags []string) *session {
	t.Helper()
	s := &session{t: t, model: newModel()}
	m, n := pairOf(t, judge, judged, flags)
	s.oracle, s.target = newSide(t, m), newSide(t, n)
	if d := s.watchAll(2); d != nil {
		t.Fatal(d)
	}
	return s
}

// pairOf starts one server of each program, with the same flags.
// The judge knows nothing of kvd's variables.
func pairOf(t testing.TB, judge, judged oracle.Binary, flags []string) (m, n *oracle.Member) {
	t.Helper()
	var fault [2]error
	var both sync.WaitGroup
	both.Go(func() { m, fault[0] = oracle.TryStart(t, judge, oracle.Options{Args: flags, Env: asEtcd}) })
	both.Go(func() { n, fault[1] = oracle.TryStart(t, judged, oracle.Options{Args: flags, Env: asEtcd}) })
	both.Wait()
	if err := errors.Join(fault[:]...); err != nil {
		t.Fatal(err)
	}
	return m, n
}

// asEtcd has kvd leave alone what etcd leaves alone.
var asEtcd = []string{"KVD_AUTO_DISARM_NOSPACE=false"}

// watchAll opens the watcher of everything on both servers.
func (s *session) watchAll(from int64) error {
	for _, one := range s.sides() {
		w, err := one.open(nil)
		if err != nil {
			return fmt.Errorf("%s: watch: %w", one.name, err)
		}
		err = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, PrevKv: true},
		}})
		if err != nil {
			return fmt.Errorf("%s: watch: %w", one.name, err)
		}
		if a := w.controlAt(0); a.msg == nil || a.msg.(*pb.WatchResponse).Canceled {
			return fmt.Errorf("%s: watch of everything from %d: %s", one.name, from, a)
		}
		one.history = w
	}
	return nil
}

func (s *session) sides() [2]*side { return [2]*side{s.oracle, s.target} }

// do sends one op to both servers and returns how their answers differ, or nil.
func (s *session) do(o op) *difference {
	switch {
	case o.method == methodRestart:
		return s.restart(o)
	case o.method == methodWatch:
		return s.watch(o)
	}
	if req, ok := o.req.(*pb.CompactionRequest); ok {
		if d := s.catchUp(); d != nil { // what they deliver depends on the compaction
			return d
		}
		o = kv("Compact", &pb.CompactionRequest{Revision: s.model.spared(req.Revision), Physical: req.Physical})
	}
	if req, ok := o.req.(*pb.HashKVRequest); ok && req.Revision == 0 && s.model.stale {
		// Once revision 0 was compacted, etcd 3.7.3 answers a request for the
		// newest hash with the one it remembers of that; kvd computes it.
		o = maintenance("HashKV", &pb.HashKVRequest{Revision: s.model.revision})
	}
	s.lookUpValues(o)
	a, b := s.both(func(one *side) answer { return one.send(o) })
	d := s.compare(o, a, b)
	s.model.learn(o, a)
	if d != nil {
		return d
	}
	if req, ok := o.req.(*pb.CompactionRequest); ok && a.msg != nil && !req.Physical {
		return s.drain(req.Revision)
	}
	return nil
}

// send is one op that is no watch, to one server.
func (s *side) send(o op) answer {
	switch {
	case o.raw != nil:
		return s.raw(o.method, o.raw)
	case o.self:
		return s.call(o.md, o.method, &pb.MoveLeaderRequest{TargetID: s.self.member}, response(o.method))
	}
	switch req := o.req.(type) {
	case *pb.LeaseKeepAliveRequest:
		return s.keepAlive(req)
	case *pb.RangeRequest:
		if o.method == methodRangeStream {
			return s.rangeStream(o.md, req)
		}
	}
	return s.call(o.md, o.method, o.req, response(o.method))
}

// both asks both servers at the same time.
func (s *session) both(ask func(*side) answer) (a, b answer) {
	done := make(chan answer, 1)
	go func() { done <- ask(s.target) }()
	a = ask(s.oracle)
	return a, <-done
}

// compare returns how two answers to one op differ.
func (s *session) compare(o op, a, b answer) *difference {
	a, b = s.oracle.normal(a), s.target.normal(b)
	if a.msg != nil && b.msg != nil {
		s.settle(o, a.msg, b.msg)
	}
	if same(a, b) {
		return nil
	}
	return &difference{what: o.String(), oracle: a.String(), target: b.String()}
}

// drain waits until a compaction that was accepted has done its work: a
// physical one of the same revision is refused only then.
func (s *session) drain(revision int64) *difference {
	o := kv("Compact", &pb.CompactionRequest{Revision: revision, Physical: true})
	a, b := s.both(func(one *side) answer { return one.send(o) })
	return s.compare(o, a, b)
}

// lookUpValues fetches what a Range sorts by if it does not return it.
func (s *session) lookUpValues(o op) {
	s.values = nil
	req, ok := o.req.(*pb.RangeRequest)
	if !ok || !req.KeysOnly || req.SortTarget != pb.RangeRequest_VALUE {
		return
	}
	s.values = map[string][]byte{}
	full := &pb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd, Revision: req.Revision}
	if r, ok := s.oracle.call(nil, "/etcdserverpb.KV/Range", full, &pb.RangeResponse{}).msg.(*pb.RangeResponse); ok {
		for _, kv := range r.Kvs {
			s.values[string(kv.Key)] = kv.Value
		}
	}
}

// restart ends both servers and starts them again on their directories.
func (s *session) restart(o op) *difference {
	if d := s.settleWatchers(); d != nil {
		return d
	}
	var fresh [2]*side
	var both sync.WaitGroup
	for i, one := range s.sides() {
		both.Go(func() { fresh[i] = one.restart(s.t, o.kill) })
	}
	both.Wait()
	for i, one := range s.sides() {
		if fresh[i] == nil || fresh[i].self != one.self {
			return &difference{what: fmt.Sprintf("%s has another identity after a restart", one.name)}
		}
	}
	s.oracle, s.target = fresh[0], fresh[1]
	s.restarted, s.model.stale = true, false
	s.model.streams = map[int]*watching{}
	if err := s.watchAll(s.model.revision + 1); err != nil {
		return &difference{what: err.Error()}
	}
	return nil
}

// restart ends the server and starts it again with the same options.
func (s *side) restart(t testing.TB, kill bool) *side {
	s.cancel() // an open stream would hold up the stop
	if kill {
		s.member.Kill()
	} else {
		s.member.Stop()
	}
	return newSide(t, oracle.Start(t, s.member.Binary, s.member.Options))
}

// finish compares what is left to compare at the end of a sequence: every
// event, every key, every hash.
func (s *session) finish() *difference {
	if d := s.settleWatchers(); d != nil {
		return d
	}
	for _, o := range []op{
		kv("Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}),
		maintenance("HashKV", &pb.HashKVRequest{}),
		maintenance("HashKV", &pb.HashKVRequest{Revision: max(s.model.compacted, s.model.revision/2)}),
		lease("LeaseLeases", &pb.LeaseLeasesRequest{}),
	} {
		if d := s.do(o); d != nil {
			return d
		}
	}
	return s.strays()
}

// script writes the last ops of a sequence, for the report of a difference.
func script(ops []op, last int) string {
	from := max(0, len(ops)-last)
	var b strings.Builder
	for i, o := range ops[from:] {
		fmt.Fprintf(&b, "  %5d %s\n", from+i, clip(o.String(), 3000))
	}
	return b.String()
}
