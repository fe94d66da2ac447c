package replica

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/mvcc"
	"kvd/internal/state"
)

// shown is what a registry shows: values by name and label values, for
// histograms the number of observations and, as name_sum, their sum.
func shown(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			if m.GetHistogram() != nil {
				all[name+"_sum"] = m.GetHistogram().GetSampleSum()
			}
		}
	}
	return all
}

func measured(t *testing.T, o func(*Options)) (*running, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	h := newHome(t)
	h.metrics = NewMetrics(registry)
	if o != nil {
		o(&h.options)
	}
	return h.start(t), registry
}

func TestProposalsAreMeasuredAsEtcdDoes(t *testing.T) {
	r, registry := measured(t, func(o *Options) { o.MaxRequestBytes = 1000 })
	propose := func(request *state.Request, want error) {
		t.Helper()
		if _, err := r.Propose(context.Background(), request, nil); !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	propose(putRequest("a", "b"), nil)
	propose(&state.Request{Put: &pb.PutRequest{Key: []byte("a"), Lease: 77}}, lease.ErrNotFound)
	propose(putRequest("a", strings.Repeat("x", 2000)), ErrTooLarge)
	propose(&state.Request{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 10}}, nil)
	propose(&state.Request{Compaction: &pb.CompactionRequest{Revision: 2}}, nil)
	propose(&state.Request{Compaction: &pb.CompactionRequest{Revision: 2}}, mvcc.ErrCompacted)
	got := shown(t, registry)
	for name, want := range map[string]float64{
		// Labels are in order of their names: success, type.
		"etcd_server_request_duration_seconds true Put":         2, // the refused one too: it came through
		"etcd_server_request_duration_seconds false Put":        1,
		"etcd_server_request_duration_seconds true LeaseGrant":  1,
		"etcd_server_request_duration_seconds true Compaction":  2,
		"etcd_server_request_duration_seconds false Compaction": 0,
		// op, success, version
		"etcd_server_apply_duration_seconds Put true v3":         1,
		"etcd_server_apply_duration_seconds Put false v3":        1,
		"etcd_server_apply_duration_seconds Compaction true v3":  2,
		"etcd_server_apply_duration_seconds Compaction false v3": 0,
		"etcd_debugging_lease_ttl_total":                         1,
		"etcd_debugging_lease_ttl_total_sum":                     10,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

func TestRemovalsAreMeasuredInPiecesAndAsAWhole(t *testing.T) {
	began := time.Now()
	r, registry := measured(t, func(o *Options) { o.CompactionBatch, o.CompactionPause = 10, time.Millisecond })
	const puts = 40
	for range puts {
		r.mustPut("a", "b")
	}
	compact := &state.Request{Compaction: &pb.CompactionRequest{Revision: puts + 1, Physical: true}}
	if _, err := r.Propose(context.Background(), compact, nil); err != nil {
		t.Fatal(err)
	}
	got := shown(t, registry)
	const family = "etcd_debugging_mvcc_"
	total, held := family+"db_compaction_total_duration_milliseconds", family+"index_compaction_pause_duration_milliseconds"
	if got[total] != 1 || got[held] != 1 {
		t.Errorf("%v compactions, %v of the index; want one", got[total], got[held])
	}
	if n := got[family+"db_compaction_pause_duration_milliseconds"]; n < 4 {
		t.Errorf("%v pieces, want at least 4", n)
	}
	if got[total+"_sum"] < 3 || got[held+"_sum"] >= got[total+"_sum"] {
		t.Errorf("%v ms, of which the applier was held for %v", got[total+"_sum"], got[held+"_sum"])
	}
	if last := int64(got[family+"db_compaction_last"]); last < began.Unix() || last > time.Now().Unix() {
		t.Errorf("the last compaction was at %v", last)
	}
	if removed := r.View().Counts().Removed; removed != puts-1 {
		t.Errorf("%d records removed, want %d", removed, puts-1)
	}
}

func TestSnapshotsOfTheLogAreMeasured(t *testing.T) {
	r, registry := measured(t, func(o *Options) { o.SnapshotCount = 10 })
	for range 30 {
		r.mustPut("a", "b")
	}
	must(t, r.Flush(context.Background()))
	got := shown(t, registry)
	total := got["etcd_debugging_snap_save_total_duration_seconds"]
	if total < 1 || got["etcd_snap_fsync_duration_seconds"] != total || got["etcd_debugging_snap_save_marshalling_duration_seconds"] != total {
		t.Errorf("%v snapshots, %v encoded, %v synced", total,
			got["etcd_debugging_snap_save_marshalling_duration_seconds"], got["etcd_snap_fsync_duration_seconds"])
	}
	if sync := got["etcd_snap_fsync_duration_seconds_sum"]; sync <= 0 || sync > got["etcd_debugging_snap_save_total_duration_seconds_sum"] {
		t.Errorf("synced for %v s of %v s", sync, got["etcd_debugging_snap_save_total_duration_seconds_sum"])
	}
	if n := r.Pending(); n != 0 {
		t.Errorf("%d bytes wait after a flush", n)
	}
}
