package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// member is what the questions are answered from.
type member struct {
	alarms                   []string
	leaderless, learner      bool
	serializable, linearized error
}

func (m *member) gateway(o Options) *Gateway {
	r := prometheus.NewRegistry()
	return New(o, Questions{
		Versions: func() Versions { return Versions{Server: "3.7.3", Cluster: "3.7.0", Storage: "3.7.0"} },
		Alarms:   func() []string { return m.alarms },
		Leader:   func() bool { return !m.leaderless },
		Learner:  func() bool { return m.learner },
		Read: func(_ context.Context, serializable bool) error {
			if serializable {
				return m.serializable
			}
			return m.linearized
		},
		Vars: map[string]func() any{"raft.status": func() any { return map[string]int{"term": 3} }},
	}, Build{Version: "1.2.3"}, slog.New(slog.DiscardHandler), r, r)
}

// client is what a port serves without RPCs.
func (g *Gateway) client() http.Handler {
	h, err := g.Client(nil)
	if err != nil {
		panic(err)
	}
	return h
}

func ask(h http.Handler, method, target string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:2379"
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHealthNamesTheFirstIllness(t *testing.T) {
	failure := errors.New("etcdserver: request timed out")
	for _, c := range []struct {
		member member
		query  string
		code   int
		want   string
	}{
		{member{}, "", 200, `{"health":"true","reason":""}`},
		{member{alarms: []string{"NOSPACE"}}, "", 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{member{alarms: []string{"NOSPACE"}}, "?exclude=NOSPACE", 200, `{"health":"true","reason":""}`},
		{member{alarms: []string{"NOSPACE", "CORRUPT"}}, "?exclude=NOSPACE", 503, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{member{alarms: []string{"7"}}, "", 503, `{"health":"false","reason":"ALARM UNKNOWN"}` + "\n"},
		{member{leaderless: true, linearized: failure}, "", 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{member{leaderless: true, linearized: failure}, "?serializable=true", 200, `{"health":"true","reason":""}`},
		{member{linearized: failure}, "", 503, `{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}` + "\n"},
	} {
		g := c.member.gateway(Options{})
		for _, h := range []http.Handler{g.client(), g.Metrics()} {
			r := ask(h, "GET", "/health"+c.query)
			if got := body(t, r); r.StatusCode != c.code || got != c.want {
				t.Errorf("%+v%s: %d %q, want %d %q", c.member, c.query, r.StatusCode, got, c.code, c.want)
			}
		}
	}
}

func TestLivezAndReadyz(t *testing.T) {
	failure := errors.New("etcdserver: request timed out")
	for _, c := range []struct {
		member member
		target string
		code   int
		want   string
	}{
		{member{}, "/livez", 200, "ok\n"},
		{member{}, "/livez?verbose", 200, "[+]serializable_read ok\nok\n"},
		{member{}, "/readyz", 200, "ok\n"},
		{member{linearized: failure}, "/livez", 200, "ok\n"},
		{member{linearized: failure}, "/readyz?exclude=linearizable_read&exclude=unheard", 200, "ok\n"},
		{member{linearized: failure}, "/readyz/serializable_read", 200, "ok\n"},
		{member{linearized: failure}, "/readyz/linearizable_read?exclude=linearizable_read", 503, "[-]linearizable_read failed: etcdserver: request timed out\n\n"},
		{member{alarms: []string{"NOSPACE"}}, "/readyz", 200, "ok\n"},
		{
			member{alarms: []string{"CORRUPT"}, learner: true},
			"/readyz", 503,
			"[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n",
		},
		{member{}, "/livez/linearizable_read", 404, "404 page not found\n"},
	} {
		r := ask(c.member.gateway(Options{}).client(), "GET", c.target)
		if got := body(t, r); r.StatusCode != c.code || got != c.want {
			t.Errorf("%+v %s: %d %q, want %d %q", c.member, c.target, r.StatusCode, got, c.code, c.want)
		}
	}
}

func TestPathsAndMethods(t *testing.T) {
	g := (&member{}).gateway(Options{})
	for _, c := range []struct {
		handler      http.Handler
		method, path string
		code         int
		want         string // the answer's beginning
	}{
		{g.client(), "GET", "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{g.client(), "GET", "/kvd/version", 200, `{"version":"1.2.3","go":"go1.`},
		{g.client(), "POST", "/version", 405, "Method Not Allowed\n"},
		{g.client(), "HEAD", "/health", 405, "Method Not Allowed\n"},
		{g.client(), "PUT", "/metrics", 200, "# HELP"},
		{g.client(), "GET", "/", 404, "404 page not found\n"},
		{g.client(), "POST", "/v3/kv/range", 404, "404 page not found\n"},
		{g.client(), "GET", "/debug/pprof/", 404, "404 page not found\n"},
		{g.client(), "OPTIONS", "/anything", 200, ""},
		{g.Metrics(), "GET", "/metrics", 200, "# HELP"},
		{g.Metrics(), "GET", "/version", 404, "404 page not found\n"},
		{g.Metrics(), "OPTIONS", "/health", 405, "Method Not Allowed\n"},
		{(&member{}).gateway(Options{Pprof: true}).client(), "GET", "/debug/pprof/cmdline", 200, ""},
	} {
		r := ask(c.handler, c.method, c.path)
		got := body(t, r)
		if r.StatusCode != c.code || !strings.HasPrefix(got, c.want) || c.want == "" && c.method == "OPTIONS" && got != "" {
			t.Errorf("%s %s: %d %.80q, want %d %q", c.method, c.path, r.StatusCode, got, c.code, c.want)
		}
		if c.code == 405 && r.Header.Get("Allow") != "GET" {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, r.Header.Get("Allow"))
		}
	}
}

func TestVarsAreJSONInOrder(t *testing.T) {
	text := body(t, ask((&member{}).gateway(Options{}).client(), "GET", "/debug/vars"))
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
	if got["raft.status"].(map[string]any)["term"] != 3.0 || got["memstats"] == nil {
		t.Errorf("got %.200s", text)
	}
	if strings.Index(text, "cmdline") > strings.Index(text, "memstats") {
		t.Error("not in order")
	}
}

func TestOnlyListedHostsAreAnswered(t *testing.T) {
	h := (&member{}).gateway(Options{HostWhitelist: []string{"good.example"}}).client()
	if r := ask(h, "GET", "/health", "Host", "good.example:2379"); r.StatusCode != 200 {
		t.Errorf("a listed host gets %d", r.StatusCode)
	}
	r := ask(h, "GET", "/health", "Host", "bad.example")
	if text := body(t, r); r.StatusCode != 421 || !strings.Contains(text, `--host-whitelist "bad.example"`) || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("an unlisted host gets %d %q", r.StatusCode, text)
	}
}

func TestOriginsAreToldWhetherTheyMayRead(t *testing.T) {
	const allowed = "Access-Control-Allow-Origin"
	all := (&member{}).gateway(Options{}).client()
	if r := ask(all, "GET", "/health", "Origin", "http://a.example:80"); r.Header.Get(allowed) != "*" {
		t.Errorf("without a list the origin is %q", r.Header.Get(allowed))
	}
	some := (&member{}).gateway(Options{CORS: []string{"http://a.example:80"}}).client()
	for origin, want := range map[string]string{"http://a.example:80": "http://a.example:80", "http://b.example:80": ""} {
		if r := ask(some, "GET", "/health", "Origin", origin); r.StatusCode != 200 || r.Header.Get(allowed) != want {
			t.Errorf("%s gets %d and %q, want %q", origin, r.StatusCode, r.Header.Get(allowed), want)
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, (&member{}).gateway(Options{}).client(), nil, l) }()
	r, err := http.Get("http://" + l.Addr().String() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != 200 {
		t.Errorf("got %d", r.StatusCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestServeLetsHandlersDecide has what peers need: bodies of any length, and
// requests that do not end until the server is told to.
func TestServeLetsHandlersDecide(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
			return
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-ended
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	prepare := func(server *http.Server) { server.RegisterOnShutdown(func() { close(ended) }) }
	go func() { done <- Serve(ctx, handler, prepare, l) }()
	url := "http://" + l.Addr().String()
	r, err := http.Post(url, "", bytes.NewReader(make([]byte, bodyBytes+1)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, err := io.ReadAll(r.Body); err != nil || string(text) != fmt.Sprint(bodyBytes+1, " <nil>") {
		t.Errorf("the handler read %s, %v", text, err)
	}
	endless, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer endless.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if text, err := io.ReadAll(endless.Body); err != nil || len(text) > 0 {
		t.Errorf("the request that does not end ended with %q, %v", text, err)
	}
}
