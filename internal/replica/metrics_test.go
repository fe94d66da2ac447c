package replica

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsTellWhatHappened(t *testing.T) {
	h := newHome(t)
	registry := prometheus.NewRegistry()
	h.metrics = NewMetrics(registry)
	h.wal.OnFsync, h.wal.OnWrite, h.store.OnCommit = h.metrics.LogSynced, h.metrics.LogWritten, h.metrics.Committed
	r := h.start(t)
	for range 10 {
		r.mustPut("k", "v")
	}
	must(t, r.Flush(t.Context()))
	r.close()
	families, err := registry.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, least := range map[string]float64{
		"etcd_server_has_leader":                    1,
		"etcd_server_is_leader":                     1,
		"etcd_server_leader_changes_seen_total":     1,
		"etcd_server_proposals_applied_total":       12, // the member, the empty entry, 10 puts
		"etcd_server_proposals_committed_total":     12,
		"etcd_server_apply_duration_seconds":        10,
		"etcd_disk_wal_fsync_duration_seconds":      10,
		"etcd_disk_wal_write_bytes_total":           100,
		"etcd_disk_backend_commit_duration_seconds": 1,
	} {
		if got[name] < least {
			t.Errorf("%s is %v, want %v at least", name, got[name], least)
		}
	}
	if n := got["etcd_server_proposals_failed_total"] + got["etcd_server_proposals_pending"]; n != 0 {
		t.Errorf("%v failed or pending", n)
	}
}

func TestEveryFaultOfTheOptionsIsReported(t *testing.T) {
	o := Options{Heartbeat: time.Microsecond, Election: time.Microsecond, FlushBytes: 10, PendingBytes: 1}
	err := o.Complete()
	if err == nil {
		t.Fatal("no fault")
	}
	if n := len(strings.Split(err.Error(), "\n")); n != 3 {
		t.Errorf("%d faults, want 3: %v", n, err)
	}
	var zero Options
	must(t, zero.Complete())
	if zero.requestTimeout() != 7*time.Second {
		t.Errorf("request timeout %v", zero.requestTimeout())
	}
}
