package compat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
)

// A generator makes the ops of one sequence. With the same seed and the same
// answers of the oracle it makes the same ops.
type generator struct {
	*rand.Rand
	model  *model
	limits limits
}

// limits are those that the servers were started with.
type limits struct {
	txnOps       int
	requestBytes int
}

// choice is one kind of op and how often it comes, relative to the others.
type choice struct {
	weight int
	make   func(*generator) op
}

var choices = []choice{
	{220, func(g *generator) op { return kv("Put", g.put()) }},
	{170, func(g *generator) op { return kv("Range", g.rangeRequest(true)) }},
	{50, (*generator).rangeStream},
	{70, func(g *generator) op { return kv("DeleteRange", g.deleteRange()) }},
	{190, func(g *generator) op { return kv("Txn", g.txn(2)) }},
	{12, (*generator).compact},
	{25, (*generator).hashKV},
	{20, (*generator).leaseGrant},
	{14, func(g *generator) op { return lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: g.lease()}) }},
	{20, func(g *generator) op {
		return lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.one(2)})
	}},
	{8, func(*generator) op { return lease("LeaseLeases", &pb.LeaseLeasesRequest{}) }},
	{15, func(g *generator) op {
		return op{method: methodKeepAlive, req: &pb.LeaseKeepAliveRequest{ID: g.lease()}}
	}},
	{45, (*generator).watchCreate},
	{22, (*generator).watchCancel},
	{12, func(g *generator) op { return watchProgress(g.IntN(4)) }},
	{2, func(g *generator) op { return op{method: methodWatch, stream: g.IntN(4), req: &pb.WatchRequest{}} }},
	{10, (*generator).status},
	{16, (*generator).alarm},
	{6, (*generator).upkeep},
	{10, (*generator).malformed},
	{3, (*generator).oversize},
}

var weights = func() (sum int) {
	for _, c := range choices {
		sum += c.weight
	}
	return sum
}()

// next makes the next op of the sequence.
func (g *generator) next() op {
	if len(g.model.alarms) > 0 && g.one(6) {
		return g.silence()
	}
	at := g.IntN(weights)
	for _, c := range choices {
		if at -= c.weight; at < 0 {
			o := c.make(g)
			o.md = g.metadata(o)
			return o
		}
	}
	panic("weights do not add up")
}

// one is true once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

// metadata is what etcd's client sends with a request, now and then.
func (g *generator) metadata(o op) metadata.MD {
	switch {
	case o.method == methodKeepAlive || o.raw != nil || !g.one(20):
		return nil
	case g.one(2):
		return metadata.Pairs("hasleader", "true", "client-api-version", "3.7")
	default:
		return metadata.Pairs("client-api-version", "3.4.1")
	}
}

// key is one of a few, so that requests meet each other.
func (g *generator) key() []byte {
	switch n := g.IntN(40); {
	case n == 0:
		return nil
	case n == 1:
		return []byte{0}
	case n == 2:
		return []byte{0xff, 0xff}
	case n < 6:
		return []byte("b")
	default:
		return fmt.Appendf(nil, "%c/%02d", 'a'+rune(g.IntN(3)), g.IntN(14))
	}
}

// interval is a key and an end of every kind: none, open, prefix, empty.
func (g *generator) interval() (key, end []byte) {
	key = g.key()
	switch g.IntN(8) {
	case 0, 1:
		return key, nil
	case 2:
		return key, []byte{0}
	case 3:
		return []byte{'a' + byte(g.IntN(3))}, []byte{'b' + byte(g.IntN(3))}
	case 4:
		return []byte{0}, []byte{0}
	default:
		return key, g.key()
	}
}

func (g *generator) value() []byte {
	switch g.IntN(12) {
	case 0:
		return nil
	case 1:
		return []byte(strings.Repeat("long ", 20+g.IntN(500)))
	default:
		return fmt.Appendf(nil, "v%d", g.IntN(30))
	}
}

// revision is mostly one that can be read: none, or between the compaction and
// the present; now and then one just outside.
func (g *generator) revision() int64 {
	switch g.IntN(10) {
	case 0, 1, 2, 3:
		return 0
	case 4:
		return g.model.revision + g.Int64N(4) - 1
	case 5:
		return g.model.compacted + g.Int64N(4) - 2
	case 6:
		return -g.Int64N(3)
	default:
		return g.past()
	}
}

