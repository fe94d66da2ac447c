package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/health/grpc_health_v1"

	"kvd/test/oracle"
)

// A page is one HTTP/1 request to the client port.
type page struct {
	method, path string
	origin       string
}

var pages = []page{
	{method: "GET", path: "/health"},
	{method: "GET", path: "/health?serializable=true"},
	{method: "GET", path: "/health?exclude=NOSPACE"},
	{method: "GET", path: "/health?exclude=NOSPACE&exclude=CORRUPT"},
	{method: "GET", path: "/health?exclude="},
	{method: "GET", path: "/livez"},
	{method: "GET", path: "/livez?verbose"},
	{method: "GET", path: "/livez?exclude=serializable_read&verbose"},
	{method: "GET", path: "/livez/serializable_read"},
	{method: "GET", path: "/livez/linearizable_read"},
	{method: "GET", path: "/readyz"},
	{method: "GET", path: "/readyz?verbose"},
	{method: "GET", path: "/readyz?verbose=true&exclude=data_corruption"},
	{method: "GET", path: "/readyz?exclude=nosuch&verbose"},
	{method: "GET", path: "/readyz/data_corruption"},
	{method: "GET", path: "/readyz/serializable_read"},
	{method: "GET", path: "/readyz/linearizable_read?verbose"},
	{method: "GET", path: "/readyz/non_learner"},
	{method: "GET", path: "/readyz/nosuch"},
	{method: "GET", path: "/version"},
	{method: "GET", path: "/version?pretty"},
	{method: "GET", path: "/debug/pprof/"},
	{method: "GET", path: "/debug/requests"},
	{method: "GET", path: "/"},
	{method: "GET", path: "/nothing"},
	{method: "GET", path: "/v2/keys"},
	{method: "GET", path: "/health/"},
	{method: "GET", path: "/members"},
	{method: "GET", path: "/health", origin: "http://example.com"},
	{method: "POST", path: "/health"},
	{method: "POST", path: "/livez"},
	{method: "PUT", path: "/readyz"},
	{method: "DELETE", path: "/version"},
	{method: "POST", path: "/readyz/non_learner"},
	{method: "HEAD", path: "/health"},
	{method: "HEAD", path: "/version"},
	{method: "OPTIONS", path: "/health"},
	{method: "OPTIONS", path: "/nothing"},
	{method: "POST", path: "/nothing"},
}

// healthPages are those that an alarm changes.
var healthPages = pages[:18]

func TestPagesAreEtcds(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	comparePages(t, "", judge, judged, pages)
	for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
		for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE} {
			for _, m := range []*oracle.Member{judge, judged} {
				req := &pb.AlarmRequest{Action: action, Alarm: kind, MemberID: 77}
				if _, err := pb.NewMaintenanceClient(m.Dial()).Alarm(context.Background(), req); err != nil {
					t.Fatal(err)
				}
			}
			comparePages(t, fmt.Sprintf("after %s %s: ", action, kind), judge, judged, healthPages)
		}
	}
}

// pair starts one server of each kind with the same flags.
func pair(t *testing.T, flags ...string) (judge, judged *oracle.Member) {
	t.Helper()
	return pairOf(t, oracle.Etcd(t), target(t), flags)
}

func comparePages(t *testing.T, when string, judge, judged *oracle.Member, pages []page) {
	t.Helper()
	for _, p := range pages {
		a, b := fetch(t, judge.ClientURL, p), fetch(t, judged.ClientURL, p)
		if strings.HasPrefix(p.path, "/version") && p.method == http.MethodGet {
			b = withoutMore(a, b)
		}
		if a != b {
			t.Errorf("%s%s %s\n--- etcd\n%s\n--- kvd\n%s", when, p.method, p.path, a, b)
		}
	}
}

// fetch writes an answer down: status, headers in order, body.
func fetch(t *testing.T, url string, p page) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, p.method, url+p.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.origin != "" {
		req.Header.Set("Origin", p.origin)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintln(&b, resp.Status)
	resp.Header.Del("Date")
	resp.Header.Del("Content-Length")
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(resp.Header[name], ", "))
	}
	fmt.Fprintln(&b)
	lines := strings.SplitAfter(string(body), "\n")
	checks := 0 // etcd writes its checks in map order
	for checks < len(lines) && strings.HasPrefix(lines[checks], "[") {
		checks++
	}
	slices.Sort(lines[:checks])
	b.WriteString(strings.Join(lines, ""))
	return b.String()
}

