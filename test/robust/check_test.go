package robust

import (
	"context"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"kvd/test/oracle"
)

// overlap is how many revisions that were told before a kill are asked for
// again after it.
const overlap = 30

// check compares what a server serves after a start with what was
// acknowledged before it, and settles what was in doubt.
func (l *lane) check(m *oracle.Member, when string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	conn := m.Dial()
	all, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		l.t.Fatalf("%s: %v", when, err)
	}
	held, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		l.t.Fatalf("%s: %v", when, err)
	}
	leases := map[int64]bool{}
	for _, one := range held.Leases {
		leases[one.ID] = true
	}
	revision := l.revision
	for _, w := range l.writers {
		doubts := 0
		if w.doubt != nil {
			doubts = 1
		}
		changes, fault := w.settle(all.Kvs, leases)
		if fault != "" {
			l.t.Errorf("%s: %s: %s", when, w.prefix, fault)
		}
		revision += int64(len(w.acked) + changes)
		l.sum.doubts += doubts
		l.sum.acked += len(w.acked)
		l.sum.done += changes
	}
	if len(leases) > 0 {
		l.t.Errorf("%s: leases %v are nobody's", when, leases)
	}
	if all.Header.Revision != revision {
		l.t.Errorf("%s: revision %d; %d follows from what was acknowledged and what is there", when, all.Header.Revision, revision)
	}
	l.catchUp(ctx, m, when, all.Header.Revision)
	l.revision = all.Header.Revision
}

// settle compares a writer's keys and leases with what it knows. A step in
// doubt was done wholly or not at all; whichever it was is known from here on.
// It returns how many revisions that step made, and takes the writer's leases
// out of those given.
func (w *writer) settle(kvs []*mvccpb.KeyValue, leases map[int64]bool) (changes int, fault string) {
	got := map[string]*mvccpb.KeyValue{}
	for _, kv := range kvs {
		if strings.HasPrefix(string(kv.Key), w.prefix+"/") {
			got[string(kv.Key)] = kv
		}
	}
	doubt := w.doubt
	w.doubt = nil
	before := differ(w.keys, got)
	if doubt != nil {
		then, events := doubt.after(w.keys, 0)
		done := before != "" || len(events) == 0
		if after := differ(then, got); done && after != "" {
			return 0, fmt.Sprintf("neither as before %+v (%s) nor as after it (%s)", *doubt, before, after)
		}
		if done {
			w.keys = then
			changes = min(len(events), 1)
		}
		// A grant, or the end of a lease without keys, leaves only the lease to see.
		seen := doubt.grant != 0 && leases[doubt.grant] || doubt.revoke != 0 && !leases[doubt.revoke]
		if seen || done && changes > 0 {
			w.leases = doubt.leasesAfter(w.leases)
		}
	} else if before != "" {
		fault = before
	}
	for key, kv := range got {
		r := w.keys[key]
		r.create, r.mod = kv.CreateRevision, kv.ModRevision // known from now on
		w.keys[key] = r
	}
	for _, id := range w.leases {
		if !leases[id] {
			return changes, fmt.Sprintf("lease %d is lost", id)
		}
		delete(leases, id)
	}
	return changes, fault
}

// differ returns how a writer's keys are not as they must be, or nothing.
func differ(want map[string]record, got map[string]*mvccpb.KeyValue) string {
	for key, r := range want {
		kv := got[key]
		switch {
		case kv == nil:
			return fmt.Sprintf("%s is lost, %+v", key, r)
		case string(kv.Value) != r.value || kv.Version != r.version || kv.Lease != r.lease ||
			r.create != 0 && kv.CreateRevision != r.create || r.mod != 0 && kv.ModRevision != r.mod:
			return fmt.Sprintf("%s is {%v}, not %+v", key, kv, r)
		}
	}
	for key := range got {
		if _, there := want[key]; !there {
			return fmt.Sprintf("%s is there again", key)
		}
	}
	return ""
}

// catchUp goes on watching where the watch was, and compares what it is told
// with what was told and acknowledged before.
func (l *lane) catchUp(ctx context.Context, m *oracle.Member, when string, revision int64) {
	l.t.Helper()
	from := max(l.compacted+1, l.revision-overlap, 2)
	fresh := map[int64][]string{}
	stream, err := pb.NewWatchClient(m.Dial()).Watch(ctx)
	if err == nil {
		err = stream.Send(watchFrom(from))
	}
	for last := int64(0); err == nil && revision >= from && last < revision; {
		var r *pb.WatchResponse
		if r, err = stream.Recv(); err == nil && len(r.Events) > 0 {
			last = r.Events[len(r.Events)-1].Kv.ModRevision
			tell(fresh, r)
		}
	}
	if err != nil {
		l.t.Fatalf("%s: watch from %d to %d: %v", when, from, revision, err)
	}
	for at := from; at <= revision; at++ {
		events, ok := fresh[at]
		if !ok {
			l.t.Errorf("%s: revision %d was skipped by the watch", when, at)
		}
		if was, ok := l.told[at]; ok && !slices.Equal(was, events) {
			l.t.Errorf("%s: revision %d is %q, and was %q before", when, at, events, was)
		}
		l.told[at] = events
	}
	for at, events := range l.live {
		if !slices.Equal(l.told[at], events) {
			l.t.Errorf("%s: revision %d is %q, and was %q before the kill", when, at, l.told[at], events)
		}
	}
	l.live = nil
	for _, w := range l.writers {
		for at, events := range w.acked {
			if !slices.Equal(l.told[at], events) {
				l.t.Errorf("%s: revision %d is %q, acknowledged was %q", when, at, l.told[at], events)
			}
		}
		clear(w.acked)
	}
}
