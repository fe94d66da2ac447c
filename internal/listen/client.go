package listen

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// ClientOptions say how this side shows itself to servers, and which of them it
// trusts. The zero value shows nothing and trusts what the system's roots have
// signed.
type ClientOptions struct {
	CertFile         string // shown to servers that ask; read anew each time, so that it can be renewed
	KeyFile          string // the same
	TrustedCAFile    string // servers must show a certificate signed by it
	ServerName       string // that their certificate must have; the host that is dialled
	SkipVerify       bool   // trust anybody: as members do whose certificates they made themselves
	AllowedCNs       []string
	AllowedHostnames []string
	CipherSuites     []uint16 // empty: Go's choice
	MinVersion       uint16   // 0: TLS 1.2
	MaxVersion       uint16   // 0: Go's choice
}

// ClientTLS makes the configuration of a client. Files that are missing or broken
// are found now. It offers no protocol: an etcd that is offered HTTP/2 on its peer
// port takes it and speaks HTTP/1.
func ClientTLS(o ClientOptions) (*tls.Config, error) {
	config := &tls.Config{
		ServerName:         o.ServerName,
		InsecureSkipVerify: o.SkipVerify, //nolint:gosec // asked for
		MinVersion:         max(o.MinVersion, tls.VersionTLS12),
		MaxVersion:         o.MaxVersion,
		CipherSuites:       o.CipherSuites,
	}
	if o.CertFile != "" || o.KeyFile != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("certificate %s, key %s: %w", o.CertFile, o.KeyFile, err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	if o.TrustedCAFile != "" {
		pool, err := readPool(o.TrustedCAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if !o.SkipVerify && (len(o.AllowedCNs) > 0 || len(o.AllowedHostnames) > 0) {
		config.VerifyPeerCertificate = allowed(o.AllowedCNs, o.AllowedHostnames)
	}
	return config, nil
}

// readPool reads the certificates of those who are trusted.
func readPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("trusted CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("trusted CA %s: no certificate in it", file)
	}
	return pool, nil
}
