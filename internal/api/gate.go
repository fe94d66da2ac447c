package api

import (
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// class is who goes before whom when there is too much to do.
type class uint8

const (
	ordinary class = iota // writes, transactions, small ranges
	first                 // what keeps the cluster and its clients alive: renewals, revokes, members, health
	last                  // what takes long: big ranges, hashes, images
	classes
)

var classNames = [classes]string{"ordinary", "first", "last"}

// gate bounds the calls that run at once. Calls of a class that goes later are
// refused while there is still room for those that go before. Nobody waits: a
// client that is refused knows at once and may go elsewhere. Streams of watches
// and renewals are no calls in this sense; they have bounds of their own.
type gate struct {
	running [classes]atomic.Int64
	inside  atomic.Int64 // the sum
	most    [classes]int64
}

// newGate lets so many calls run. Of these, ordinary ones may take seven
// eighths, big ones a quarter.
func newGate(most int) *gate {
	n := int64(most)
	return &gate{most: [classes]int64{ordinary: max(n*7/8, 1), first: max(n, 1), last: max(n/4, 1)}}
}

// enter reports whether a call may run. Leave must be called if it did.
func (g *gate) enter(c class) bool {
	if g.inside.Add(1) > g.most[c] {
		g.inside.Add(-1)
		return false
	}
	g.running[c].Add(1)
	return true
}

func (g *gate) leave(c class) {
	g.running[c].Add(-1)
	g.inside.Add(-1)
}

// enter lets a call run if there is room. Calls that wait for other clients take
// none: they do nothing meanwhile.
func (m *method) enter(request any) (leave func(), err error) {
	if m.rule.marks&waits != 0 {
		return func() {}, nil
	}
	c := m.classOf(request)
	if !m.api.gate.enter(c) {
		m.api.metrics.refused[c].Inc()
		return nil, errTooMany
	}
	return func() { m.api.gate.leave(c) }, nil
}

// bigRange is from how many keys on a range goes last.
const bigRange = 1000

// classOf is the class of a call: its method's, but for ranges, which are judged
// by what they ask for.
func (m *method) classOf(request any) class {
	if r, ok := request.(*pb.RangeRequest); ok && len(r.RangeEnd) > 0 && !r.CountOnly && (r.Limit <= 0 || r.Limit > bigRange) {
		return last
	}
	return m.class
}

// classOfMethod is where a method stands in the order.
func classOfMethod(full string) class {
	switch full {
	case "/etcdserverpb.KV/Compact",
		"/etcdserverpb.Lease/LeaseRevoke",
		"/etcdserverpb.Cluster/MemberAdd", "/etcdserverpb.Cluster/MemberRemove", "/etcdserverpb.Cluster/MemberUpdate",
		"/etcdserverpb.Cluster/MemberList", "/etcdserverpb.Cluster/MemberPromote",
		"/etcdserverpb.Maintenance/Alarm", "/etcdserverpb.Maintenance/Status",
		"/etcdserverpb.Maintenance/MoveLeader", "/etcdserverpb.Maintenance/Downgrade",
		"/v3electionpb.Election/Resign", "/v3lockpb.Lock/Unlock",
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List":
		return first
	case "/etcdserverpb.KV/RangeStream", "/etcdserverpb.Maintenance/Hash", "/etcdserverpb.Maintenance/HashKV",
		"/etcdserverpb.Maintenance/Snapshot":
		return last
	}
	return ordinary
}
