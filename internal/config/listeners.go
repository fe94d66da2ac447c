package config

import (
	"log/slog"

	"kvd/internal/listen"
	"kvd/internal/sd"
)

// ClientRole is how to listen for clients.
func (c *Config) ClientRole(log *slog.Logger) listen.Role {
	o := c.listenOptions(c.ClientTLS, log)
	if len(c.Listen.ClientHTTP) > 0 {
		o.Protocol = listen.GRPC
	}
	return listen.Role{
		Name: sd.SocketClient, Option: "listen-client-urls", URLs: c.Listen.Client,
		Configured: c.Given("listen-client-urls"), Options: o,
	}
}

// ClientHTTPRole is how to listen for clients that speak HTTP/1 alone; it
// may have no URLs.
func (c *Config) ClientHTTPRole(log *slog.Logger) listen.Role {
	o := c.listenOptions(c.ClientTLS, log)
	o.Protocol = listen.HTTP
	return listen.Role{
		Name: sd.SocketClient, Option: "listen-client-http-urls", URLs: c.Listen.ClientHTTP,
		Configured: c.Given("listen-client-http-urls"), Options: o,
	}
}

// PeerRole is how to listen for other members.
func (c *Config) PeerRole(log *slog.Logger) listen.Role {
	o := c.listenOptions(c.PeerTLS, log)
	o.Protocol = listen.HTTP
	o.CheckRemote = !c.PeerTLS.SkipSANCheck
	return listen.Role{
		Name: sd.SocketPeer, Option: "listen-peer-urls", URLs: c.Listen.Peer,
		Configured: c.Given("listen-peer-urls"), Options: o,
	}
}

// MetricsRole is how to listen for metrics and health; it may have no URLs.
func (c *Config) MetricsRole(log *slog.Logger) listen.Role {
	o := c.listenOptions(c.ClientTLS, log)
	o.Protocol = listen.HTTP
	return listen.Role{
		Name: sd.SocketMetrics, Option: "listen-metrics-urls", URLs: c.Listen.Metrics,
		Configured: c.Given("listen-metrics-urls"), Options: o,
	}
}

func (c *Config) listenOptions(certs Certificates, log *slog.Logger) listen.Options {
	return listen.Options{
		ReusePort:        c.Listen.ReusePort,
		ReuseAddress:     c.Listen.ReuseAddress,
		CertFile:         certs.CertFile,
		KeyFile:          certs.KeyFile,
		TrustedCAFile:    certs.TrustedCAFile,
		ClientCertAuth:   certs.ClientCertAuth,
		AllowedCNs:       certs.AllowedCNs,
		AllowedHostnames: certs.AllowedHostnames,
		CipherSuites:     c.TLS.CipherSuites,
		MinVersion:       c.TLS.MinVersion,
		MaxVersion:       c.TLS.MaxVersion,
		Log:              log,
	}
}
