package listen

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
)

// checkRemote wants the certificate to name the address that it comes from:
// by IP, or by a DNS name that resolves to it. A certificate without either
// is accepted, as etcd does.
func checkRemote(ctx context.Context, cert *x509.Certificate, remote net.Addr) error {
	if len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		return err
	}
	if len(cert.IPAddresses) > 0 && cert.VerifyHostname(host) == nil {
		return nil
	}
	if namesHost(ctx, cert.DNSNames, host) {
		return nil
	}
	return fmt.Errorf("tls: %q does not match any of DNSNames %q, IP addresses %v", host, cert.DNSNames, cert.IPAddresses)
}

// namesHost says whether one of the DNS names stands for the host: wildcards
// by the host's own name, others also by their address.
func namesHost(ctx context.Context, names []string, host string) bool {
	if len(names) == 0 {
		return false
	}
	own, _ := net.DefaultResolver.LookupAddr(ctx, host) // no name is an answer
	for _, name := range own {
		name = strings.TrimSuffix(name, ".")
		for _, wanted := range names {
			suffix, wild := strings.CutPrefix(wanted, "*")
			if wanted == name || wild && strings.HasPrefix(suffix, ".") && strings.HasSuffix(name, suffix) {
				return true
			}
		}
	}
	for _, wanted := range names {
		if strings.HasPrefix(wanted, "*.") {
			continue
		}
		addrs, _ := net.DefaultResolver.LookupHost(ctx, wanted) // no address is an answer
		if slices.Contains(addrs, host) {
			return true
		}
	}
	return false
}
