package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

var examined = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// well is a cluster of so many members with which nothing is wrong.
func well(size int) *examination {
	e := &examination{
		survey: &survey{cluster: 0xc, auth: &pb.AuthStatusResponse{Enabled: true}},
		now:    examined, reads: map[uint64]timed{}, hashes: map[uint64]hashed{},
	}
	for i := range size {
		id := uint64(i + 1)
		host := fmt.Sprintf("10.0.0.%d", id)
		e.members = append(e.members, &surveyed{
			Member: &pb.Member{
				ID: id, Name: fmt.Sprintf("m%d", id),
				ClientURLs: []string{"https://" + host + ":2379"}, PeerURLs: []string{"https://" + host + ":2380"},
			},
			endpoint: "https://" + host + ":2379",
			status: &pb.StatusResponse{
				Header: &pb.ResponseHeader{MemberId: id, Revision: 500}, Version: "3.7.3", Leader: 1, RaftTerm: 4,
				RaftIndex: 900, RaftAppliedIndex: 899, DbSize: 100 << 20, DbSizeInUse: 90 << 20, DbSizeQuota: 2 << 30,
			},
			expiry: examined.Add(300 * 24 * time.Hour), peers: examined.Add(200 * 24 * time.Hour),
		})
		e.reads[id] = timed{took: 2 * time.Millisecond}
		e.hashes[id] = hashed{HashKVResponse: &pb.HashKVResponse{Hash: 7, HashRevision: 500, CompactRevision: 100}}
	}
	return e
}

func (e *examination) down(i int, err error) {
	m := e.members[i]
	m.status, m.err = nil, err
	delete(e.reads, m.GetID())
	delete(e.hashes, m.GetID())
}

func TestTheDoctorFindsNothingWhereNothingIsWrong(t *testing.T) {
	for _, size := range []int{3, 5} {
		d := well(size).diagnose()
		for _, f := range d {
			if f.Severity != fine {
				t.Errorf("%d members: %v", size, f)
			}
		}
		if len(d) != 13 {
			t.Errorf("%d findings, one for each of 13 checks was expected: %v", len(d), d)
		}
	}
}

