package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// SelfSigned is a certificate that signs itself: it encrypts, and proves
// nothing to who does not have it already.
type SelfSigned struct {
	CertFile string
	KeyFile  string
	Made     bool // now; else it was there
	NotAfter time.Time
}

// SelfSign returns the certificate in dir, or makes one for the hosts of the
// URLs, valid for so many years. One that is there stays as it is, whatever its
// hosts and even if it has expired: clients may have been given it.
func SelfSign(dir string, urls []url.URL, years uint) (SelfSigned, error) {
	s := SelfSigned{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return s, fmt.Errorf("certificate %s, key %s: %w; remove both to have new ones made", s.CertFile, s.KeyFile, err)
	default:
		s.NotAfter = pair.Leaf.NotAfter
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, fmt.Errorf("make a certificate: %w", err)
	}
	now := time.Now()
	s.Made, s.NotAfter = true, now.AddDate(0, 0, 365*int(years))
	cert, key, err := selfSign(urls, now, s.NotAfter)
	if err != nil {
		return s, fmt.Errorf("make a certificate: %w", err)
	}
	// The key first: a certificate without it would be asked for in vain.
	for _, f := range []struct {
		path  string
		block pem.Block
		mode  fs.FileMode
	}{
		{s.KeyFile, pem.Block{Type: "EC PRIVATE KEY", Bytes: key}, 0o600},
		{s.CertFile, pem.Block{Type: "CERTIFICATE", Bytes: cert}, 0o644},
	} {
		temp := f.path + ".tmp"
		if err := os.WriteFile(temp, pem.EncodeToMemory(&f.block), f.mode); err != nil {
			return s, fmt.Errorf("make a certificate: %w", err)
		}
		if err := os.Rename(temp, f.path); err != nil {
			return s, fmt.Errorf("make a certificate: %w", err)
		}
	}
	return s, nil
}

// selfSign makes a certificate and its key, both as DER.
func selfSign(urls []url.URL, from, to time.Time) (cert, key []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, err
	}
	form := x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"kvd"}},
		NotBefore:    from,
		NotAfter:     to,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCRLSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:         true, BasicConstraintsValid: true,
	}
	for _, u := range urls {
		host := u.Hostname()
		switch ip := net.ParseIP(host); {
		case ip != nil && !slices.ContainsFunc(form.IPAddresses, ip.Equal):
			form.IPAddresses = append(form.IPAddresses, ip)
		case ip == nil && host != "" && !slices.Contains(form.DNSNames, host):
			form.DNSNames = append(form.DNSNames, host)
		}
	}
	secret, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = x509.CreateCertificate(rand.Reader, &form, &form, &secret.PublicKey, secret); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalECPrivateKey(secret)
	return cert, key, err
}