// past is a revision that is still readable.
func (g *generator) past() int64 {
	low := max(g.model.compacted, 1)
	return low + g.Int64N(max(g.model.revision-low, 0)+1)
}

// bound is a limit on create or mod revisions: mostly none.
func (g *generator) bound() int64 {
	switch g.IntN(8) {
	case 0:
		return g.Int64N(g.model.revision + 2)
	case 1:
		return -1
	default:
		return 0
	}
}

// rangeRequest uses every option; only fancy ones have sorts and bounds, which
// RangeStream refuses.
func (g *generator) rangeRequest(fancy bool) *pb.RangeRequest {
	r := &pb.RangeRequest{Revision: g.revision(), Serializable: g.one(3)}
	r.Key, r.RangeEnd = g.interval()
	switch g.IntN(6) {
	case 0, 1:
		r.Limit = g.Int64N(8)
	case 2:
		r.Limit = []int64{-1, math.MaxInt64, math.MinInt64, 1000}[g.IntN(4)]
	}
	r.KeysOnly, r.CountOnly = g.one(6), g.one(8)
	if g.one(12) {
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5)) // without an order
	}
	if !fancy {
		return r
	}
	if g.one(3) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.one(40) {
		r.SortOrder = []pb.RangeRequest_SortOrder{3, -1, 77}[g.IntN(3)]
	}
	if g.one(40) {
		r.SortTarget = []pb.RangeRequest_SortTarget{5, -1, 77}[g.IntN(3)]
	}
	if g.one(3) {
		r.MinModRevision, r.MaxModRevision = g.bound(), g.bound()
		r.MinCreateRevision, r.MaxCreateRevision = g.bound(), g.bound()
	}
	return r
}

// rangeStream leaves out a sort target without an order. etcd 3.7.3 then sorts
// each chunk and goes on behind the chunk's last key, so that keys come twice
// or not at all; kvd streams in the order of the keys.
func (g *generator) rangeStream() op {
	r := g.rangeRequest(g.one(4))
	if r.SortOrder == pb.RangeRequest_NONE && pb.RangeRequest_SortTarget_name[int32(r.SortTarget)] != "" {
		r.SortTarget = pb.RangeRequest_KEY
	}
	return op{method: methodRangeStream, req: r}
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.one(4)}
	if g.one(4) {
		r.Lease = g.lease()
	}
	if g.one(8) {
		r.IgnoreValue = true
		if !g.one(5) {
			r.Value = nil
		}
	}
	if g.one(8) {
		r.IgnoreLease = true
		if !g.one(5) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.one(3)}
	r.Key, r.RangeEnd = g.interval()
	if !g.one(4) { // leave something to read
		r.Key, r.RangeEnd = g.key(), nil
	}
	return r
}

func (g *generator) compact() op {
	r := &pb.CompactionRequest{Physical: g.one(2)}
	switch g.IntN(8) {
	case 0:
		r.Revision = []int64{0, -1, g.model.revision + 1, g.model.revision + 1000, g.model.compacted}[g.IntN(5)]
	case 1:
		r.Revision = g.model.revision
	default:
		r.Revision = g.past()
	}
	return kv("Compact", r)
}

func (g *generator) hashKV() op {
	r := &pb.HashKVRequest{Revision: g.revision()}
	if g.one(4) {
		r.Revision = g.model.compacted
	}
	return maintenance("HashKV", r)
}

// lease is the id of one that mostly exists.
func (g *generator) lease() int64 {
	if len(g.model.leases) > 0 && !g.one(5) {
		ids := make([]int64, 0, len(g.model.leases))
		for id := range g.model.leases {
			ids = append(ids, id)
		}
		slices.Sort(ids) // map order is not the seed's
		return ids[g.IntN(len(ids))]
	}
	return leaseIDs[g.IntN(len(leaseIDs))]
}

var leaseIDs = []int64{1, 2, 3, 4, 5, 1001, -5, 1 << 62, math.MaxInt64, math.MinInt64}

