package listen

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// checkRevoked refuses certificates whose serial number is on the list, which
// is read anew so that a revocation needs no signal. A list that cannot be read
// refuses all. As in etcd, neither issuer nor signature of the list is looked
// at: whoever writes the file decides.
func checkRevoked(path string, certs []*x509.Certificate) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the list of revoked certificates: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		text = block.Bytes
	}
	list, err := x509.ParseRevocationList(text)
	if err != nil {
		return fmt.Errorf("read the list of revoked certificates in %s: %w", path, err)
	}
	for _, cert := range certs {
		for i := range list.RevokedCertificateEntries {
			if list.RevokedCertificateEntries[i].SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return fmt.Errorf("the certificate with serial number %x is revoked by %s", cert.SerialNumber, path)
			}
		}
	}
	return nil
}