// withoutMore returns kvd's answer without what it says beyond etcd's: its own
// version stands beside etcd's under a name of its own.
func withoutMore(a, b string) string {
	_, want, _ := strings.Cut(a, "\n\n")
	head, got, _ := strings.Cut(b, "\n\n")
	var more, less map[string]string
	if json.Unmarshal([]byte(got), &more) != nil || json.Unmarshal([]byte(want), &less) != nil {
		return b
	}
	for name, value := range less {
		if more[name] != value {
			return b
		}
	}
	return head + "\n\n" + want
}

func TestMetricsPortIsEtcds(t *testing.T) {
	t.Parallel()
	at := [2]string{"http://" + oracle.FreeAddress(t), "http://" + oracle.FreeAddress(t)}
	oracle.Start(t, oracle.Etcd(t), oracle.Options{Args: []string{"--listen-metrics-urls", at[0]}})
	oracle.Start(t, target(t), oracle.Options{Args: []string{"--listen-metrics-urls", at[1]}})
	for _, path := range []string{"/health", "/livez", "/readyz?verbose", "/version", "/debug/pprof/", "/", "/v3/kv/range"} {
		p := page{method: "GET", path: path}
		if a, b := fetch(t, at[0], p), fetch(t, at[1], p); a != b {
			t.Errorf("metrics port: %s\n--- etcd\n%s\n--- kvd\n%s", path, a, b)
		}
	}
	if text := fetch(t, at[1], page{method: "GET", path: "/metrics"}); !strings.Contains(text, "etcd_server_has_leader 1") {
		t.Errorf("metrics port: no etcd_server_has_leader in\n%s", clip(text, 500))
	}
}

func TestProfilesAreServedOnlyWhenEnabled(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{Args: []string{"--enable-pprof"}})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if status, _, err := m.Get(context.Background(), path); err != nil || status != http.StatusOK {
			t.Errorf("%s: %d, %v", path, status, err)
		}
	}
}

// Every series that a fresh etcd shows must be shown by kvd, under the same
// type, so that dashboards and alerts work.
func TestMetricsHaveEtcdsNames(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	want, got := series(t, judge), series(t, judged)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		family, _, typed := strings.Cut(name, " ")
		switch {
		case got[name]:
		case typed:
			t.Errorf("missing: %s", name)
		case got[typeOf(want, name)]: // else the line above says it all
			t.Errorf("missing: series %s", family)
		}
	}
	if len(want) < 300 {
		t.Errorf("the oracle shows only %d series", len(want))
	}
}

// typeOf finds the line with the type of a series' family.
func typeOf(all map[string]bool, series string) string {
	family, _, _ := strings.Cut(series, "{")
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(family, suffix); ok {
			for _, kind := range []string{" gauge", " counter", " histogram", " summary"} {
				if all[base+kind] {
					return base + kind
				}
			}
		}
	}
	return ""
}

var (
	// ids are what names a server or its Go in a label.
	ids = regexp.MustCompile(`(server_id|server_go_version|Local|Remote|To|From)="[^"]*"`)
	// later are the services of later issues.
	later = regexp.MustCompile(`grpc_service="(etcdserverpb\.Auth|v3electionpb\.Election|v3lockpb\.Lock)"`)
)

// series returns the names with labels of all series that etcd defines, and the
// type of each family.
func series(t *testing.T, m *oracle.Member) map[string]bool {
	t.Helper()
	_, text, err := m.Get(context.Background(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name := strings.TrimPrefix(line, "# TYPE ")
		ours := strings.HasPrefix(name, "etcd_") || strings.HasPrefix(name, "grpc_server_") || strings.HasPrefix(name, "os_fd_")
		if !ours || later.MatchString(name) {
			continue
		}
		if name == line { // a sample: cut off its value
			name = name[:strings.LastIndexByte(name, ' ')]
		}
		all[ids.ReplaceAllString(name, `$1="ID"`)] = true
	}
	return all
}

func TestHealthServiceIsEtcds(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	for _, service := range []string{"", "etcdserverpb.KV", "nosuch"} {
		var told [2]answer
		for i, m := range []*oracle.Member{judge, judged} {
			resp, err := grpc_health_v1.NewHealthClient(m.Dial()).Check(context.Background(),
				&grpc_health_v1.HealthCheckRequest{Service: service})
			if told[i] = (answer{msg: resp}); err != nil {
				told[i] = failed(err)
			}
		}
		if !same(told[0], told[1]) {
			t.Errorf("health of %q: etcd %s, kvd %s", service, told[0], told[1])
		}
	}
	reflection := "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	a, b := newSide(t, judge).raw(reflection, nil), newSide(t, judged).raw(reflection, nil)
	if !same(a, b) {
		t.Errorf("reflection: etcd %s, kvd %s", a, b)
	}
}
