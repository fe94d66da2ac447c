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

// loadCredentials reads the files of both sides. Those of clients are read if one of their ports asks for TLS.
func (m *running) loadCredentials() error {
	c := m.config
	clients := slices.Concat(c.Listen.Client, c.Listen.ClientHTTP)
	users := slices.Concat(clients, c.Listen.Metrics)
	files, own, err := m.certificates("client", c.ClientTLS, clients, users)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(users, secure) {
		if m.clients, err = m.newSide("client", files, own, m.terms(c.ClientTLS)); err != nil {
			return err
		}
	}
	if m.proxy != nil && m.clients == nil && files != (listen.Files{}) {
		if m.members, err = m.newSide("member", files, own, m.terms(c.ClientTLS)); err != nil {
			return err
		}
	}
	if files, own, err = m.certificates("peer", c.PeerTLS, c.Listen.Peer, c.Listen.Peer); err != nil {
		return err
	}
	terms := m.terms(c.PeerTLS)
	// A certificate that a member made itself is known to nobody, so others that
	// did the same are not verified.
	terms.SkipVerify = c.PeerTLS.Auto && c.PeerTLS.CertFile == "" && c.PeerTLS.KeyFile == ""
	if domain := c.Discovery.SRVDomain; domain != "" && c.PeerTLS.TrustedCAFile == "" {
		terms.ServerName = domain // members that DNS names show certificates of its domain, as etcd has it
	}
	m.peers, err = m.newSide("peer", files, own, terms)
	return err
}

func (m *running) terms(c config.Certificates) listen.Terms {
	return listen.Terms{
		ClientCertAuth: c.ClientCertAuth, AllowedCNs: c.AllowedCNs, AllowedHostnames: c.AllowedHostnames,
		CipherSuites: m.config.TLS.CipherSuites, MinVersion: m.config.TLS.MinVersion, MaxVersion: m.config.TLS.MaxVersion,
	}
}

func files(c config.Certificates) listen.Files {
	return listen.Files{
		Cert: c.CertFile, Key: c.KeyFile, ClientCert: c.ClientCertFile, ClientKey: c.ClientKeyFile,
		TrustedCA: c.TrustedCAFile, CRL: c.CRLFile,
	}
}

func secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// certificates are the files of one side, and whether certificate and key are
// this member's own work. That names the hosts of the URLs; there is none if none
// of its users asks for TLS.
//
// With one of its own etcd forgets whom it was to let in. kvd goes on asking
// clients for certificates: who wants both gets both.
func (m *running) certificates(side string, c config.Certificates, named, users []url.URL) (f listen.Files, own bool, err error) {
	f = files(c)
	if !c.Auto {
		return f, false, nil
	}
	if c.CertFile != "" || c.KeyFile != "" {
		m.log.Warn("ignoring " + side + " auto TLS since certs given")
		return f, false, nil
	}
	if !slices.ContainsFunc(users, secure) {
		return f, false, nil
	}
	made, err := listen.SelfSign(filepath.Join(m.config.Member.DataDir, "fixtures", side), named, m.config.TLS.SelfSignedValidity)
	if err != nil {
		return f, false, fmt.Errorf("%s auto TLS: %w", side, bootstrap.Explain(err))
	}
	log := m.log.With("cert-file", made.CertFile, "not-after", made.NotAfter)
	switch {
	case made.Made:
		log.Warn("made a certificate for the " + side + " URLs; nobody has reason to trust it yet")
	case made.NotAfter.Before(time.Now()):
		log.Warn("the certificate for the " + side + " URLs has expired; remove it and its key to have a new one made")
	default:
		log.Info("using the certificate made before for the " + side + " URLs")
	}
	f.Cert, f.Key = made.CertFile, made.KeyFile
	return f, true, nil
}
