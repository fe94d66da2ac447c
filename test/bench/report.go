package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// Names of the columns.
const (
	etcdName  = "etcd"
	kvdName   = "kvd"
	floorName = "floor"
)

// results is all that a run has found, and what -out keeps.
type results struct {
	Began        time.Time     `json:"began"`
	Took         string        `json:"took"`
	Machine      machine       `json:"machine"`
	Options      string        `json:"options"`
	Subjects     []*subject    `json:"subjects"`
	Measurements []measurement `json:"measurements"`
}

// measurement is one workload in one round on one subject.
type measurement struct {
	Workload string  `json:"workload"`
	Subject  string  `json:"subject"`
	Round    int     `json:"round"`
	Metrics  metrics `json:"metrics,omitempty"`
	Fault    string  `json:"fault,omitempty"` // then there are no metrics
}

// values returns a metric's value of every round without a fault.
func (r *results) values(workload, subject, metric string) []float64 {
	var values []float64
	for _, m := range r.Measurements {
		if v, ok := m.Metrics[metric]; ok && m.Workload == workload && m.Subject == subject {
			values = append(values, v)
		}
	}
	return values
}

// faults lists what went wrong, in order.
func (r *results) faults() []string {
	var all []string
	for _, m := range r.Measurements {
		if m.Fault != "" {
			all = append(all, fmt.Sprintf("%s, %s, round %d: %s", m.Workload, m.Subject, m.Round, m.Fault))
		}
	}
	return all
}

// line is one line of the table: one figure of one workload.
type line struct {
	work, figure string // as shown
	workload     string
	metric       string
	goal         goal
}

// goal is the ratio kvd / etcd to reach; the zero goal asks for nothing.
type goal struct {
	ratio float64
	more  bool // the ratio is to be at least so much, else at most
	own   bool // it is kvd's figure that is to be so much, whatever etcd's is
}

func atMost(ratio float64) goal  { return goal{ratio: ratio} }
func ownAtMost(v float64) goal   { return goal{ratio: v, own: true} }
func atLeast(ratio float64) goal { return goal{ratio: ratio, more: true} }

func (g goal) String() string {
	switch {
	case g.ratio == 0:
		return "–"
	case g.own:
		return fmt.Sprintf("kvd's ≤ %.2f", g.ratio)
	case g.more:
		return fmt.Sprintf("≥ %.2f", g.ratio)
	default:
		return fmt.Sprintf("≤ %.2f", g.ratio)
	}
}

// reached says whether a ratio meets the goal.
func (g goal) reached(ratio float64) string {
	switch {
	case g.ratio == 0 || math.IsNaN(ratio):
		return "–"
	case g.more == (ratio >= g.ratio) || ratio == g.ratio:
		return "yes"
	default:
		return "NO"
	}
}

