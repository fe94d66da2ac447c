package compat

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/test/oracle"
)

func putOf(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v")}}}
}

func rangeOf(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func deleteOf(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}
}

func txnOf(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func txn(then, otherwise []*pb.RequestOp) op {
	return kv("Txn", &pb.TxnRequest{Success: then, Failure: otherwise})
}

func setAlarm(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType, member uint64) op {
	return maintenance("Alarm", &pb.AlarmRequest{Action: action, Alarm: kind, MemberID: member})
}

// Whatever alarms are raised, both servers refuse the same requests, with the
// same words and in the same order of what is looked at.
func TestAlarmsRefuseWhatEtcdRefuses(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	ops := func(round int) []op {
		key := fmt.Sprintf("k%d", round)
		id := int64(100 + round)
		return []op{
			setAlarm(pb.AlarmRequest_GET, pb.AlarmType_NONE, 0),
			setAlarm(pb.AlarmRequest_GET, pb.AlarmType_NOSPACE, 0),
			setAlarm(pb.AlarmRequest_GET, pb.AlarmType_CORRUPT, 0),
			put(key, "v"),
			put("", "refused for its key, or for the alarm"),
			kv("Put", &pb.PutRequest{Key: []byte(key), Lease: 4711}),
			txn([]*pb.RequestOp{putOf(key)}, nil),
			txn(nil, []*pb.RequestOp{putOf(key)}),
			txn([]*pb.RequestOp{deleteOf(key)}, nil),
			txn([]*pb.RequestOp{rangeOf(key)}, nil),
			txn([]*pb.RequestOp{rangeOf(key), deleteOf("other")}, nil),
			txn([]*pb.RequestOp{txnOf(&pb.TxnRequest{Failure: []*pb.RequestOp{putOf(key)}})}, nil),
			txn([]*pb.RequestOp{txnOf(&pb.TxnRequest{Failure: []*pb.RequestOp{deleteOf(key)}})}, nil),
			txn(nil, nil),
			lease("LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: 1000}),
			lease("LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: 1 << 60}),
			{method: methodKeepAlive, req: &pb.LeaseKeepAliveRequest{ID: 1}},
			{method: methodKeepAlive, req: &pb.LeaseKeepAliveRequest{ID: id}},
			lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}),
			lease("LeaseLeases", &pb.LeaseLeasesRequest{}),
			lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: int64(10 + round)}),
			kv("Range", everything()),
			kv("DeleteRange", &pb.DeleteRangeRequest{Key: fmt.Appendf(nil, "seed%d", round), PrevKv: true}),
			kv("Compact", &pb.CompactionRequest{Revision: int64(3 + round)}),
			maintenance("Status", &pb.StatusRequest{}),
			maintenance("Defragment", &pb.DefragmentRequest{}),
			maintenance("HashKV", &pb.HashKVRequest{}),
			cluster("MemberList", &pb.MemberListRequest{Linearizable: true}),
		}
	}
	for i := range 8 {
		s.play(put(fmt.Sprintf("seed%d", i), "v"), lease("LeaseGrant", &pb.LeaseGrantRequest{ID: int64(10 + i), TTL: 1000}))
	}
	s.play(lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 1, TTL: 1000}), lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 2, TTL: 1000}))
	const on, off = pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE
	for round, change := range []op{
		setAlarm(on, pb.AlarmType_NOSPACE, 77),
		setAlarm(on, pb.AlarmType_NOSPACE, 0),
		setAlarm(off, pb.AlarmType_NOSPACE, 77),
		setAlarm(on, pb.AlarmType_CORRUPT, 77),
		setAlarm(off, pb.AlarmType_NOSPACE, 0),
		setAlarm(off, pb.AlarmType_CORRUPT, 78), // nobody's
		setAlarm(off, pb.AlarmType_CORRUPT, 77),
	} {
		s.play(change)
		s.play(ops(round)...)
	}
}

