package config

import (
	"fmt"
	"strings"
	"time"
)

const leastTTL = time.Second

// proxyRules are of how a proxy serves a cluster.
func proxyRules() []rule {
	return []rule{
		{[]string{"proxy-refresh-interval"}, func(c *Config) (string, string) {
			if c.Proxy.Refresh <= 0 {
				return "a proxy has to look who the members are", "use 30s, for one"
			}
			return "", ""
		}},
		{[]string{"proxy-leasing-prefix", "proxy"}, func(c *Config) (string, string) {
			if c.Proxy.LeasingPrefix != "" && c.Proxy.Mode == "readonly" {
				return "a read-only proxy writes nothing, not even which keys it owns", "leave the prefix out"
			}
			return "", ""
		}},
		{[]string{"proxy-leasing-ttl", "proxy-leasing-prefix"}, func(c *Config) (string, string) {
			if ttl := c.Proxy.LeasingTTL; c.Proxy.LeasingPrefix != "" && (ttl < leastTTL || ttl%time.Second != 0) {
				return fmt.Sprintf("%s cannot be the time of a lease", ttl), "use whole seconds, one at least"
			}
			return "", ""
		}},
		{[]string{"proxy-resolver-ttl", "proxy-resolver-prefix"}, func(c *Config) (string, string) {
			if ttl := c.Proxy.ResolverTTL; c.Proxy.ResolverPrefix != "" && (ttl < leastTTL || ttl%time.Second != 0) {
				return fmt.Sprintf("%s cannot be the time of a lease", ttl), "use whole seconds, one at least"
			}
			return "", ""
		}},
		{[]string{"proxy-resolver-prefix", "advertise-client-urls"}, func(c *Config) (string, string) {
			switch {
			case c.Proxy.ResolverPrefix == "":
				return "", ""
			case strings.HasSuffix(c.Proxy.ResolverPrefix, "/"):
				return "a slash is put behind the prefix", "leave the one at its end out"
			case c.Proxy.Mode != "off" && !c.Given("advertise-client-urls"):
				return "a proxy is registered with its --advertise-client-urls, which are not set", "set them to the URL that clients reach this proxy at"
			case c.Proxy.Mode == "readonly":
				return "a read-only proxy writes nothing, not even where it is", "leave the prefix out"
			}
			return "", ""
		}},
	}
}
