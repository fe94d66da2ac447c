package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// SRV is a domain whose records tell the members.
type SRV struct {
	Domain   string
	Suffix   string // of the service's name
	Insecure bool   // take also members that are said not to speak TLS
}

// service is one of the two kinds of records that are asked for.
type service struct {
	name   string
	secure bool
}

func (s SRV) services() []service {
	suffix := ""
	if s.Suffix != "" {
		suffix = "-" + s.Suffix
	}
	return []service{{"etcd-client-ssl" + suffix, true}, {"etcd-client" + suffix, false}}
}

// errNone is that there is nothing to pass connections on to.
var errNone = errors.New("no endpoints found")

// find makes targets of what the options or DNS say.
func (r *Relay) find(ctx context.Context) ([]*target, error) {
	if r.o.TrustedCAFile != "" {
		if _, err := r.roots(); err != nil {
			return nil, err
		}
	}
	if r.o.SRV.Domain != "" {
		return r.lookUp(ctx)
	}
	var all []*target
	var faults []error
	for _, text := range r.o.Endpoints {
		t, err := parseTarget(text)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if t.verify = r.o.TrustedCAFile != ""; t.verify && strings.HasPrefix(text, "http://") {
			faults = append(faults, fmt.Errorf("endpoint %q is insecure, but --trusted-ca-file demands a certificate; write https:// if its member has one", text))
		}
		if !slices.ContainsFunc(all, func(o *target) bool { return o.address() == t.address() }) {
			all = append(all, t)
		}
	}
	if len(faults) == 0 && len(all) == 0 {
		return nil, fmt.Errorf("%w; name members with --endpoints, or a domain with --discovery-srv", errNone)
	}
	return all, errors.Join(faults...)
}

// lookUp asks DNS. An answer that is not whole is an error: what was known before
// is better.
func (r *Relay) lookUp(ctx context.Context) ([]*target, error) {
	ctx, cancel := context.WithTimeout(ctx, maxLookUps)
	defer cancel()
	var all []*target
	var problems []error
	unknown, insecure := 0, 0
	for _, s := range r.o.SRV.services() {
		_, records, err := r.resolver.LookupSRV(ctx, s.name, "tcp", r.o.SRV.Domain)
		var trouble *net.DNSError
		if errors.As(err, &trouble) && trouble.IsNotFound {
			unknown++ // most domains have one of the two
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("dns lookup of _%s._tcp.%s: %w", s.name, r.o.SRV.Domain, err))
			continue
		}
		if !s.secure && !r.o.SRV.Insecure {
			insecure += len(records)
			continue
		}
		for _, record := range records {
			all = append(all, &target{
				host: strings.TrimSuffix(record.Target, "."), port: record.Port, priority: record.Priority, weight: record.Weight,
				named: r.o.SRV.Domain, verify: s.secure && (!r.o.SRV.Insecure || r.o.TrustedCAFile != ""),
			})
		}
	}
	switch {
	case len(problems) > unknown || len(problems) == len(r.o.SRV.services()):
		return nil, errors.Join(problems...)
	case len(all) == 0:
		return nil, fmt.Errorf("%w: the SRV records of %s name %d without TLS, which --insecure-discovery would accept, and none with", errNone, r.o.SRV.Domain, insecure)
	case insecure > 0:
		r.log.Warn("endpoints without TLS are left out", "discovery-srv", r.o.SRV.Domain, "endpoints", insecure)
	}
	return all, nil
}
