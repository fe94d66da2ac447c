package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const restartName = "restart" // names the fill and the restarts together

// options are the command line.
type options struct {
	etcd, kvd string // binaries; either may be empty
	limit     bool
	tool      string // etcd's benchmark
	only      string
	rounds    int
	duration  time.Duration
	fillKeys  int
	settle    time.Duration
	kills     int
	learnerMB int
	defragMB  int
	quick     bool
	dir       string
	out       string
	markdown  string
	from      string
	profile   string
}

func parseOptions(args []string, output io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(output)
	f.StringVar(&o.etcd, "etcd", "", "etcd's `binary`")
	f.StringVar(&o.kvd, "kvd", "", "kvd's `binary`")
	f.BoolVar(&o.limit, "limit", false, "also measure a server whose handlers do nothing")
	f.StringVar(&o.tool, "etcd-benchmark", "", "`binary` of etcd's own tools/benchmark, to run that too")
	f.StringVar(&o.only, "only", "", "`names` of the workloads to run, with commas: "+strings.Join(workloadNames(), ","))
	f.IntVar(&o.rounds, "rounds", 3, "how often each server is measured, in turn")
	f.DurationVar(&o.duration, "duration", 4*time.Second, "of each workload in each round")
	f.IntVar(&o.fillKeys, "fill-keys", 1_000_000, "keys of 256 B for the restart and the memory")
	f.DurationVar(&o.settle, "settle", 8*time.Second, "time before the memory is read")
	f.IntVar(&o.kills, "kills", 5, "of the leader of three, in each round")
	f.IntVar(&o.learnerMB, "learner-mb", 1024, "`MiB` of values that a new learner catches up")
	f.IntVar(&o.defragMB, "defrag-mb", 1024, "`MiB` of values that are defragmented")
	f.BoolVar(&o.quick, "quick", false, "two rounds of 1.5s, 200000 keys, 3s to settle, 3 kills, 128 MiB for the learner and the defragmentation, where no option says otherwise")
	f.StringVar(&o.dir, "dir", "", "where to make the `directory` for the data, and later remove it (default /var/tmp)")
	f.StringVar(&o.out, "out", "results.json", "`file` for the raw results")
	f.StringVar(&o.markdown, "markdown", "", "`file` in which to replace the table, between the markers")
	f.StringVar(&o.from, "from", "", "measure nothing: show the results kept in this `file`")
	f.StringVar(&o.profile, "profile", "", "`directory` for CPU profiles of every workload; profiling is part of the cost then")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	if o.quick {
		o.hurry(given)
	}
	return o, o.check(f.Args())
}

// hurry sets what was not given to what a quick run takes.
func (o *options) hurry(given map[string]bool) {
	if !given["rounds"] {
		o.rounds = 2
	}
	if !given["duration"] {
		o.duration = 1500 * time.Millisecond
	}
	if !given["fill-keys"] {
		o.fillKeys = 200_000
	}
	if !given["settle"] {
		o.settle = 3 * time.Second
	}
	if !given["kills"] {
		o.kills = 3
	}
	if !given["learner-mb"] {
		o.learnerMB = 128
	}
	if !given["defrag-mb"] {
		o.defragMB = 128
	}
}

func (o *options) check(rest []string) error {
	var faults []error
	if len(rest) > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if o.from == "" && o.etcd == "" && o.kvd == "" && !o.limit {
		faults = append(faults, errors.New("nothing to measure: give -etcd, -kvd or -limit"))
	}
	if o.rounds < 1 || o.duration < 100*time.Millisecond || o.fillKeys < 1000 || o.settle < 0 {
		faults = append(faults, errors.New("at least: -rounds 1, -duration 100ms, -fill-keys 1000, -settle 0s"))
	}
	if o.kills < 1 || o.learnerMB < 1 || o.learnerMB > 4096 {
		faults = append(faults, errors.New("at least: -kills 1, -learner-mb 1; at most -learner-mb 4096"))
	}
	if o.defragMB < 1 || o.defragMB > 4096 {
		faults = append(faults, errors.New("at least -defrag-mb 1, at most -defrag-mb 4096"))
	}
	for _, name := range o.names() {
		if !slices.Contains(workloadNames(), name) {
			faults = append(faults, fmt.Errorf("no workload %q; there are %s", name, strings.Join(workloadNames(), ", ")))
		}
	}
	return errors.Join(faults...)
}

// names are those of -only; none means all.
func (o *options) names() []string {
	return strings.FieldsFunc(o.only, func(r rune) bool { return r == ',' || r == ' ' })
}

func (o *options) wants(name string) bool {
	names := o.names()
	return len(names) == 0 || slices.Contains(names, name)
}

// String tells what shapes the figures.
func (o *options) String() string {
	s := fmt.Sprintf("%d rounds of %v, %d keys for the restart, %v to settle, %d kills, %d MiB for the learner, %d MiB defragmented",
		o.rounds, o.duration, o.fillKeys, o.settle, o.kills, o.learnerMB, o.defragMB)
	if o.profile != "" {
		s += ", profiled"
	}
	return s
}

func workloadNames() []string {
	var names []string
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	for _, w := range clusterWorkloads() {
		names = append(names, w.name)
	}
	for _, w := range proxyWorkloads() {
		names = append(names, w.name)
	}
	return append(names, defragName, restartName)
}
