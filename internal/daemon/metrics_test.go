package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kvd/internal/config"
)

// observed is a member that runs in this process, as a monitor sees it.
type observed struct {
	t    *testing.T
	path string // of its client port
	conn *grpc.ClientConn
	http http.Client
}

// observe runs a member in dir until the test ends, or stop is called.
func observe(t *testing.T, dir string, args ...string) (o *observed, stop func()) {
	t.Helper()
	o = &observed{t: t, path: filepath.Join(dir, "client")}
	c, err := config.Load(append([]string{
		"--name=m", "--data-dir=" + filepath.Join(dir, "m.etcd"), "--log-level=error",
		"--listen-client-urls=unix://" + o.path, "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=unix://" + filepath.Join(dir, "peer"),
		"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=m=http://127.0.0.1:2380",
	}, args...), nil, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	log, err := NewLogger(c.Log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Inputs{Config: c, Log: log, Version: "1.2.3", Commit: "abc"}) }()
	o.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", o.path)
	}}
	if o.conn, err = grpc.NewClient("unix://"+o.path, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	running := true
	stop = func() {
		if !running {
			return
		}
		running = false
		o.conn.Close()
		o.http.CloseIdleConnections()
		cancel()
		if err := errors.Join(<-ended, log.Close()); err != nil {
			t.Errorf("the member ended: %v", err)
		}
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if r, err := o.http.Get("http://m/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return o, stop
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal("the member ended at its start")
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the member is not ready")
		}
	}
}

// metrics is what the member shows, by name with labels.
func (o *observed) metrics() map[string]float64 {
	o.t.Helper()
	r, err := o.http.Get("http://m/metrics")
	if err != nil {
		o.t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(r.Body)
		o.t.Fatalf("%s: %s", r.Status, text)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if line := lines.Text(); !strings.HasPrefix(line, "#") {
			at := strings.LastIndexByte(line, ' ')
			if all[line[:at]], err = strconv.ParseFloat(line[at+1:], 64); err != nil {
				o.t.Fatalf("%s: %v", line, err)
			}
		}
	}
	return all
}

// await waits until the member shows a value under the name.
func (o *observed) await(name string) {
	o.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, shown := o.metrics()[name]; shown {
			return
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("%s is not shown", name)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func (o *observed) expect(want map[string]float64) {
	o.t.Helper()
	got := o.metrics()
	for name, value := range want {
		if now, shown := got[name]; !shown || now != value {
			o.t.Errorf("%s is %v (shown: %v), want %v", name, now, shown, value)
		}
	}
}

func TestMetricsFollowTheMember(t *testing.T) {
	dir := t.TempDir()
	o, stop := observe(t, dir, "--quota-backend-bytes=123456789")
	kv, leases, maintenance := pb.NewKVClient(o.conn), pb.NewLeaseClient(o.conn), pb.NewMaintenanceClient(o.conn)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	status, err := maintenance.Status(t.Context(), &pb.StatusRequest{})
	must(status, err)
	id := strconv.FormatUint(status.Header.MemberId, 16)
	o.await(`etcd_server_request_duration_seconds_count{success="true",type="ClusterVersionSet"}`) // the last thing a start does
	o.expect(map[string]float64{
		`etcd_server_id{server_id="` + id + `"}`:                                              1,
		`etcd_network_known_peers{Local="` + id + `",Remote="` + id + `"}`:                    1,
		`etcd_server_version{server_version="3.7.3"}`:                                         1,
		`etcd_server_go_version{server_go_version="` + runtime.Version() + `"}`:               1,
		`etcd_cluster_version{cluster_version="3.7"}`:                                         1,
		`kvd_build_info{commit="abc",go="` + runtime.Version() + `",version="1.2.3"}`:         1,
		`etcd_server_quota_backend_bytes`:                                                     123456789,
		`etcd_server_is_learner`:                                                              0,
		`etcd_debugging_auth_revision`:                                                        1,
		`etcd_debugging_mvcc_current_revision`:                                                1,
		`etcd_debugging_mvcc_compact_revision`:                                                -1,
		`etcd_debugging_mvcc_keys_total`:                                                      0,
		`etcd_server_feature_enabled{name="FastLeaseKeepAlive",stage="BETA"}`:                 1,
		`etcd_server_feature_enabled{name="InitialCorruptCheck",stage="ALPHA"}`:               0,
		`etcd_server_request_duration_seconds_count{success="true",type="ClusterVersionSet"}`: 1,
		`etcd_server_heartbeat_send_failures_total`:                                           0,
		`etcd_snap_db_fsync_duration_seconds_count`:                                           0,
		`etcd_disk_defrag_inflight`:                                                           0,
	})
	before := o.metrics()

	for _, key := range []string{"a", "b", "c"} {
		must(kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("value")}))
	}
	must(kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("again")}))
	must(kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte("d")}))
	must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}))
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 99}); err == nil {
		t.Error("a future revision was read")
	}
	must(kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}}}))
	granted, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 600})
	must(granted, err)
	must(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 700}))
	must(leases.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: granted.ID}))
	must(maintenance.HashKV(t.Context(), &pb.HashKVRequest{}))
	must(maintenance.Hash(t.Context(), &pb.HashRequest{}))
	must(maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xabc, Alarm: pb.AlarmType_NOSPACE}))
	must(kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 5, Physical: true}))
	must(maintenance.Defragment(t.Context(), &pb.DefragmentRequest{}))
	snapshot, err := maintenance.Snapshot(t.Context(), &pb.SnapshotRequest{})
	must(snapshot, err)
	for err == nil {
		_, err = snapshot.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	o.expect(map[string]float64{
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
	now := o.metrics()
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

	stop()
	o, _ = observe(t, dir)
	o.expect(map[string]float64{ // what is counted begins anew, what is stored does not
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
