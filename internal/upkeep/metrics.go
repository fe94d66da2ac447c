package upkeep

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/member"
)

// What came of a check.
const (
	resultAgreed     = "agreed"
	resultDisagreed  = "disagreed"
	resultIncomplete = "incomplete" // some member could not be compared with
	resultFailed     = "failed"
)

// What came of a defragmentation.
const (
	tidyDone   = "done"
	tidyFailed = "failed"
)

// metrics are of kvd's own: etcd counts none of this.
type metrics struct {
	checks  *prometheus.CounterVec
	agreed  *prometheus.GaugeVec
	corrupt prometheus.Gauge

	fill     prometheus.Gauge
	disarmed prometheus.Counter
	tidies   *prometheus.CounterVec
	tidy     prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_corruption_checks_total", Help: "Comparisons of the members' data that this member made as the leader, by result.",
		}, []string{"check", "result"}),
		agreed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kvd_corruption_check_agreed_timestamp_seconds", Help: "When this member, as the leader, last found all members to agree.",
		}, []string{"check"}),
		corrupt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_corrupt", Help: "Whether this member is alarmed as corrupt, by itself or with the whole cluster.",
		}),
	}
	m.fill = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kvd_quota_level", Help: "0: the database is far from its quota. 1: it is past 80 % of it. 2: it is full, and the NOSPACE alarm of this member is raised.",
	})
	m.disarmed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kvd_nospace_disarmed_total", Help: "NOSPACE alarms of this member that it has lowered because there was space again.",
	})
	m.tidies = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kvd_auto_defragmentations_total", Help: "Defragmentations that this member made of its own accord, by result.",
	}, []string{"result"})
	m.tidy = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kvd_auto_defragmentation_last_timestamp_seconds", Help: "When the last of them was done.",
	})
	for _, result := range []string{tidyDone, tidyFailed} {
		m.tidies.WithLabelValues(result)
	}
	for _, check := range []string{"periodic", "compaction"} {
		for _, result := range []string{resultAgreed, resultDisagreed, resultIncomplete, resultFailed} {
			m.checks.WithLabelValues(check, result)
		}
	}
	if registry != nil {
		registry.MustRegister(m.checks, m.agreed, m.corrupt, m.fill, m.disarmed, m.tidies, m.tidy)
	}
	return m
}

func (m *metrics) check(check, result string) {
	m.checks.WithLabelValues(check, result).Inc()
	if result == resultAgreed {
		m.agreed.WithLabelValues(check).SetToCurrentTime()
	}
}

func (m *metrics) outcome(check string, disagreed, complete bool) {
	switch {
	case disagreed:
		m.check(check, resultDisagreed)
	case complete:
		m.check(check, resultAgreed)
	default:
		m.check(check, resultIncomplete)
	}
}

func (m *metrics) tidied(result string) {
	m.tidies.WithLabelValues(result).Inc()
	if result == tidyDone {
		m.tidy.SetToCurrentTime()
	}
}

func (m *metrics) alarmed(ids []member.ID, self member.ID) {
	m.corrupt.Set(0)
	if Concerns(ids, self) {
		m.corrupt.Set(1)
	}
}

// Concerns reports whether a member is among those alarmed, by itself or with
// the whole cluster.
func Concerns(alarmed []member.ID, id member.ID) bool {
	return slices.Contains(alarmed, id) || slices.Contains(alarmed, 0)
}
