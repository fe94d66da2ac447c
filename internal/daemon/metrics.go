package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/config"
	"kvd/internal/member"
	"kvd/internal/replica"
	"kvd/internal/state"
	"kvd/internal/store"
)

// facts shows what can be read off a member at any time, under etcd's names:
// nothing is counted for it while requests are served. What has to be measured
// when it happens is measured by the packages where it does.
type facts struct {
	replica  *replica.Replica
	store    *store.File
	id       member.ID
	quota    int64 // bytes
	cache    int64 // the same
	gates    []config.GateState
	families []family
}

// reading is a member at one moment.
type reading struct {
	*facts
	view   *state.View
	counts state.Counts
	status replica.Status
}

// family is one metric with all its label values.
type family struct {
	*prometheus.Desc
	kind prometheus.ValueType
	read func(r *reading, show show)
}

// show adds one value, with the values of the family's labels.
type show func(value float64, labels ...string)

// register makes the member show its facts.
func (m *running) register() {
	m.registry.MustRegister(m.newFacts())
	registerAbsent(m.registry)
}

// newFacts reads what does not change while the member runs, of the files and
// of the configuration.
func (m *running) newFacts() *facts {
	f := &facts{
		replica: m.replica, store: m.opened.Store, id: m.opened.ID,
		quota: quota(m.config.Store.QuotaBytes), cache: m.config.Store.ValueCacheBytes, gates: m.config.Gates.States(),
	}
	for _, topic := range [][]family{memberFamilies(), keyFamilies(), storeFamilies(), processFamilies()} {
		f.families = append(f.families, topic...)
	}
	return f
}

// Describe implements prometheus.Collector.
func (f *facts) Describe(to chan<- *prometheus.Desc) {
	for _, each := range f.families {
		to <- each.Desc
	}
}

// Collect implements prometheus.Collector.
func (f *facts) Collect(to chan<- prometheus.Metric) {
	r := &reading{facts: f, view: f.replica.View(), status: f.replica.Status()}
	r.counts = r.view.Counts()
	for _, each := range f.families {
		each.read(r, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(each.Desc, each.kind, value, labels...)
		})
	}
}

// gauge and counter make families of one value, labelled those of many.

func gauge[N int | int64 | uint64](name, help string, read func(*reading) N) family {
	return single(prometheus.GaugeValue, name, help, read)
}

func counter(name, help string, read func(*reading) uint64) family {
	return single(prometheus.CounterValue, name, help, read)
}

func single[N int | int64 | uint64](kind prometheus.ValueType, name, help string, read func(*reading) N) family {
	return family{prometheus.NewDesc(name, help, nil, nil), kind, func(r *reading, show show) { show(float64(read(r))) }}
}

func labelled(name, help string, labels []string, read func(*reading, show)) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, read}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
