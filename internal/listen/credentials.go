package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// ErrNoCertificate means that a URL asks for TLS and no certificate is given.
var ErrNoCertificate = errors.New("the scheme asks for TLS, but certificate and key are not both given")

// Files are what one side of this member proves itself with and judges others
// by. An empty name is none.
type Files struct {
	Cert, Key             string // shown to who connects, and to whom this member connects
	ClientCert, ClientKey string // shown instead to whom this member connects
	TrustedCA             string // who connects must show a certificate signed by it, and so must whom this member connects to
	CRL                   string // certificates that are refused
}

// Terms are what certificates do not say. They do not change while a member
// runs. The zero value asks nobody for a certificate.
type Terms struct {
	ClientCertAuth   bool // who connects must show a certificate; without a trusted CA, one that the system's roots have signed
	AllowedCNs       []string
	AllowedHostnames []string
	CipherSuites     []uint16 // empty: Go's choice
	MinVersion       uint16   // 0: TLS 1.2
	MaxVersion       uint16   // 0: Go's choice
	ServerName       string   // that those must have whom this member connects to; the host that is dialled
	SkipVerify       bool     // connect to anybody: as members do whose certificates they made themselves
}

// Credentials are the certificates, keys, trusted authorities and revocations
// of one side. All of them are read together and replaced together, for new
// connections; those that are open go on. The methods are for any goroutine.
type Credentials struct {
	terms Terms
	now   atomic.Pointer[set] // in service; never nil

	mu    sync.Mutex // of who replaces them
	files Files      // that are to be in service
	tried string     // the stamp of the files that were read last
	fault atomic.Pointer[error]
}

// set is what one reading of the files has given.
type set struct {
	server   [HTTP + 1]*tls.Config // by protocol; all nil without a certificate
	client   *tls.Config
	revoked  revocations
	expiries []Expiry
}

// NewCredentials reads the files. What is missing, broken or does not fit
// together is found now.
func NewCredentials(files Files, terms Terms) (*Credentials, error) {
	c := &Credentials{terms: terms}
	return c, c.Replace(files)
}

// Replace puts what the files hold now in the place of what is in service: all
// of it, or nothing if there is a fault.
func (c *Credentials) Replace(files Files) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replaceLocked(files)
}

func (c *Credentials) replaceLocked(files Files) error {
	c.files = files
	c.tried = stamp(files) // before they are read: what changes meanwhile is seen later
	fresh, err := c.read(files)
	if was := c.now.Load(); err == nil && was != nil && was.server[Both] != nil && fresh.server[Both] == nil {
		err = ErrNoCertificate // the ports stay those that they are
	}
	if err != nil {
		c.fault.Store(&err)
		return err
	}
	c.now.Store(fresh)
	c.fault.Store(nil)
	return nil
}

// Files are those that are to be in service, and are followed.
func (c *Credentials) Files() Files {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files
}

// Fault is why the files are not in service that are on disk; nil if they are.
func (c *Credentials) Fault() error {
	if err := c.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// Client is the configuration of connections to others. It offers no protocol:
// an etcd that is offered HTTP/2 on its peer port takes it and speaks HTTP/1.
// It is not to be changed, and becomes another one when files are replaced.
func (c *Credentials) Client() *tls.Config { return c.now.Load().client }

// serves says whether there is a certificate to serve with.
func (c *Credentials) serves() bool { return c != nil && c.now.Load().server[Both] != nil }

// read makes a set of the files.
func (c *Credentials) read(files Files) (*set, error) {
	s := &set{}
	own, err := readPair(files.Cert, files.Key)
	if err != nil {
		return nil, err
	}
	shown, err := readPair(files.ClientCert, files.ClientKey)
	if err != nil {
		return nil, err
	}
	s.expires("certificate", files.Cert, own)
	s.expires("client certificate", files.ClientCert, shown)
	if shown == nil {
		shown = own
	}
	var pool *x509.CertPool
	if files.TrustedCA != "" {
		if pool, err = s.readPool(files.TrustedCA); err != nil {
			return nil, err
		}
	}
	if files.CRL != "" {
		if s.revoked, err = s.readRevocations(files.CRL); err != nil {
			return nil, err
		}
	}
	s.client = c.clientConfig(s, shown, pool)
	if own != nil {
		for protocol := range s.server {
			s.server[protocol] = c.serverConfig(s, own, pool, Protocol(protocol))
		}
	}
	return s, nil
}

// base is what both ends have in common.
func (c *Credentials) base() *tls.Config {
	return &tls.Config{
		MinVersion:   max(c.terms.MinVersion, tls.VersionTLS12),
		MaxVersion:   c.terms.MaxVersion,
		CipherSuites: c.terms.CipherSuites,
	}
}

// serverConfig makes a configuration with session tickets of its own, so that a
// session that was begun with other files is not resumed.
func (c *Credentials) serverConfig(s *set, own *tls.Certificate, pool *x509.CertPool, protocol Protocol) *tls.Config {
	config := c.base()
	config.Certificates = []tls.Certificate{*own}
	switch protocol {
	case Both:
		// The server's order decides. gRPC clients offer h2 alone; one that
		// offers both, as curl does, speaks plain HTTP and gets HTTP/1.
		config.NextProtos = []string{"http/1.1", "h2"}
	case GRPC:
		config.NextProtos = []string{"h2"}
	case HTTP:
		config.NextProtos = []string{"http/1.1"}
	}
	if pool != nil || c.terms.ClientCertAuth {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool
	}
	config.VerifyConnection = func(state tls.ConnectionState) error { return c.judge(s, state) }
	return config
}

func (c *Credentials) clientConfig(s *set, shown *tls.Certificate, pool *x509.CertPool) *tls.Config {
	config := c.base()
	config.ServerName, config.InsecureSkipVerify = c.terms.ServerName, c.terms.SkipVerify
	config.RootCAs = pool
	if shown != nil { // whatever authorities the server names: as in etcd, it is the server's to refuse
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	if !c.terms.SkipVerify {
		config.VerifyConnection = func(state tls.ConnectionState) error { return c.judge(s, state) }
	}
	return config
}

// judge looks at the other end's certificates, after they were verified. It
// looks at those of a session that is resumed, too.
func (c *Credentials) judge(s *set, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	if err := s.revoked.check(state.PeerCertificates); err != nil {
		return err
	}
	if len(c.terms.AllowedCNs) == 0 && len(c.terms.AllowedHostnames) == 0 {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		if len(chain) > 0 && c.allowed(chain[0]) {
			return nil
		}
	}
	return errors.New("client certificate authentication failed")
}

// allowed says whether a certificate has one of the common names or host names.
func (c *Credentials) allowed(cert *x509.Certificate) bool {
	for _, name := range c.terms.AllowedCNs {
		if cert.Subject.CommonName == name {
			return true
		}
	}
	for _, host := range c.terms.AllowedHostnames {
		if cert.VerifyHostname(host) == nil {
			return true
		}
	}
	return false
}

// readPair reads a certificate and its key; nil if none is named.
func readPair(certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s, key %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}

// readPool reads the certificates of those who are trusted.
func (s *set) readPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("trusted CA: %w", err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("trusted CA %s: %w", file, err)
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	s.trusts(file, certs)
	return pool, nil
}
