// Package gateway serves what a member says over HTTP/1: its health, versions,
// metrics and, where allowed, profiles; and its RPCs, as JSON. It knows nothing
// of the house: what it needs to ask it is given as functions, and the RPCs as a
// connection.
package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options tune the gateway. A zero field takes the default named beside it.
type Options struct {
	Pprof           bool          // serve profiles under /debug/pprof; no
	HostWhitelist   []string      // hosts that plain requests may be meant for; all
	CORS            []string      // origins of pages that may ask; all
	RequestTimeout  time.Duration // for a health probe; 7 s
	MaxRequestBytes int           // the largest request of an RPC; 2 MiB
	ClientCertAuth  bool          // clients show certificates, which may name users
	// Pages are more to be told by GET, by path, on client and metrics ports; none.
	Pages map[string]http.HandlerFunc
}

// Versions are what /version tells, under etcd's names. Clients compare it byte
// by byte, so what is kvd's own stands elsewhere.
type Versions struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"` // not_decided until it is
	Storage string `json:"storage"`     // unknown until it is
}

// Build is this program's own version.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Questions are what the gateway asks the member. All must be there, and are
// asked from many goroutines.
type Questions struct {
	Versions func() Versions
	Alarms   func() []string // names of the alarms that are raised, as etcd's: NOSPACE, CORRUPT
	Leader   func() bool     // is one known
	Learner  func() bool     // is this member one
	// Read makes a small read: serializable from what this member has, else
	// one that the cluster agrees on.
	Read func(ctx context.Context, serializable bool) error
	// Authenticates tells whether callers must be known. Nil: they never must.
	Authenticates func() bool
	// Vars are shown under /debug/vars beside the process's own, as JSON.
	Vars map[string]func() any
}

// Gateway is the HTTP side of one member.
type Gateway struct {
	o        Options
	ask      Questions
	build    Build
	log      *slog.Logger
	gatherer prometheus.Gatherer
	registry prometheus.Registerer
	metrics  *metrics
}

// New makes a gateway. Metrics are gathered from gatherer; the gateway's own
// are registered with registry.
func New(o Options, ask Questions, build Build, log *slog.Logger, registry prometheus.Registerer, gatherer prometheus.Gatherer) *Gateway {
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 7 * time.Second
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = 2 << 20
	}
	if build.Go == "" {
		build.Go = runtime.Version()
	}
	return &Gateway{o: o, ask: ask, build: build, log: log, gatherer: gatherer, registry: registry, metrics: newMetrics(registry, build)}
}

// Client is what the client ports serve beside gRPC. With services, their RPCs
// are served as JSON below /v3/.
func (g *Gateway) Client(services Services) (http.Handler, error) {
	mux := http.NewServeMux()
	g.observe(mux)
	mux.HandleFunc("/version", get(g.version))
	mux.HandleFunc("/kvd/version", get(g.ownVersion))
	mux.HandleFunc("/debug/vars", get(g.vars))
	if g.o.Pprof {
		profiles(mux)
	}
	all := http.NewServeMux()
	all.Handle("/", http.MaxBytesHandler(mux, bodyBytes))
	if services != nil {
		v3, err := g.json(services)
		if err != nil {
			return nil, err
		}
		all.Handle("/v3/", v3)
	}
	return g.guard(all), nil
}

func (g *Gateway) json(services Services) (http.Handler, error) {
	v3, err := translate(services, jsonBytes(g.o.MaxRequestBytes), g.mayOpen, g.log)
	if err != nil {
		return nil, fmt.Errorf("describe the RPCs in JSON: %w", err)
	}
	return v3, nil
}

// jsonBytes is what the JSON of a request may need: base64 takes a third more,
// and an escaped character up to six times its own.
func jsonBytes(request int) int64 { return 2*int64(request) + 1<<20 }

// Metrics is what the metrics ports serve. They are the operator's own: no
// host is refused and no page is let in.
func (g *Gateway) Metrics() http.Handler {
	mux := http.NewServeMux()
	g.observe(mux)
	return http.MaxBytesHandler(mux, bodyBytes)
}

func (g *Gateway) observe(mux *http.ServeMux) {
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(g.registry, promhttp.HandlerFor(g.gatherer, promhttp.HandlerOpts{})))
	mux.HandleFunc("/health", get(g.health))
	for path, page := range g.o.Pages {
		mux.HandleFunc(path, get(page))
	}
	g.install(mux, "livez", "serializable_read")
	g.install(mux, "readyz", "data_corruption", "serializable_read", "linearizable_read", "non_learner")
}

// get refuses every method but GET, in etcd's words. HEAD is none.
func get(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		serve(w, r)
	}
}

func (g *Gateway) version(w http.ResponseWriter, _ *http.Request) {
	v := g.ask.Versions()
	if v.Cluster == "" {
		v.Cluster = "not_decided"
	}
	if v.Storage == "" {
		v.Storage = "unknown"
	}
	answer(w, v)
}

func (g *Gateway) ownVersion(w http.ResponseWriter, _ *http.Request) { answer(w, g.build) }

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b) //nolint:errcheck // the client has gone
}

// vars shows the variables in order, one a line, as package expvar does.
func (g *Gateway) vars(w http.ResponseWriter, _ *http.Request) {
	all := map[string]func() any{
		"cmdline":  func() any { return os.Args },
		"memstats": func() any { var m runtime.MemStats; runtime.ReadMemStats(&m); return &m },
	}
	for name, v := range g.ask.Vars {
		all[name] = v
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	fmt.Fprint(w, "{")
	separator := "\n"
	for _, name := range names {
		b, err := json.Marshal(all[name]())
		if err != nil {
			g.log.Warn("a debug variable cannot be shown", "name", name, "error", err)
			continue
		}
		fmt.Fprintf(w, "%s%q: %s", separator, name, b)
		separator = ",\n"
	}
	fmt.Fprint(w, "\n}\n")
}

func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index) // and all profiles by name
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
