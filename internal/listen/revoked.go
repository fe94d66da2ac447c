package listen

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// revocations are the certificates that are refused. As in etcd, neither issuer
// nor signature of the list is looked at: whoever writes the file decides.
type revocations struct {
	file    string
	serials map[string]bool // bytes of the number
}

// readRevocations reads one list in DER, or lists in PEM.
func (s *set) readRevocations(file string) (revocations, error) {
	r := revocations{file: file, serials: map[string]bool{}}
	text, err := os.ReadFile(file)
	if err != nil {
		return r, fmt.Errorf("list of revoked certificates: %w", err)
	}
	lists, err := parseRevocations(text)
	if err != nil {
		return r, fmt.Errorf("list of revoked certificates %s: %w", file, err)
	}
	expiry := Expiry{What: "CRL", File: file}
	for _, list := range lists {
		for i := range list.RevokedCertificateEntries {
			r.serials[string(list.RevokedCertificateEntries[i].SerialNumber.Bytes())] = true
		}
		if next := list.NextUpdate; !next.IsZero() && (expiry.At.IsZero() || next.Before(expiry.At)) {
			expiry.At = next
		}
	}
	if !expiry.At.IsZero() {
		s.expiries = append(s.expiries, expiry)
	}
	return r, nil
}

func parseRevocations(text []byte) ([]*x509.RevocationList, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		list, err := x509.ParseRevocationList(text)
		return []*x509.RevocationList{list}, err
	}
	var lists []*x509.RevocationList
	for ; block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", len(lists)+1, err)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

// check refuses certificates that are on the list.
func (r revocations) check(certs []*x509.Certificate) error {
	for _, cert := range certs {
		if r.serials[string(cert.SerialNumber.Bytes())] {
			return fmt.Errorf("the certificate with serial number %x is revoked by %s", cert.SerialNumber, r.file)
		}
	}
	return nil
}