// lines are the table: the goals, and beside them figures that explain them.
func lines() []line {
	none := goal{}
	return []line{
		{"Put 256 B, 64 callers, 8 connections", "server CPU per op", "put", cpuPerOp, atMost(0.45)},
		{"", "throughput", "put", opsPerSecond, atLeast(1.5)},
		{"", "latency p50", "put", latencyMedian, none},
		{"", "latency p99", "put", latencyTail, none},
		{"Put 256 B, 1 caller", "latency p50", "put1", latencyMedian, atMost(1)},
		{"", "latency p99", "put1", latencyTail, none},
		{"", "server CPU per op", "put1", cpuPerOp, none},
		{"Put 256 B over TLS, 64 callers, 8 connections", "server CPU per op", "tlsput", cpuPerOp, atMost(0.6)},
		{"", "throughput", "tlsput", opsPerSecond, none},
		{"", "latency p99", "tlsput", latencyTail, none},
		{"Range one key, linearizable, 64 callers", "server CPU per op", "get", cpuPerOp, atMost(0.5)},
		{"", "throughput", "get", opsPerSecond, none},
		{"", "latency p99", "get", latencyTail, none},
		{"Range one key, serializable, 64 callers", "server CPU per op", "sget", cpuPerOp, atMost(0.5)},
		{"", "throughput", "sget", opsPerSecond, none},
		{"Kubernetes update: Range, then Txn, 64 callers", "server CPU per op", "update", cpuPerOp, atMost(0.45)},
		{"", "throughput", "update", opsPerSecond, none},
		{"", "latency p99", "update", latencyTail, none},
		{"Range of 10,000 keys × 512 B, 4 callers", "server CPU per op", "range", cpuPerOp, atMost(0.2)},
		{"", "latency p50", "range", latencyMedian, none},
		{"RangeStream of the same, 4 callers", "server CPU per op", "stream", cpuPerOp, atMost(0.2)},
		{"", "latency p50", "stream", latencyMedian, none},
		{"Watch, 100 watchers, 500 puts/s", "server CPU per event", "watch", cpuPerOp, atMost(0.45)},
		{"", "latency p99", "watch", latencyTail, none},
		{"Watch, 100 watchers, puts unpaced", "server CPU per event", "watchflood", cpuPerOp, atMost(0.45)},
		{"", "events", "watchflood", opsPerSecond, none},
		{"4,000 puts a second with authentication on, 64 callers", "server CPU per op", "authput", cpuPerOp, none},
		{"", "CPU per op, over that with authentication off", "authput", cpuOfOff, ownAtMost(1.1)},
		{"Puts as fast as they are answered with authentication on, 64 callers", "server CPU per op", "authputmax", cpuPerOp, none},
		{"", "CPU per op, over that with authentication off", "authputmax", cpuOfOff, ownAtMost(1.1)},
		{"Authenticate, 64 callers", "throughput", "login", opsPerSecond, atLeast(3)},
		{"", "server CPU per op", "login", cpuPerOp, none},
		{"JSON gateway: Put 256 B, 64 callers", "server CPU per op", "gateway", cpuPerOp, atMost(0.7)},
		{"", "throughput", "gateway", opsPerSecond, none},
		{"", "latency p99", "gateway", latencyTail, none},
		{"10,000 keep-alives a second, 10 clients", "server CPU per op", "keepalive", cpuPerOp, atMost(0.6)},
		{"", "throughput", "keepalive", opsPerSecond, none},
		{"The same, one at a time, 64 streams", "server CPU per op", "keepalive1", cpuPerOp, none},
		{"LeaseGrant, 64 callers", "server CPU per op", "lease", cpuPerOp, atMost(0.5)},
		{"", "throughput", "lease", opsPerSecond, none},
		{"etcd's benchmark: put, 64 clients", "server CPU per op", "toolput", cpuPerOp, none},
		{"", "throughput", "toolput", opsPerSecond, none},
		{"etcd's benchmark: range, 64 clients", "server CPU per op", "toolrange", cpuPerOp, none},
		{"", "throughput", "toolrange", opsPerSecond, none},
		{"Three members: Put 256 B, 64 callers", "CPU per op, all three", "put3", cpuPerOp, atMost(0.5)},
		{"", "throughput", "put3", opsPerSecond, atLeast(1.5)},
		{"", "latency p50", "put3", latencyMedian, none},
		{"", "latency p99", "put3", latencyTail, none},
		{"Three members: Put 256 B, 512 callers", "CPU per op, all three", "put3x512", cpuPerOp, atMost(0.5)},
		{"", "throughput", "put3x512", opsPerSecond, atLeast(1.5)},
		{"", "latency p50", "put3x512", latencyMedian, none},
		{"", "latency p99", "put3x512", latencyTail, none},
		{"Three members: linearizable Range through followers, 64 callers", "CPU per op, all three", "get3", cpuPerOp, atMost(0.55)},
		{"", "throughput", "get3", opsPerSecond, none},
		{"", "latency p99", "get3", latencyTail, none},
		{"Three members: kill -9 of the leader", "until the next acknowledged put, p50", "failover", failOver, atMost(0.8)},
		{"", "the same, longest", "failover", failOverMax, none},
		{"A learner joins three members", "from its start until it serves the last key", "learner", caughtUp, atMost(0.7)},
		{"", "latency p99 of puts meanwhile", "learner", latencyTail, atMost(1)},
		{"", "latency p50 of puts meanwhile", "learner", latencyMedian, none},
		{"", "CPU until then, all four", "learner", "catch_up_cpu_s", none},
		{"Defragmentation of 1 GiB, 320 puts/s", "p99 of puts meanwhile, over that of an idle store", defragName, tailOfIdle, ownAtMost(2)},
		{"", "latency p99 of puts, idle", defragName, idleTail, none},
		{"", "latency p99 of puts meanwhile", defragName, latencyTail, none},
		{"", "latency p50 of puts meanwhile", defragName, latencyMedian, none},
		{"", "wall", defragName, defragWall, none},
		{"", "CPU until it is done, puts included", defragName, "defrag_cpu_s", none},
		{"Compaction of a quarter of it, 320 puts/s", "p99 of puts meanwhile, over that of an idle store", defragName, compactOfIdle, none},
		{"", "wall", defragName, compactWall, none},
		{"Through a proxy: Put 256 B, 64 callers", "proxy's CPU per op", "proxyput", cpuPerOp, atMost(0.6)},
		{"", "throughput", "proxyput", opsPerSecond, none},
		{"Through a proxy: Range one key, linearizable, 64 callers", "proxy's CPU per op", "proxyget", cpuPerOp, atMost(0.6)},
		{"", "throughput", "proxyget", opsPerSecond, none},
		{"Through a proxy: Range of 10,000 keys × 512 B, 4 callers", "proxy's CPU per op", "proxyrange", cpuPerOp, none},
		{"", "VmRSS of the proxy", "proxyrange", residentAfter, none},
		{"Range one key, 1 caller, through a proxy and not, in turn", "added latency p50", "proxyadds", addedMedian, ownAtMost(1000)},
		{"", "added latency p99", "proxyadds", addedTail, none},
		{"", "latency p50 without a proxy", "proxyadds", directMedian, none},
		{"1,000 watchers of one key through a proxy, 20 puts/s", "proxy's CPU per event", "proxywatch", cpuPerOp, atMost(0.4)},
		{"", "watches at the member", "proxywatch", watchesBehind, ownAtMost(1)},
		{"", "latency p50", "proxywatch", latencyMedian, none},
		{"", "latency p99", "proxywatch", latencyTail, none},
		{"", "VmRSS of the proxy", "proxywatch", residentAfter, none},
		{"Restart with many keys × 256 B", "wall until the first Get", "restart", "start_wall_s", atMost(0.5)},
		{"", "CPU until the first Get", "restart", "start_cpu_s", none},
		{"Resident memory after the fill", "VmRSS", "fill", residentAfter, atMost(0.7)},
		{"", "RssAnon", "fill", anonAfter, none},
		{"", "RssFile", "fill", fileAfter, none},
		{"Resident memory after the restart", "VmRSS", "restart", residentAfter, atMost(0.7)},
		{"", "RssAnon", "restart", anonAfter, none},
		{"", "RssFile", "restart", fileAfter, none},
		{"", "peak VmRSS", "restart", "rss_peak_mb", none},
		{"The fill", "wall", "fill", "fill_s", none},
		{"", "data directory", "fill", "data_dir_mb", none},
	}
}

