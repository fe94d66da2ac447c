package gateway

import (
	"crypto/x509"
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
		if g.misled(r) {
			http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
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

// misled reports whether a client may believe that the name in its certificate
// counts here. Users are known by a token at the gateway, and by nothing else.
func (g *Gateway) misled(r *http.Request) bool {
	if r.TLS == nil || !g.o.ClientCertAuth || g.ask.Authenticates == nil || !strings.HasPrefix(r.URL.Path, "/v3/") {
		return false
	}
	named := slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
	return named && g.ask.Authenticates()
}

// mayOpen reports whether the page that a request comes from may open a socket.
// Browsers ask nobody before they open one, so what CORS forbids is refused here.
func (g *Gateway) mayOpen(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || allows(g.o.CORS, "*") || slices.Contains(g.o.CORS, origin)
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
