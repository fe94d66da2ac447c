package main

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestGoalIsReachedAtItsValue(t *testing.T) {
	for _, c := range []struct {
		goal  goal
		ratio float64
		want  string
	}{
		{atMost(0.45), 0.44, "yes"},
		{atMost(0.45), 0.45, "yes"},
		{atMost(0.45), 0.46, "NO"},
		{atLeast(1.5), 1.6, "yes"},
		{atLeast(1.5), 1.5, "yes"},
		{atLeast(1.5), 1.4, "NO"},
		{atLeast(1.5), math.NaN(), "–"},
		{goal{}, 0.1, "–"},
		{ownAtMost(2), 1.9, "yes"},
		{ownAtMost(2), 2.1, "NO"},
	} {
		if got := c.goal.reached(c.ratio); got != c.want {
			t.Errorf("%v at %v: %q, want %q", c.goal, c.ratio, got, c.want)
		}
	}
}

func TestEveryLineNamesAWorkloadThatExists(t *testing.T) {
	known := append(workloadNames(), "fill")
	for _, l := range lines() {
		if !slices.Contains(known, l.workload) {
			t.Errorf("%s %s: no workload %q", l.work, l.figure, l.workload)
		}
	}
}

// twoRounds is a result in which kvd needs a third of etcd's CPU.
func twoRounds() *results {
	r := &results{Subjects: []*subject{{Name: etcdName, Version: "3"}}}
	for round, v := range []float64{90, 60} {
		r.Measurements = append(r.Measurements,
			measurement{Workload: "put", Subject: etcdName, Round: round + 1, Metrics: metrics{cpuPerOp: v}},
			measurement{Workload: "put", Subject: kvdName, Round: round + 1, Metrics: metrics{cpuPerOp: 25}})
	}
	r.Measurements = append(r.Measurements, measurement{Workload: "get", Subject: kvdName, Round: 1, Fault: "garbage"})
	return r
}

func TestTableShowsTheRatioOfMedians(t *testing.T) {
	table := twoRounds().table()
	if len(table) != 1 {
		t.Fatalf("%d lines where one workload was measured: %v", len(table), table)
	}
	want := []string{"Put 256 B, 64 callers, 8 connections", "server CPU per op", "75.0 µs", "25.0 µs", "0.33", "0.28 – 0.42", "≤ 0.45", "yes", "–"}
	if !slices.Equal(table[0], want) {
		t.Errorf("got  %q\nwant %q", table[0], want)
	}
}

func TestAGoalOfItsOwnIsJudgedByKvdsFigure(t *testing.T) {
	r := &results{}
	for subject, v := range map[string]float64{etcdName: 900, kvdName: 1.5} {
		r.Measurements = append(r.Measurements, measurement{Workload: defragName, Subject: subject, Round: 1, Metrics: metrics{tailOfIdle: v}})
	}
	table := r.table()
	if len(table) != 1 {
		t.Fatalf("%d lines: %v", len(table), table)
	}
	if got := table[0][6:8]; !slices.Equal(got, []string{"kvd's ≤ 2.00", "yes"}) {
		t.Errorf("got %q", got)
	}
}

func TestFaultsAreShown(t *testing.T) {
	var b strings.Builder
	if err := twoRounds().print(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "FAULT: get, kvd, round 1: garbage") {
		t.Errorf("no fault in:\n%s", b.String())
	}
}

func TestDocumentKeepsWhatIsOutsideTheMarkers(t *testing.T) {
	document := "before\n" + markerBegin + "\nold\n" + markerEnd + "\nafter\n"
	got, err := intoDocument(document, "new\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "before\n" + markerBegin + "\nnew\n" + markerEnd + "\nafter\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range []string{"", markerBegin, markerEnd + markerBegin} {
		if _, err := intoDocument(bad, "new"); err == nil {
			t.Errorf("%q was taken for a document with markers", bad)
		}
	}
}

func TestResultsSurviveTheirFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.json")
	r := twoRounds()
	if err := r.save(name); err != nil {
		t.Fatal(err)
	}
	loaded, err := loadResults(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := loaded.markdown(), r.markdown(); got != want {
		t.Errorf("after the file:\n%s\nbefore:\n%s", got, want)
	}
}

func TestFiguresCarryTheirUnit(t *testing.T) {
	for _, c := range []struct {
		metric string
		v      float64
		want   string
	}{
		{cpuPerOp, 81.04, "81.0 µs"},
		{cpuPerOp, 29100, "29.10 ms"},
		{latencyTail, 999.9, "999.9 µs"},
		{opsPerSecond, 12345.6, "12346/s"},
		{residentAfter, 812.3, "812 MB"},
		{"start_wall_s", 5.214, "5.21 s"},
		{cpuPerOp, math.NaN(), "–"},
	} {
		if got := figure(c.metric, c.v); got != c.want {
			t.Errorf("%s %v is written %q, want %q", c.metric, c.v, got, c.want)
		}
	}
}

func TestToolSummaryIsParsed(t *testing.T) {
	summary := "\nSummary:\n  Total:\t0.9 secs.\n  Requests/sec:\t10860.5\n\nLatency distribution:\n  50% in 0.0041 secs.\n  99% in 0.0200 secs.\n  99.9% in 0.03 secs.\n"
	m, err := parseTool(summary)
	if err != nil {
		t.Fatal(err)
	}
	if m[opsPerSecond] != 10860.5 || math.Abs(m[latencyMedian]-4100) > 1e-6 || math.Abs(m[latencyTail]-20000) > 1e-6 {
		t.Errorf("parsed %v", m)
	}
	for _, bad := range []string{"", summary + "Error distribution:\n  [3]\tunavailable\n"} {
		if m, err := parseTool(bad); err == nil {
			t.Errorf("parsed %v from %q", m, bad)
		}
	}
}
