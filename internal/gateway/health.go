package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names, but for the one about this program.
type metrics struct {
	well, unwell prometheus.Counter
	result       *prometheus.GaugeVec
	results      *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, build Build) *metrics {
	etcd := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "etcd", Subsystem: "server", Name: name, Help: help}
	}
	m := &metrics{
		well:    prometheus.NewCounter(prometheus.CounterOpts(etcd("health_success", "Health checks that succeeded."))),
		unwell:  prometheus.NewCounter(prometheus.CounterOpts(etcd("health_failures", "Health checks that failed."))),
		result:  prometheus.NewGaugeVec(prometheus.GaugeOpts(etcd("healthcheck", "The last result of each check.")), []string{"type", "name"}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts(etcd("healthchecks_total", "Checks by result.")), []string{"type", "name", "status"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kvd_build_info", Help: "The program that serves; always 1.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "go": build.Go},
	})
	info.Set(1)
	registry.MustRegister(m.well, m.unwell, m.result, m.results, info)
	return m
}

// health answers for the whole member at once: alarms, a leader, a read.
func (g *Gateway) health(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	reason := g.illness(r.Context(), query["exclude"], query.Get("serializable") == "true")
	b, err := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if err != nil {
		panic(err) // two strings
	}
	if reason != "" {
		g.metrics.unwell.Inc()
		g.log.LogAttrs(r.Context(), slog.LevelWarn, "a health check failed", slog.String("path", r.URL.Path), slog.String("reason", reason))
		http.Error(w, string(b), http.StatusServiceUnavailable)
		return
	}
	g.metrics.well.Inc()
	w.Write(b) //nolint:errcheck // the client has gone
}

// illness says what is wrong, or nothing.
func (g *Gateway) illness(ctx context.Context, exclude []string, serializable bool) string {
	for _, alarm := range g.ask.Alarms() {
		switch {
		case slices.Contains(exclude, alarm):
		case alarm == "NOSPACE", alarm == "CORRUPT":
			return "ALARM " + alarm
		default:
			return "ALARM UNKNOWN"
		}
	}
	if !serializable && !g.ask.Leader() {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.RequestTimeout)
	defer cancel()
	if err := g.ask.Read(ctx, serializable); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

// check runs one of the checks that /livez and /readyz are made of.
func (g *Gateway) check(ctx context.Context, name string) error {
	switch name {
	case "serializable_read":
		return g.ask.Read(ctx, true)
	case "linearizable_read":
		ctx, cancel := context.WithTimeout(ctx, g.o.RequestTimeout)
		defer cancel()
		return g.ask.Read(ctx, false)
	case "data_corruption":
		if slices.Contains(g.ask.Alarms(), "CORRUPT") {
			return errors.New("alarm activated: CORRUPT")
		}
	case "non_learner":
		if g.ask.Learner() {
			return errors.New("not supported for learner")
		}
	}
	return nil
}

// install serves a kind of checks, all at once and one by one.
func (g *Gateway) install(mux *http.ServeMux, kind string, checks ...string) {
	mux.HandleFunc("/"+kind, get(func(w http.ResponseWriter, r *http.Request) {
		exclude := r.URL.Query()["exclude"]
		var left []string
		for _, name := range checks {
			if !slices.Contains(exclude, name) {
				left = append(left, name)
			}
		}
		g.runChecks(w, r, kind, left)
	}))
	for _, name := range checks {
		mux.HandleFunc("/"+kind+"/"+name, get(func(w http.ResponseWriter, r *http.Request) {
			g.runChecks(w, r, kind, []string{name})
		}))
	}
}

func (g *Gateway) runChecks(w http.ResponseWriter, r *http.Request, kind string, names []string) {
	var report strings.Builder
	failed := false
	for _, name := range names {
		err := g.check(r.Context(), name)
		status, result := "success", 1.0
		if err != nil {
			failed, status, result = true, "error", 0
			fmt.Fprintf(&report, "[-]%s failed: %v\n", name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", name)
		}
		g.metrics.result.WithLabelValues(kind, name).Set(result)
		g.metrics.results.WithLabelValues(kind, name, status).Inc()
	}
	if failed {
		g.log.LogAttrs(r.Context(), slog.LevelWarn, "a health check failed", slog.String("path", r.URL.Path), slog.String("reason", report.String()))
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, report.String())
	}
	fmt.Fprint(w, "ok\n")
}
