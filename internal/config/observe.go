package config

import (
	"net/url"
	"slices"
)

// Sizes beyond which etcd warns.
const (
	muchQuota   = 8 << 30
	muchRequest = 10 << 20
)

// observe warns of what is allowed and still probably not meant.
func (c *Config) observe() {
	if c.Member.Name == "default" && c.Proxy.Mode == "off" {
		c.warn("name is not set; members of one cluster must not share the name %q", c.Member.Name)
	}
	if c.Given("max-snapshots") {
		c.warn("max-snapshots is deprecated by etcd and will go")
	}
	if c.Given("v2-deprecation") {
		c.warn("v2-deprecation has no effect")
	}
	if c.Given("backend-batch-limit") {
		c.warn("backend-batch-limit has no effect: kvd does not need it")
	}
	if c.Store.QuotaBytes > muchQuota {
		c.warn("quota-backend-bytes %d is more than the suggested maximum of %d", c.Store.QuotaBytes, int64(muchQuota))
	}
	if c.Limits.RequestBytes > muchRequest {
		c.warn("max-request-bytes %d is more than the suggested maximum of %d", c.Limits.RequestBytes, muchRequest)
	}
	if c.Store.FreelistType != "array" && c.Store.FreelistType != "map" {
		c.warn("backend-bbolt-freelist-type %q is unknown; using map", c.Store.FreelistType)
		c.Store.FreelistType = "map"
	}
	if c.HTTP.Metrics != "basic" && c.HTTP.Metrics != "extensive" {
		c.warn("metrics %q is unknown; using basic", c.HTTP.Metrics)
		c.HTTP.Metrics = "basic"
	}
	c.observeTLS("the client URLs", append(slices.Clone(c.Listen.Client), c.Listen.ClientHTTP...), c.ClientTLS)
	c.observeTLS("listen-peer-urls", c.Listen.Peer, c.PeerTLS)
}

// observeTLS warns of certificates that plain URLs do not use.
func (c *Config) observeTLS(where string, all []url.URL, tls Certificates) {
	for _, u := range all {
		if u.Scheme != "http" && u.Scheme != "unix" {
			continue
		}
		if !tls.empty() {
			c.warn("%s: %s is not encrypted; certificate and key are ignored for it", where, u.String())
		}
		if tls.ClientCertAuth {
			c.warn("%s: %s is not encrypted; certificates of clients are not asked for", where, u.String())
		}
	}
}