// leaseGrant asks for lengths that do not end within the sequence and that lie
// far enough apart for their order not to depend on the clock.
func (g *generator) leaseGrant() op {
	lengths := []int64{2000, 2000, 4000, 6000, 1_000_000, 9_000_000_000, 9_000_000_001, math.MaxInt64}
	r := &pb.LeaseGrantRequest{ID: leaseIDs[g.IntN(len(leaseIDs))], TTL: lengths[g.IntN(len(lengths))]}
	return lease("LeaseGrant", r)
}

func (g *generator) watchCreate() op {
	r := &pb.WatchCreateRequest{PrevKv: g.one(2), ProgressNotify: g.one(4), Fragment: g.one(4)}
	r.Key, r.RangeEnd = g.interval()
	switch g.IntN(12) {
	case 0:
		r.StartRevision = g.model.revision + 1 + g.Int64N(10)
	case 1, 2, 3, 4:
		r.StartRevision = g.past()
	case 5:
		r.StartRevision = max(g.model.compacted-1, 0)
	case 6:
		r.StartRevision = -2
	}
	if r.StartRevision > 0 && r.StartRevision == g.model.compacted {
		r.StartRevision++ // which records of it are left is a matter of time if a key is there twice
	}
	if g.one(3) {
		r.WatchId = []int64{1, 2, 7, -5, -1, 1 << 40}[g.IntN(6)]
	}
	for range g.IntN(3) {
		if g.one(3) {
			r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(g.IntN(3)))
		}
	}
	return watchCreate(g.IntN(4), r)
}

// watchCancel mostly cancels a watcher that is there.
func (g *generator) watchCancel() op {
	stream := g.IntN(4)
	var ids []int64
	if known := g.model.streams[stream]; known != nil {
		for id := range known.watchers {
			ids = append(ids, id)
		}
		for id := range known.stuck {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) == 0 || g.one(8) {
		return watchCancel(stream, g.Int64N(20)-2)
	}
	return watchCancel(stream, ids[g.IntN(len(ids))])
}

func (g *generator) status() op {
	if g.one(2) {
		return maintenance("Status", &pb.StatusRequest{})
	}
	return cluster("MemberList", &pb.MemberListRequest{Linearizable: g.one(2)})
}

// alarm activates few, because they refuse much; silence ends them.
func (g *generator) alarm() op {
	r := &pb.AlarmRequest{
		Action:   pb.AlarmRequest_GET,
		MemberID: []uint64{0, 77, math.MaxUint64}[g.IntN(3)],
		Alarm:    pb.AlarmType([]int32{0, 0, 1, 2, 5}[g.IntN(5)]),
	}
	if g.one(3) {
		r.Action = pb.AlarmRequest_AlarmAction(g.IntN(3))
	}
	return maintenance("Alarm", r)
}

func (g *generator) silence() op {
	active := make([]alarm, 0, len(g.model.alarms))
	for one := range g.model.alarms {
		active = append(active, one)
	}
	slices.SortFunc(active, func(x, y alarm) int {
		if x.member != y.member {
			return int(min(x.member, 99)) - int(min(y.member, 99))
		}
		return int(x.kind - y.kind)
	})
	one := active[g.IntN(len(active))]
	return maintenance("Alarm", &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: one.member, Alarm: one.kind,
	})
}

func (g *generator) upkeep() op {
	switch g.IntN(6) {
	case 0:
		return maintenance("Defragment", &pb.DefragmentRequest{})
	case 1:
		o := maintenance("MoveLeader", &pb.MoveLeaderRequest{TargetID: uint64(g.IntN(3))})
		o.self = g.one(2)
		return o
	case 2:
		return maintenance("Hash", &pb.HashRequest{})
	default:
		versions := []string{"3.6.0", "3.6", "3.7.0", "3.8.0", "3.5.0", "", "x", "3.6.0.1", "2.3.0", "v3.6.0"}
		r := &pb.DowngradeRequest{Version: versions[g.IntN(len(versions))]}
		r.Action = pb.DowngradeRequest_DowngradeAction([]int32{0, 0, 0, 2, 3, -1}[g.IntN(6)])
		return maintenance("Downgrade", r)
	}
}
