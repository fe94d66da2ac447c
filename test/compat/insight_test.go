package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

const (
	rulesFile     = "../../packaging/prometheus/kvd.rules.yml"
	dashboardFile = "../../packaging/grafana/kvd.json"
)

// promtool finds the checker of Prometheus.
func promtool(t *testing.T) string {
	t.Helper()
	if os.Getenv("KVD_TEST_SKIP_DEBIAN") == "1" {
		t.Skip("KVD_TEST_SKIP_DEBIAN is set")
	}
	places := []string{os.Getenv("KVD_TEST_PROMTOOL"), "../.cache/bin/promtool", "/usr/bin/promtool"}
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			path, err := filepath.Abs(place)
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatalf("no promtool in %q: on Debian, \"test/promtool test/.cache/bin/promtool\" takes it out of the package prometheus; "+
		"or name another with KVD_TEST_PROMTOOL; KVD_TEST_SKIP_DEBIAN=1 skips this test", places)
	return ""
}

// check runs promtool and returns what it says.
func check(t *testing.T, tool, in string, args ...string) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, append([]string{"check"}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ruleExpressions are the expressions of the alerts, which stand on a line of
// their own.
func ruleExpressions(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) == "expr: |-" {
			all = append(all, strings.TrimSpace(lines[i+1]))
		}
	}
	return all
}

// panelExpressions are those of the dashboard, as Grafana would send them.
func panelExpressions(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer("$job", "kvd", "$instance", "all", "$__rate_interval", "5m")
	for _, p := range board.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, filled.Replace(target.Expr))
		}
	}
	return all
}

// selector is a metric with its labels: nothing is asked for without some.
var selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{`)

// Whatever the shipped alerts and the dashboard ask for is shown by members that
// have done something, and Prometheus understands the question.
func TestAlertsAndDashboardAskForWhatIsThere(t *testing.T) {
	t.Parallel()
	tool := promtool(t)
	rules, panels := ruleExpressions(t), panelExpressions(t)
	if len(rules) < 20 || len(panels) < 30 {
		t.Fatalf("%d alerts and %d questions of the dashboard were found", len(rules), len(panels))
	}
	if said, err := check(t, tool, "", "rules", rulesFile); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, said)
	}
	var asked strings.Builder
	asked.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range panels {
		fmt.Fprintf(&asked, "  - record: panel:%d\n    expr: %q\n", i, expr)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(asked.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := check(t, tool, "", "rules", file); err != nil {
		t.Errorf("promtool check rules, of the dashboard: %v\n%s", err, said)
	}
	shown := shownByMembers(t, tool)
	for _, expr := range slices.Concat(rules, panels) {
		found := selector.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing", expr)
		}
		for _, name := range found {
			if name[1] != "up" && !shown[name[1]] { // that one is Prometheus's own
				t.Errorf("%s: no member shows %s", expr, name[1])
			}
		}
	}
}

// shownByMembers is every name in the metrics of a cluster that has been used,
// and of a member with TLS. What is kvd's own must please promtool; etcd's names
// are as they are.
func shownByMembers(t *testing.T, tool string) map[string]bool {
	t.Helper()
	c := oracle.StartCluster(t, []oracle.Binary{target(t)}, oracle.ClusterOptions{Args: []string{"--metrics=extensive"}})
	client := c.Client(t, 0)
	use(t, client)
	secure := "http://" + oracle.FreeAddress(t)
	oracle.Launch(t, target(t), oracle.Options{
		ClientURL: "https://" + oracle.FreeAddress(t), Args: []string{"--auto-tls", "--listen-metrics-urls=" + secure},
	})
	texts := []string{""}
	eventually(t, func() bool {
		response, err := http.Get(secure + "/metrics") //nolint:noctx // its own server
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		texts[0] = string(text)
		return err == nil && strings.Contains(texts[0], "kvd_tls_expiry")
	}, func() string { return "a member shows when its certificate ends" })
	for _, m := range c.Members {
		_, text, err := m.Get(t.Context(), "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	shown := map[string]bool{}
	for _, text := range texts {
		said, _ := check(t, tool, text, "metrics") // an error for etcd's names, too
		for line := range strings.Lines(said) {
			if !strings.HasPrefix(line, "etcd_") {
				t.Errorf("promtool check metrics: %s", line)
			}
		}
		var own strings.Builder
		for line := range strings.Lines(text) {
			if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); strings.HasPrefix(name, "kvd_") {
				own.WriteString(line)
			}
			if !strings.HasPrefix(line, "#") {
				shown[line[:strings.IndexAny(line, "{ ")]] = true
			}
		}
		if said, err := check(t, tool, own.String(), "metrics"); err != nil {
			t.Errorf("promtool check metrics, of kvd's own: %v\n%s", err, said)
		}
	}
	return shown
}

// use makes a cluster count what it only counts when it happens.
func use(t *testing.T, c *clientv3.Client) {
	t.Helper()
	var err error
	did := func(_ any, e error) {
		if err == nil {
			err = e
		}
	}
	did(c.Put(t.Context(), "a", "b"))
	did(c.Get(t.Context(), "a"))
	granted, e := c.Grant(t.Context(), 100)
	did(granted, e)
	did(c.Compact(t.Context(), 2))
	did(c.AlarmList(t.Context()))
	// An alarm of nobody: only alarms that are raised are shown.
	did(raise(t, c))
	if err != nil {
		t.Fatal(err)
	}
}

func raise(t *testing.T, c *clientv3.Client) (any, error) {
	t.Helper()
	return pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: 77, Alarm: pb.AlarmType_NOSPACE,
	})
}