var header = []string{"work", "figure", etcdName, kvdName, "ratio", "by round", "goal", "reached?", floorName}

// table returns the lines that have anything to show, as cells.
func (r *results) table() [][]string {
	var cells [][]string
	var work string
	for _, l := range lines() {
		if l.work != "" {
			work = l.work
		}
		etcd := r.values(l.workload, etcdName, l.metric)
		kvd := r.values(l.workload, kvdName, l.metric)
		floor := r.values(l.workload, floorName, l.metric)
		if len(etcd)+len(kvd)+len(floor) == 0 {
			continue
		}
		ratio := median(kvd) / median(etcd)
		judged := ratio
		if l.goal.own {
			judged = median(kvd)
		}
		spread := "–"
		if low, high := pairwise(kvd, etcd); !math.IsNaN(low) {
			spread = fmt.Sprintf("%.2f – %.2f", low, high)
		}
		cells = append(cells, []string{
			work, l.figure,
			figure(l.metric, median(etcd)), figure(l.metric, median(kvd)),
			figure("", ratio), spread,
			l.goal.String(), l.goal.reached(judged),
			figure(l.metric, median(floor)),
		})
		work = "" // a work's name stands on its first line only
	}
	return cells
}

// figure writes a value with the unit that the metric's name ends in.
func figure(metric string, v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case strings.HasSuffix(metric, "_per_s"):
		return fmt.Sprintf("%.0f/s", v)
	case strings.Contains(metric, "_us") && v >= 1000:
		return fmt.Sprintf("%.2f ms", v/1000)
	case strings.Contains(metric, "_us"):
		return fmt.Sprintf("%.1f µs", v)
	case strings.HasSuffix(metric, "_mb"):
		return fmt.Sprintf("%.0f MB", v)
	case strings.HasSuffix(metric, "_s"):
		return fmt.Sprintf("%.2f s", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// print writes the table for a terminal.
func (r *results) print(w io.Writer) error {
	for _, text := range r.description() {
		fmt.Fprintln(w, text)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, cells := range r.table() {
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// description says where and with what the figures were made.
func (r *results) description() []string {
	m := r.Machine
	text := []string{
		fmt.Sprintf("Began %s, took %s; options: %s.", r.Began.UTC().Format("2006-01-02 15:04 MST"), r.Took, r.Options),
		fmt.Sprintf("Machine: %s, %d cores shared with the generator, %.0f GB; %s; %s, append of 4 KiB with fdatasync p50 %s, p99 %s; load before the run %s.",
			m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.FileSystem,
			figure("_us", m.FsyncP50us), figure("_us", m.FsyncP99us), m.Load),
		fmt.Sprintf("Generator built with %s.", m.Go),
	}
	for _, s := range r.Subjects {
		text = append(text, fmt.Sprintf("%s: %s.", s.Name, s.Version))
	}
	for _, fault := range r.faults() {
		text = append(text, "FAULT: "+fault)
	}
	return text
}

// markdown writes the same for a document.
func (r *results) markdown() string {
	var b strings.Builder
	for _, text := range r.description() {
		fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(text, "\n", " "))
	}
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat(" --- |", len(header)))
	for _, cells := range r.table() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// What stands between the markers in a document belongs to this program.
const (
	markerBegin = "<!-- bench: begin -->"
	markerEnd   = "<!-- bench: end -->"
)

// intoDocument replaces what stands between the markers.
func intoDocument(document, content string) (string, error) {
	before, rest, found := strings.Cut(document, markerBegin)
	_, after, closed := strings.Cut(rest, markerEnd)
	if !found || !closed {
		return "", fmt.Errorf("no %q followed by %q in the document", markerBegin, markerEnd)
	}
	return before + markerBegin + "\n" + content + markerEnd + after, nil
}

// save keeps the raw results.
func (r *results) save(name string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// loadResults reads what save wrote.
func loadResults(name string) (*results, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &r, nil
}
