package config

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"
)

func tlsRules() []rule {
	asks := func(all []url.URL) (url.URL, bool) {
		at := slices.IndexFunc(all, func(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" })
		if at < 0 {
			return url.URL{}, false
		}
		return all[at], true
	}
	return []rule{
		{
			[]string{"cert-file", "key-file", "listen-client-urls", "listen-client-http-urls", "auto-tls"},
			func(c *Config) (string, string) {
				u, secure := asks(append(slices.Clone(c.Listen.Client), c.Listen.ClientHTTP...))
				if secure && !c.ClientTLS.Auto && c.ClientTLS.empty() {
					return fmt.Sprintf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme",
						u.String()), ""
				}
				return halfPair(secure, c.ClientTLS), ""
			},
		},
		{[]string{"peer-cert-file", "peer-key-file", "listen-peer-urls", "peer-auto-tls"}, func(c *Config) (string, string) {
			u, secure := asks(c.Listen.Peer)
			if secure && !c.PeerTLS.Auto && c.PeerTLS.empty() {
				return fmt.Sprintf("cannot listen on TLS for %s: KeyFile and CertFile are not presented", u.Host),
					"set peer-cert-file and peer-key-file"
			}
			return halfPair(secure, c.PeerTLS), ""
		}},
		{[]string{"listen-metrics-urls", "cert-file", "key-file", "auto-tls"}, func(c *Config) (string, string) {
			if _, secure := asks(c.Listen.Metrics); secure && !c.ClientTLS.Auto && c.ClientTLS.empty() {
				return "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url", ""
			}
			return "", ""
		}},
		{[]string{"client-cert-file", "client-key-file"}, func(c *Config) (string, string) { return clientPair(c.ClientTLS), "" }},
		{[]string{"peer-client-cert-file", "peer-client-key-file"}, func(c *Config) (string, string) { return clientPair(c.PeerTLS), "" }},
		{[]string{"peer-cert-allowed-cn", "peer-cert-allowed-hostname"}, func(c *Config) (string, string) {
			if !c.PeerTLS.empty() && len(c.PeerTLS.AllowedCNs) > 0 && len(c.PeerTLS.AllowedHostnames) > 0 {
				return fmt.Sprintf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)",
					c.PeerTLS.AllowedCNs, c.PeerTLS.AllowedHostnames), ""
			}
			return "", ""
		}},
		{[]string{"self-signed-cert-validity", "auto-tls", "peer-auto-tls"}, func(c *Config) (string, string) {
			if c.TLS.SelfSignedValidity == 0 && (c.ClientTLS.Auto || c.PeerTLS.Auto) {
				return "selfSignedCertValidity is invalid,it should be greater than 0", ""
			}
			return "", ""
		}},
		{[]string{"tls-max-version", "tls-min-version"}, func(c *Config) (string, string) {
			if c.TLS.MaxVersion != 0 && c.TLS.MinVersion > c.TLS.MaxVersion {
				return fmt.Sprintf("min version (%s) is greater than max version (%s)",
					tlsVersion{&c.TLS.MinVersion}.text(), tlsVersion{&c.TLS.MaxVersion}.text()), ""
			}
			return "", ""
		}},
		{[]string{"cipher-suites", "tls-min-version"}, func(c *Config) (string, string) {
			if c.TLS.MinVersion == tls.VersionTLS13 && len(c.TLS.CipherSuites) > 0 {
				return "cipher suites cannot be configured when only TLS1.3 is enabled", ""
			}
			return "", ""
		}},
	}
}

// empty says whether no certificate of this side is given.
func (c Certificates) empty() bool { return c.CertFile == "" && c.KeyFile == "" }

// halfPair reports a certificate without its key, or the other way round,
// where they are used.
func halfPair(used bool, c Certificates) string {
	if used && !c.empty() && (c.CertFile == "" || c.KeyFile == "") {
		return fmt.Sprintf("KeyFile and CertFile must both be present[key: %v, cert: %v]", c.KeyFile, c.CertFile)
	}
	return ""
}

// clientPair reports the same of the certificate that is shown as a client.
func clientPair(c Certificates) string {
	if !c.empty() && (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return fmt.Sprintf("ClientKeyFile and ClientCertFile must both be present or both absent: key: %v, cert: %v",
			c.ClientKeyFile, c.ClientCertFile)
	}
	return ""
}
