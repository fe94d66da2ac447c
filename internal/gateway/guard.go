package gateway

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
)

// guard refuses plain requests that are meant for another host, which is how a
// page in a browser reaches into a network (CVE-2018-5702), and says which
// pages' scripts may read the answers.
func (g *Gateway) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v3beta/"); ok {
			r.URL.Path = "/v3/" + rest
		}
		if host := hostname(r.Host); r.TLS == nil && !allows(g.o.HostWhitelist, host) {
			g.log.LogAttrs(r.Context(), slog.LevelWarn, "a request is refused as its host is not on the whitelist", slog.String("host", host))
			http.Error(w, fmt.Sprintf("\nThis server does not answer requests for the host %q: it is not on its whitelist.\n\n"+
				"Either use TLS, where any host is accepted, or add it:\n  --host-whitelist %q\n\n"+
				"The check stands against DNS rebinding (CVE-2018-5702).\n", host, host), http.StatusMisdirectedRequest)
			return
		}
		if origin := r.Header.Get("Origin"); allows(g.o.CORS, "*") {
			share(w, "*")
		} else if slices.Contains(g.o.CORS, origin) {
			share(w, origin)
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allows reports whether a list has name; an empty list has all.
func allows(list []string, name string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, name)
}

// hostname is a Host header without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

func share(w http.ResponseWriter, origin string) {
	w.Header().Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
	w.Header().Add("Access-Control-Allow-Origin", origin)
	w.Header().Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
}
