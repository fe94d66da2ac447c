package compat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kvd/test/oracle"
)

// Options whose effect can be seen from outside, on both servers.

// churn writes some MiB and removes them again, so that most of the database
// is free.
func churn(t *testing.T, m *oracle.Member) {
	t.Helper()
	keys := pb.NewKVClient(m.Dial())
	var revision int64
	for i := range 100 {
		resp, err := keys.Put(context.Background(), &pb.PutRequest{Key: fmt.Appendf(nil, "%03d", i), Value: bytes.Repeat([]byte("x"), 64<<10)})
		if err != nil {
			t.Fatal(err)
		}
		revision = resp.Header.Revision
	}
	if _, err := keys.DeleteRange(context.Background(), &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Compact(context.Background(), &pb.CompactionRequest{Revision: revision + 1, Physical: true}); err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t *testing.T, m *oracle.Member) int64 {
	t.Helper()
	resp, err := pb.NewMaintenanceClient(m.Dial()).Status(context.Background(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.DbSize
}

func TestDatabaseIsDefragmentedAtStart(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		m := oracle.Start(t, bin, oracle.Options{})
		churn(t, m)
		if n := sizeOf(t, m); n < 4<<20 {
			t.Errorf("%s: %d bytes before", bin.Name, n)
		}
		for _, c := range []struct {
			threshold string
			done      bool
		}{{"1000", false}, {"4", true}} {
			m.Stop()
			o := m.Options
			o.Args = []string{"--bootstrap-defrag-threshold-megabytes", c.threshold}
			m = oracle.Start(t, bin, o)
			if n := sizeOf(t, m); (n < 1<<20) != c.done {
				t.Errorf("%s: threshold %s: %d bytes", bin.Name, c.threshold, n)
			}
		}
	}
}

func TestHealthDuringDefragmentationFollowsItsGate(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		judge, judged := pair(t, fmt.Sprintf("--feature-gates=StopGRPCServiceOnDefrag=%t", on))
		for _, m := range []*oracle.Member{judge, judged} {
			churn(t, m)
			conn := m.Dial()
			ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
			defer cancel()
			health, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			next := func() healthpb.HealthCheckResponse_ServingStatus {
				resp, err := health.Recv()
				if err != nil {
					t.Fatalf("%s: gate %t: %v", m.Binary.Name, on, err)
				}
				return resp.Status
			}
			if s := next(); s != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("%s: %s before", m.Binary.Name, s)
			}
			if _, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
				t.Fatal(err)
			}
			if on {
				if s := next(); s != healthpb.HealthCheckResponse_NOT_SERVING {
					t.Errorf("%s: %s meanwhile", m.Binary.Name, s)
				}
				if s := next(); s != healthpb.HealthCheckResponse_SERVING {
					t.Errorf("%s: %s afterwards", m.Binary.Name, s)
				}
				continue
			}
			heard := make(chan healthpb.HealthCheckResponse_ServingStatus, 1)
			go func() {
				if resp, err := health.Recv(); err == nil {
					heard <- resp.Status
				}
			}()
			select {
			case s := <-heard:
				t.Errorf("%s: %s without the gate", m.Binary.Name, s)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

func TestDatabaseIsLockedInMemory(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		judge, judged := pair(t, fmt.Sprintf("--memory-mlock=%t", on))
		for _, m := range []*oracle.Member{judge, judged} {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
			if err != nil {
				t.Skip(err)
			}
			var locked int
			if _, after, ok := bytes.Cut(status, []byte("VmLck:")); ok {
				fmt.Sscan(string(after), &locked) // then it is none
			}
			if (locked > 0) != on {
				t.Errorf("%s: memory-mlock %t: %d KiB are locked", m.Binary.Name, on, locked)
			}
		}
	}
}

func TestFullLogFileIsPutAside(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		dir := t.TempDir()
		log := filepath.Join(dir, "member.log")
		if err := os.WriteFile(log, bytes.Repeat([]byte("old line\n"), 1<<17), 0o600); err != nil {
			t.Fatal(err)
		}
		oracle.Start(t, bin, oracle.Options{Args: []string{
			"--log-outputs", log, "--enable-log-rotation", `--log-rotation-config-json={"maxsize": 1, "maxbackups": 3}`,
		}})
		old, err := filepath.Glob(filepath.Join(dir, "member-????-??-??T??-??-??.???.log"))
		if err != nil || len(old) != 1 {
			t.Errorf("%s: old files %v, %v", bin.Name, old, err)
		}
		fresh, err := os.ReadFile(log)
		if err != nil || len(fresh) == 0 || bytes.Contains(fresh, []byte("old line")) {
			t.Errorf("%s: the log has %d bytes, %v", bin.Name, len(fresh), err)
		}
	}
}

func TestAllGatesMayBeOpen(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t, "--feature-gates=AllAlpha=true,AllBeta=true")
	for _, m := range []*oracle.Member{judge, judged} {
		leases, keys := pb.NewLeaseClient(m.Dial()), pb.NewKVClient(m.Dial())
		granted, err := leases.LeaseGrant(context.Background(), &pb.LeaseGrantRequest{TTL: 3600})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: []byte("a"), Lease: granted.ID}); err != nil {
			t.Error(err)
		}
		if _, err := leases.LeaseRevoke(context.Background(), &pb.LeaseRevokeRequest{ID: granted.ID}); err != nil {
			t.Error(err)
		}
	}
}
