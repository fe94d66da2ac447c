package listen

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Expiry is when a file that is in service stops being of use.
type Expiry struct {
	What string // "certificate", "client certificate", "trusted CA" or "CRL"
	File string
	At   time.Time
	Life time.Duration // from the beginning of its validity to At
}

// Expiries are those of the files in service. A certificate ends with the first
// of its chain, authorities with the last of them; a list of revoked
// certificates when the next one is due, after which it is used all the same.
func (c *Credentials) Expiries() []Expiry { return c.now.Load().expiries }

func (s *set) expires(what, file string, pair *tls.Certificate) {
	if pair == nil {
		return
	}
	first := pair.Leaf
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil && cert.NotAfter.Before(first.NotAfter) {
			first = cert
		}
	}
	s.ends(what, file, first)
}

func (s *set) trusts(file string, certs []*x509.Certificate) {
	last := certs[0]
	for _, cert := range certs {
		if cert.NotAfter.After(last.NotAfter) {
			last = cert
		}
	}
	s.ends("trusted CA", file, last)
}

func (s *set) ends(what, file string, cert *x509.Certificate) {
	s.expiries = append(s.expiries, Expiry{what, file, cert.NotAfter, cert.NotAfter.Sub(cert.NotBefore)})
}

// parseCertificates reads every certificate of a PEM text. As in etcd, what is
// no certificate is a fault.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}
