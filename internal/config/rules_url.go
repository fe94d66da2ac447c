package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"kvd/internal/bootstrap"
)

func urlRules() []rule {
	var rules []rule
	for option, urls := range map[string]func(*Config) []url.URL{
		"listen-peer-urls":        func(c *Config) []url.URL { return c.Listen.Peer },
		"listen-client-urls":      func(c *Config) []url.URL { return c.Listen.Client },
		"listen-client-http-urls": func(c *Config) []url.URL { return c.Listen.ClientHTTP },
		"listen-metrics-urls":     func(c *Config) []url.URL { return c.Listen.Metrics },
	} {
		rules = append(rules, rule{[]string{option}, func(c *Config) (string, string) {
			for _, u := range urls(c) {
				if problem := unbindable(u); problem != "" {
					return problem, "listen on an address of this machine, or on 0.0.0.0, and advertise the name"
				}
			}
			return "", ""
		}})
	}
	slices.SortFunc(rules, func(a, b rule) int { return strings.Compare(a.options[0], b.options[0]) })
	return append(rules, []rule{
		{[]string{"initial-advertise-peer-urls"}, func(c *Config) (string, string) {
			return hostless(c.Advertise.Peer, `--initial-advertise-peer-urls %q must be "host:port" (%s)`), ""
		}},
		{[]string{"advertise-client-urls"}, func(c *Config) (string, string) {
			return hostless(c.Advertise.Client, `--advertise-client-urls %q must be in the format "host:port", `+
				`"unix:/path/to/socket" or "unixs:/path/to/socket" (%s)`), ""
		}},
		{[]string{"listen-client-urls", "advertise-client-urls"}, func(c *Config) (string, string) {
			if !c.Given("listen-client-urls") || c.Given("advertise-client-urls") || mayBeProxy(c) {
				return "", ""
			}
			return "--advertise-client-urls is required when --listen-client-urls is set explicitly",
				"set it to the URL that clients reach this member at"
		}},
		{[]string{"listen-client-http-urls", "listen-client-urls"}, func(c *Config) (string, string) {
			for _, u := range c.Listen.ClientHTTP {
				if slices.ContainsFunc(c.Listen.Client, func(o url.URL) bool { return sameAddress(u, o) }) {
					return "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url " + u.String(), ""
				}
			}
			return "", ""
		}},
		{
			[]string{"listen-metrics-urls", "listen-client-urls", "listen-client-http-urls", "listen-peer-urls"},
			func(c *Config) (string, string) {
				clients := append(slices.Clone(c.Listen.Client), c.Listen.ClientHTTP...)
				if u, both := shared(c.Listen.Metrics, clients); both {
					return fmt.Sprintf("listen-metrics-urls and the client URLs both name %s", u), "give each its own port"
				}
				if u, both := shared(c.Listen.Peer, append(clients, c.Listen.Metrics...)); both {
					return fmt.Sprintf("listen-peer-urls and another listener both name %s", u), "give each its own port"
				}
				return "", ""
			},
		},
	}...)
}

// mayBeProxy reports whether the process is, or may become, a proxy: by what its
// data directory holds, by the option, or if the cluster to discover is full.
func mayBeProxy(c *Config) bool {
	if kind, err := bootstrap.Identify(c.Member.DataDir); err == nil && kind == bootstrap.Proxy {
		return true
	}
	return c.Proxy.Mode != "off" || len(c.Discovery.Endpoints) > 0 && c.Discovery.Fallback == "proxy"
}

// unbindable says why an address cannot be listened on.
func unbindable(u url.URL) string {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return ""
	}
	if host := u.Hostname(); host != "localhost" && net.ParseIP(host) == nil {
		return fmt.Sprintf("expected IP in URL for binding (%s)", u.String())
	}
	return ""
}

// hostless reports URLs that name no host.
func hostless(all []url.URL, format string) string {
	for _, u := range all {
		if strings.HasPrefix(u.Scheme, "unix") {
			continue
		}
		if u.Hostname() == "" {
			return fmt.Sprintf(format, urlTexts(all), fmt.Sprintf("unexpected empty host (%s)", u.String()))
		}
	}
	return ""
}

// sameAddress says whether two URLs name one socket, whatever is spoken there.
func sameAddress(a, b url.URL) bool {
	if strings.HasPrefix(a.Scheme, "unix") != strings.HasPrefix(b.Scheme, "unix") {
		return false
	}
	if strings.HasPrefix(a.Scheme, "unix") {
		return a.Opaque+a.Host+a.Path == b.Opaque+b.Host+b.Path
	}
	return a.Host == b.Host && a.Port() != "0"
}

func shared(some, others []url.URL) (string, bool) {
	for _, u := range some {
		if slices.ContainsFunc(others, func(o url.URL) bool { return sameAddress(u, o) }) {
			return u.String(), true
		}
	}
	return "", false
}
