package daemon

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// metrics is what the member shows, by name with labels.
func (d *instance) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	at := d.url(t, "listen-metrics-urls")
	if at == "" {
		at = "http://" + d.client(t)
	}
	status, _, text := ask(t, at+"/metrics")
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, text)
	}
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		must(t, err)
		all[line[:at]] = value
	}
	return all
}

func (d *instance) shows(t *testing.T, want map[string]float64) {
	t.Helper()
	got := d.metrics(t)
	for name, value := range want {
		if now, shown := got[name]; !shown || now != value {
			t.Errorf("%s is %v (shown: %v), want %v", name, now, shown, value)
		}
	}
}

func TestMetricsFollowTheMember(t *testing.T) {
	dir := t.TempDir()
	d := start(t, flags(dir, "--quota-backend-bytes=123456789")...)
	conn := d.dial(t).ActiveConnection()
	kv, leases, maintenance := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)
	did := func(_ any, err error) {
		t.Helper()
		must(t, err)
	}
	status, err := maintenance.Status(t.Context(), &pb.StatusRequest{})
	did(status, err)
	id := strconv.FormatUint(status.Header.MemberId, 16)
	d.shows(t, map[string]float64{
		`etcd_server_id{server_id="` + id + `"}`:                                              1,
		`etcd_network_known_peers{Local="` + id + `",Remote="` + id + `"}`:                    1,
		`etcd_server_version{server_version="3.7.3"}`:                                         1,
		`etcd_server_go_version{server_go_version="` + runtime.Version() + `"}`:               1,
		`etcd_cluster_version{cluster_version="3.7"}`:                                         1,
		`kvd_build_info{commit="",go="` + runtime.Version() + `",version="1.2.3"}`:            1,
		`etcd_server_quota_backend_bytes`:                                                     123456789,
		`etcd_server_is_learner`:                                                              0,
		`etcd_debugging_auth_revision`:                                                        1,
		`etcd_debugging_mvcc_current_revision`:                                                1,
		`etcd_debugging_mvcc_compact_revision`:                                                -1,
		`etcd_debugging_mvcc_keys_total`:                                                      0,
		`etcd_server_feature_enabled{name="FastLeaseKeepAlive",stage="BETA"}`:                 1,
		`etcd_server_feature_enabled{name="InitialCorruptCheck",stage="ALPHA"}`:               1,
		`etcd_server_request_duration_seconds_count{success="true",type="ClusterVersionSet"}`: 1,
		`etcd_server_heartbeat_send_failures_total`:                                           0,
		`etcd_snap_db_fsync_duration_seconds_count`:                                           0,
		`etcd_disk_defrag_inflight`:                                                           0,
	})
	before := d.metrics(t)

	for _, key := range []string{"a", "b", "c"} {
		did(kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("value")}))
	}
	did(kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("again")}))
	did(kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte("d")}))
	did(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}))
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 99}); err == nil {
		t.Error("a future revision was read")
	}
	did(kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}}}))
	granted, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 600})
	did(granted, err)
	did(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 700}))
	did(leases.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: granted.ID}))
	did(maintenance.HashKV(t.Context(), &pb.HashKVRequest{}))
	did(maintenance.Hash(t.Context(), &pb.HashRequest{}))
	did(maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xabc, Alarm: pb.AlarmType_NOSPACE}))
	did(kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 5, Physical: true}))
	did(maintenance.Defragment(t.Context(), &pb.DefragmentRequest{}))
	snapshot, err := maintenance.Snapshot(t.Context(), &pb.SnapshotRequest{})
	did(snapshot, err)
	for err == nil {
		_, err = snapshot.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	d.shows(t, map[string]float64{
		"etcd_debugging_mvcc_current_revision":                                          6,
		"etcd_debugging_mvcc_compact_revision":                                          5,
		"etcd_debugging_mvcc_keys_total":                                                1,
		"etcd_debugging_mvcc_total_put_size_in_bytes":                                   24,
		"etcd_mvcc_put_total":                                                           4,
		"etcd_mvcc_delete_total":                                                        1,
		"etcd_mvcc_range_total":                                                         before["etcd_mvcc_range_total"] + 3,
		`etcd_server_range_duration_seconds_count{success="true"}`:                      before[`etcd_server_range_duration_seconds_count{success="true"}`] + 1,
		`etcd_server_range_duration_seconds_count{success="false"}`:                     1,
		`etcd_server_request_duration_seconds_count{success="false",type="Range"}`:      1,
		`etcd_server_request_duration_seconds_count{success="true",type="Put"}`:         4,
		`etcd_server_request_duration_seconds_count{success="true",type="ReadonlyTxn"}`: 1,
		"etcd_debugging_lease_granted_total":                                            2,
		"etcd_debugging_lease_revoked_total":                                            1,
		"etcd_debugging_lease_ttl_total_sum":                                            1300,
		"kvd_leases":                                                                    1,
		"etcd_mvcc_hash_duration_seconds_count":                                         1,
		"etcd_mvcc_hash_rev_duration_seconds_count":                                     1,
		"etcd_disk_backend_snapshot_duration_seconds_count":                             1,
		"etcd_disk_backend_defrag_duration_seconds_count":                               1,
		"etcd_disk_defrag_inflight":                                                     0,
		"etcd_debugging_mvcc_db_compaction_keys_total":                                  1,
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count":           1,
		"kvd_flush_pending_bytes":                                                       0,
		`etcd_debugging_server_alarms{alarm_type="NOSPACE",server_id="abc"}`:            1,
	})
	now := d.metrics(t)
	size, used := now["etcd_mvcc_db_total_size_in_bytes"], now["etcd_mvcc_db_total_size_in_use_in_bytes"]
	if size <= 0 || used <= 0 || used > size {
		t.Errorf("the database has %v bytes, %v in use", size, used)
	}
	if open, limit := now["os_fd_used"], now["os_fd_limit"]; open < 5 || open > limit {
		t.Errorf("%v of %v file descriptors are open", open, limit)
	}
	if last := now["etcd_debugging_mvcc_db_compaction_last"]; time.Since(time.Unix(int64(last), 0)) > time.Minute {
		t.Errorf("the last compaction was at %v", last)
	}

	must(t, d.stop(t))
	d = start(t, flags(dir)...)
	d.shows(t, map[string]float64{ // what is counted begins anew, what is stored does not
		"etcd_debugging_mvcc_current_revision":                               6,
		"etcd_debugging_mvcc_compact_revision":                               5,
		"etcd_debugging_mvcc_keys_total":                                     1,
		"etcd_mvcc_put_total":                                                0,
		"etcd_debugging_mvcc_db_compaction_last":                             0,
		"kvd_leases":                                                         1,
		`etcd_debugging_server_alarms{alarm_type="NOSPACE",server_id="abc"}`: 1,
		"etcd_server_quota_backend_bytes":                                    2 << 30,
	})
}