// value reads a metric of a member.
func metric(t testing.TB, m *oracle.Member, name string) float64 {
	t.Helper()
	_, text, err := m.Get(context.Background(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("%s shows no %s", m.Name, name)
	}
	v, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// comesToBe waits for what takes members a while.
func comesToBe(t *testing.T, what string, is func() bool) {
	t.Helper()
	eventually(t, is, func() string { return what })
}

// fill puts values of 100 KiB until there is no space.
func fill(t testing.TB, c *clientv3.Client) (revision int64) {
	t.Helper()
	return fillBy(t, c, 100<<10)
}

func fillBy(t testing.TB, c *clientv3.Client, size int) (revision int64) {
	t.Helper()
	value := strings.Repeat("x", size)
	for range 500 {
		r, err := c.Put(t.Context(), "fill", value)
		if err != nil {
			if !strings.Contains(err.Error(), "database space exceeded") {
				t.Fatal(err)
			}
			return revision
		}
		revision = r.Header.Revision
	}
	t.Fatal("there is no end of its space")
	return 0
}

// What was compacted away is space again, without a defragmentation; the alarm
// goes by itself, and is in the log for all members.
func TestAFullClusterServesAgainWhenThereIsSpace(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, []oracle.Binary{target(t)}, oracle.ClusterOptions{Args: []string{"--quota-backend-bytes=4000000"}})
	client := c.Client(t, 0)
	last := fill(t, client)
	if alarms, err := client.AlarmList(t.Context()); err != nil || len(alarms.Alarms) == 0 {
		t.Fatalf("alarms are %v, %v", alarms, err)
	}
	for i, m := range c.Members { // the others refuse, too
		if _, err := c.Client(t, i).Put(t.Context(), "a", "b"); err == nil {
			t.Errorf("%s takes a put", m.Name)
		}
	}
	if _, err := client.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	comesToBe(t, "the alarms go", func() bool {
		alarms, err := client.AlarmList(t.Context())
		return err == nil && len(alarms.Alarms) == 0
	})
	for i, m := range c.Members {
		if _, err := c.Client(t, i).Put(t.Context(), "a", "b"); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	sum := 0.0
	for _, m := range c.Members {
		sum += metric(t, m, "kvd_nospace_disarmed_total")
	}
	if sum < 1 {
		t.Errorf("%v alarms were lowered by members", sum)
	}
	if s := metric(t, c.Members[0], "etcd_mvcc_db_total_size_in_bytes"); s < 3e6 {
		t.Errorf("the file has %v bytes: it was defragmented", s)
	}
}

func clientTo(t *testing.T, m *oracle.Member) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func alarmed(t *testing.T, c *clientv3.Client) bool {
	alarms, err := c.AlarmList(t.Context())
	return err != nil || len(alarms.Alarms) > 0
}

// A member that compacts of its own accord comes back from a full database without
// anybody's hand: no compaction, no defragmentation, no alarm to lower.
func TestAFullMemberThatCompactsItselfNeedsNobody(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{Args: []string{
		"--quota-backend-bytes=4000000", "--auto-compaction-mode=periodic", "--auto-compaction-retention=2s",
	}})
	c := clientTo(t, m)
	fillBy(t, c, 1<<20) // four of them: a compaction must not come between
	comesToBe(t, "it takes puts again", func() bool {
		_, err := c.Put(t.Context(), "again", "v")
		return err == nil
	})
	if alarmed(t, c) {
		t.Error("the alarm is still raised")
	}
}

// With auto-disarm-nospace = false the alarm is somebody's to lower, as with etcd,
// though another member with as much space has lowered its own by itself.
func TestAnAlarmStaysWhereItIsNotToGoByItself(t *testing.T) {
	t.Parallel()
	const quota = "--quota-backend-bytes=4000000"
	full := func(args ...string) *clientv3.Client {
		c := clientTo(t, oracle.Start(t, target(t), oracle.Options{Args: append(args, quota)}))
		if _, err := c.Compact(t.Context(), fill(t, c), clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	kept := full("--auto-disarm-nospace=false")
	other := full()
	comesToBe(t, "the other's alarm goes", func() bool { return !alarmed(t, other) })
	if !alarmed(t, kept) {
		t.Fatal("the alarm has gone by itself")
	}
	if _, err := kept.Put(t.Context(), "again", "v"); err == nil || !strings.Contains(err.Error(), "database space exceeded") {
		t.Errorf("a put while the alarm is raised: %v", err)
	}
	if _, err := kept.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Put(t.Context(), "again", "v"); err != nil {
		t.Errorf("a put after the alarm was lowered: %v", err)
	}
	if alarmed(t, kept) {
		t.Error("the alarm is raised again")
	}
}

// An alarm outlives a restart, and goes by itself when the restart has brought space.
func TestARaisedQuotaEndsTheAlarm(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{Args: []string{"--quota-backend-bytes=4000000"}})
	fill(t, clientTo(t, m))
	m.Stop()
	m.Restart()
	if !alarmed(t, clientTo(t, m)) {
		t.Error("a restart alone has ended the alarm")
	}
	m.Stop()
	m.Args = []string{"--quota-backend-bytes=40000000"}
	m.Restart()
	c := clientTo(t, m)
	comesToBe(t, "the alarm goes", func() bool { return !alarmed(t, c) })
	if _, err := c.Put(t.Context(), "again", "v"); err != nil {
		t.Error(err)
	}
}

func TestMembersDefragmentThemselvesOneByOne(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, []oracle.Binary{target(t)}, oracle.ClusterOptions{
		Args: []string{"--auto-defrag-interval=300ms", "--auto-defrag-free-percent=60", "--auto-defrag-free-bytes=4MiB"},
	})
	client := c.Client(t, 0)
	var last int64
	for range 100 {
		r, err := client.Put(t.Context(), "fill", strings.Repeat("x", 100<<10))
		if err != nil {
			t.Fatal(err)
		}
		last = r.Header.Revision
	}
	leader := c.Leader()
	if _, err := client.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	comesToBe(t, "all members defragment", func() bool {
		return !slices.ContainsFunc(c.Members, func(m *oracle.Member) bool {
			return metric(t, m, `kvd_auto_defragmentations_total{result="done"}`) == 0
		})
	})
	for _, m := range c.Members {
		if s := metric(t, m, "etcd_mvcc_db_total_size_in_bytes"); s > 4e6 {
			t.Errorf("%s: the file has %v bytes", m.Name, s)
		}
		at := metric(t, m, "kvd_auto_defragmentation_last_timestamp_seconds")
		if mine := metric(t, leader, "kvd_auto_defragmentation_last_timestamp_seconds"); mine < at && c.Leader() == leader {
			t.Errorf("the leader was not last, but %s", m.Name)
		}
	}
	comesToBe(t, "the last turn is given back", func() bool {
		leases, err := client.Leases(t.Context())
		return err == nil && len(leases.Leases) == 0
	})
	if r, err := client.Get(t.Context(), "fill"); err != nil || r.Count != 1 || r.Header.Revision != last {
		t.Errorf("revision %d, %d keys, %v", r.Header.Revision, r.Count, err)
	}
}