func TestTheDoctorFindsEachFaultAndKnowsItsRemedy(t *testing.T) {
	for _, c := range []struct {
		fault    string
		size     int
		make     func(e *examination)
		severity severity
		check    string
		found    string
		remedy   string
	}{
		{"a member is down", 3, func(e *examination) { e.down(2, errors.New("dial tcp: connect: connection refused")) }, problem, "members", "m3 at https://10.0.0.3:2379 does not answer: connection refused", "kvd member rejoin"},
		{"none may fail", 3, func(e *examination) { e.down(2, errors.New("x")) }, problem, "quorum", "no other member may fail", "before anything else"},
		{"no quorum", 3, func(e *examination) { e.down(1, errors.New("x")); e.down(2, errors.New("x")) }, problem, "quorum", "1 of 3 voting members answer, 2 are needed", "force-new-cluster"},
		{"one member", 1, func(*examination) {}, warning, "quorum", "one voting member", "member add"},
		{"an even number", 4, func(*examination) {}, warning, "quorum", "4 voting members bear no more failures than 3", "odd"},
		{"many members", 9, func(*examination) {}, warning, "quorum", "9 voting members", "five"},
		{"an unstarted member", 3, func(e *examination) { e.down(1, errors.New("x")); e.members[1].Name = "" }, warning, "members", "never started", "kvctl member remove 2"},
		{"a learner", 3, func(e *examination) { e.members[2].IsLearner = true }, note, "members", "m3 is a learner", "kvctl member promote 3"},
		{"a complaint", 3, func(e *examination) { e.members[0].status.Errors = []string{"etcdserver: no leader"} }, warning, "members", "m1 says: etcdserver: no leader", "journalctl"},
		{"no leader", 3, func(e *examination) {
			for _, m := range e.members {
				m.status.Leader = 0
			}
		}, problem, "leader", "no member says that it leads", "majority"},
		{"one that sees no leader", 3, func(e *examination) { e.members[1].status.Leader = 0 }, warning, "leader", "m2 sees no leader", "peer URLs"},
		{"two opinions", 3, func(e *examination) { e.members[1].status.Leader = 3 }, warning, "leader", "m2 takes m3 for the leader, which is m1", "ask again"},
		{"one far behind", 3, func(e *examination) { e.members[0].status.RaftIndex = 99_000 }, warning, "lag", "m2 is 98,101 log entries behind", "disk"},
		{"versions", 3, func(e *examination) { e.members[1].status.Version = "3.6.1" }, warning, "versions", "3.6.1: m2; 3.7.3: m1 m3", "finish the upgrade"},
		{"a downgrade", 3, func(e *examination) {
			e.members[0].status.DowngradeInfo = &pb.DowngradeInfo{Enabled: true, TargetVersion: "3.6.0"}
		}, note, "versions", "downgrade to 3.6.0", "downgrade cancel"},
		{"full", 3, func(e *examination) {
			e.alarms = []*pb.AlarmMember{{MemberID: 2, Alarm: pb.AlarmType_NOSPACE}}
		}, problem, "alarms", "NOSPACE of m2", "kvctl compaction"},
		{"corrupt", 3, func(e *examination) {
			e.alarms = []*pb.AlarmMember{{MemberID: 2, Alarm: pb.AlarmType_CORRUPT}}
		}, problem, "alarms", "CORRUPT of m2", "endpoint hashkv"},
		{"alarms not told", 3, func(e *examination) { e.alarmsErr = rpctypes.ErrUserEmpty }, warning, "alarms", "not told", "--user root"},
		{"alarms not told to this user", 3, func(e *examination) { e.alarmsErr, e.user = rpctypes.ErrPermissionDenied, true }, warning, "alarms", "not told", "role root"},
		{"holes", 3, func(e *examination) {
			e.members[1].status.DbSize, e.members[1].status.DbSizeInUse = 400<<20, 100<<20
		}, warning, "space", "75 % of m2's database file (419 MB) is holes", "kvctl defrag --endpoints=https://10.0.0.2:2379"},
		{"nearly full", 3, func(e *examination) { e.members[1].status.DbSize, e.members[1].status.DbSizeInUse = 1800<<20, 1790<<20 }, warning, "space", "m2's database has 1.9 GB of its quota of 2.1 GB", "kvctl top"},
		{"all but full", 3, func(e *examination) { e.members[1].status.DbSize, e.members[1].status.DbSizeInUse = 2000<<20, 1990<<20 }, problem, "space", "m2's database has 2.1 GB", "kvctl top"},
		{"a long past", 3, func(e *examination) { e.members[0].status.Header.Revision = 3_000_100 }, warning, "compaction", "3,000,000 revisions", "auto-compaction"},
		{"data differs", 3, func(e *examination) { e.hashes[2].Hash = 8 }, problem, "data", "differs: m1+m3 against m2", "member rejoin"},
		{"data not compared", 3, func(e *examination) { e.hashes[2] = hashed{err: errors.New("odd")} }, note, "data", "m2's data was not compared: odd", "above"},
		{"compacted meanwhile", 2, func(e *examination) { e.hashes[2].Hash, e.hashes[2].CompactRevision = 8, 200 }, note, "data", "compacted while", "again"},
		{"slow", 3, func(e *examination) { e.reads[3] = timed{took: time.Second} }, warning, "latency", "a read through m3 takes 1s", "network"},
		{"no reads", 3, func(e *examination) { e.reads[3] = timed{err: errors.New("no")} }, problem, "latency", "m3 cannot read through the leader: no", "leader"},
		{"expired", 3, func(e *examination) { e.members[0].expiry = examined.Add(-time.Hour) }, problem, "certificates", "m1's certificate for clients has expired", "new one"},
		{"expires tomorrow", 3, func(e *examination) { e.members[0].peers = examined.Add(25 * time.Hour) }, problem, "certificates", "m1's certificate for members expires in 25 hours", "new one"},
		{"expires soon", 3, func(e *examination) { e.own = examined.Add(20 * 24 * time.Hour) }, warning, "certificates", "--cert expires in 20 days", "CA"},
		{"unreadable", 3, func(e *examination) { e.ownErr = errors.New("me.crt: no") }, warning, "certificates", "me.crt: no", "--cert"},
		{"open to all", 3, func(e *examination) {
			e.auth.Enabled, e.members[0].ClientURLs = false, []string{"http://10.0.0.1:2379"}
		}, warning, "access", "whoever reaches the port may read and change all", "client-cert-auth"},
		{"passwords in the clear", 3, func(e *examination) { e.members[0].ClientURLs = []string{"http://10.0.0.1:2379"} }, warning, "access", "passwords and data", "cert-file"},
		{"peers in the clear", 3, func(e *examination) { e.members[0].PeerURLs = []string{"http://10.0.0.1:2380"} }, warning, "access", "peer port", "peer-cert-file"},
		{"no address", 3, func(e *examination) { e.members[0].ClientURLs = []string{"https://0.0.0.0:2379"} }, warning, "addresses", "which is no address to connect to", "advertise-client-urls"},
		{"localhost", 3, func(e *examination) { e.members[0].ClientURLs = []string{"https://localhost:2379"} }, warning, "addresses", "another computer for everybody else", "advertise-client-urls"},
		{"the same address", 3, func(e *examination) { e.members[1].ClientURLs = e.members[0].ClientURLs }, warning, "addresses", "as m1 does", "advertise-client-urls"},
	} {
		e := well(c.size)
		c.make(e)
		var seen bool
		for _, f := range e.diagnose() {
			seen = seen || f.Severity == c.severity && f.Check == c.check && strings.Contains(f.Found, c.found) && strings.Contains(f.Remedy, c.remedy)
			if f.Severity != fine && f.Remedy == "" {
				t.Errorf("%s: no remedy for: %s", c.fault, f.Found)
			}
		}
		if !seen {
			t.Errorf("%s: no %s of %q with %q and %q in %v", c.fault, c.severity, c.check, c.found, c.remedy, e.diagnose())
		}
	}
}

func TestNoCheckFailsWithoutAnswers(t *testing.T) {
	e := well(3)
	for i := range e.members {
		e.down(i, errors.New("connection refused"))
		e.members[i].Member = &pb.Member{ID: uint64(i)}
	}
	e.auth, e.authErr, e.alarmsErr = nil, errors.New("no"), errors.New("no")
	if d := e.diagnose(); d.count(problem) < 2 {
		t.Errorf("a dead cluster: %v", d)
	}
}

func TestScreensAreCutToTheTerminal(t *testing.T) {
	text := "one\ntwo is long\nthree\nfour\n"
	if got := fitted(text, 5, 4); got != "one\ntwo i\n… 2 m\n" {
		t.Errorf("%q", got)
	}
	if got := fitted(text, 80, 0); got != text {
		t.Errorf("%q", got)
	}
	if got := strings.Join(wrapped("aa bb ccc d eeeeeeee f", 5), "|"); got != "aa bb|ccc d|eeeeeeee|f" {
		t.Errorf("%q", got)
	}
}
