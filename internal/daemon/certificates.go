package daemon

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/listen"
)

// certificates are those of the configuration, where it asks for it with one
// that this member made itself.
func (m *running) certificates() (client, peer config.Certificates, err error) {
	c := m.config
	clients := slices.Concat(c.Listen.Client, c.Listen.ClientHTTP)
	if client, err = m.selfSigned("client", c.ClientTLS, clients, slices.Concat(clients, c.Listen.Metrics)); err != nil {
		return client, peer, err
	}
	peer, err = m.selfSigned("peer", c.PeerTLS, c.Listen.Peer, c.Listen.Peer)
	return client, peer, err
}

// selfSigned completes the certificates of one side. The certificate names the
// hosts of the URLs; there is none if none of its users asks for TLS.
//
// With one of its own etcd forgets whom it was to let in. kvd goes on asking
// clients for certificates: who wants both gets both.
func (m *running) selfSigned(side string, c config.Certificates, named, users []url.URL) (config.Certificates, error) {
	if !c.Auto {
		return c, nil
	}
	if c.CertFile != "" || c.KeyFile != "" {
		m.log.Warn("ignoring " + side + " auto TLS since certs given")
		return c, nil
	}
	if !slices.ContainsFunc(users, func(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }) {
		return c, nil
	}
	own, err := listen.SelfSign(filepath.Join(m.config.Member.DataDir, "fixtures", side), named, m.config.TLS.SelfSignedValidity)
	if err != nil {
		return c, fmt.Errorf("%s auto TLS: %w", side, bootstrap.Explain(err))
	}
	log := m.log.With("cert-file", own.CertFile, "not-after", own.NotAfter)
	switch {
	case own.Made:
		log.Warn("made a certificate for the " + side + " URLs; nobody has reason to trust it yet")
	case own.NotAfter.Before(time.Now()):
		log.Warn("the certificate for the " + side + " URLs has expired; remove it and its key to have a new one made")
	default:
		log.Info("using the certificate made before for the " + side + " URLs")
	}
	c.CertFile, c.KeyFile = own.CertFile, own.KeyFile
	return c, nil
}
