package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SRV is a domain whose records tell the members of a new cluster, or of one to
// join. No Domain: there is none.
type SRV struct {
	Domain string
	Suffix string // of the service's name
}

// service is one of the two kinds of records that are asked for.
type service struct{ name, scheme string }

func (s SRV) services() []service {
	suffix := ""
	if s.Suffix != "" {
		suffix = "-" + s.Suffix
	}
	return []service{{"etcd-server-ssl" + suffix, "https"}, {"etcd-server" + suffix, "http"}}
}

// lookUpSeeds makes seeds of the domain's records. A record that leads to where
// this member is takes its name; the others are numbered, as their names are
// told only once they run.
func (o *Options) lookUpSeeds(ctx context.Context) ([]Seed, error) {
	var seeds []Seed
	var problems []error
	for _, s := range o.SRV.services() {
		limited, cancel := context.WithTimeout(ctx, resolveLimit)
		found, err := o.lookUpService(limited, s, len(seeds))
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		o.Logger.Info("get cluster for "+s.name+" SRV", "service-scheme", s.scheme, "service-name", s.name, "server-name", o.Name,
			"discovery-srv", o.SRV.Domain, "advertise-peer-urls", o.Advertised, "found-cluster", pairs(found...), "error", err)
		var gone *unresolvedError
		if errors.As(err, &gone) {
			return nil, err
		}
		if err != nil {
			problems = append(problems, err)
		}
		seeds = append(seeds, found...)
	}
	problem := errors.Join(problems...)
	if len(seeds) == 0 {
		return nil, problem
	}
	if problem != nil {
		o.Logger.Warn("failed to resolve during SRV discovery", "error", problem)
	}
	seeds = merge(seeds)
	for _, s := range seeds {
		o.Logger.Info("got bootstrap from DNS for etcd-server", "node", pairs(s))
	}
	if !slices.ContainsFunc(seeds, func(s Seed) bool { return s.Name == o.Name }) {
		return nil, fmt.Errorf("cannot find local etcd member %q in SRV records: none of %s leads to %s",
			o.Name, pairs(seeds...), strings.Join(o.Advertised, ","))
	}
	return seeds, nil
}

// unresolvedError says that a record names a host that has no address. Leaving
// it out, as etcd does, would make members that ask at different times founders
// of different clusters.
type unresolvedError struct {
	service, host string
	err           error
}

func (e *unresolvedError) Error() string {
	return fmt.Sprintf("an SRV record of %s names %s, which has no address yet (%v); add the address, or remove the record", e.service, e.host, e.err)
}

func (e *unresolvedError) Unwrap() error { return e.err }

// lookUpService makes seeds of the records of one service; the first number that
// is free for a name is given.
func (o *Options) lookUpService(ctx context.Context, s service, number int) ([]Seed, error) {
	failed := func(err error) error { return fmt.Errorf("error querying DNS SRV records for _%s %w", s.name, err) }
	own, err := o.ownAddresses(ctx)
	if err != nil {
		return nil, failed(err)
	}
	records, err := o.lookUpRecords(ctx, s)
	if err != nil && len(records) == 0 {
		return nil, failed(err)
	}
	var seeds []Seed
	for _, r := range records {
		host, port := strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))
		at, lookErr := o.addressOf(ctx, host, port)
		if lookErr != nil {
			return nil, &unresolvedError{"_" + s.name + "._tcp." + o.SRV.Domain, host, lookErr}
		}
		place := s.scheme + "://" + net.JoinHostPort(host, port)
		u, mine := own[at]
		switch {
		case mine && u.Scheme != s.scheme:
			err = fmt.Errorf("bootstrap at %s from DNS for %s has scheme mismatch with expected peer %s", place, s.name, &u)
		case mine:
			seeds = append(seeds, Seed{o.Name, []string{place}})
		default:
			seeds = append(seeds, Seed{strconv.Itoa(number), []string{place}})
			number++
		}
	}
	if len(seeds) == 0 && err != nil {
		return nil, failed(err)
	}
	return seeds, nil
}

// ownAddresses are where this member's URLs lead to.
func (o *Options) ownAddresses(ctx context.Context) (map[netip.AddrPort]url.URL, error) {
	own := map[netip.AddrPort]url.URL{}
	for _, text := range o.Advertised {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "unix" || u.Scheme == "unixs" {
			continue // no record leads there
		}
		at, err := o.addressOf(ctx, u.Hostname(), u.Port())
		if err != nil {
			return nil, err
		}
		own[at] = *u
	}
	return own, nil
}

func (o *Options) addressOf(ctx context.Context, host, port string) (netip.AddrPort, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %s: %w", host, err)
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		if address, err = o.lookUp(ctx, host); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(n)), nil
}

// lookUpRecords insists while the name service itself has trouble. That there
// are no records is an answer: most domains have one of the two services.
func (o *Options) lookUpRecords(ctx context.Context, s service) ([]*net.SRV, error) {
	o.Progress("asking DNS for _" + s.name + "._tcp." + o.SRV.Domain)
	for {
		_, records, err := o.Resolver.LookupSRV(ctx, s.name, "tcp", o.SRV.Domain)
		var trouble *net.DNSError
		if err == nil || len(records) > 0 || !errors.As(err, &trouble) || trouble.IsNotFound {
			return records, err
		}
		o.Logger.Warn("failed to look up SRV records", "service-name", s.name, "discovery-srv", o.SRV.Domain, "retry-interval", resolvePause, "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(resolvePause):
		}
	}
}

// merge makes one seed of those with one name, by name.
func merge(seeds []Seed) []Seed {
	var all []Seed
	for _, s := range seeds {
		at := slices.IndexFunc(all, func(o Seed) bool { return o.Name == s.Name })
		if at < 0 {
			all = append(all, Seed{s.Name, slices.Clone(s.PeerURLs)})
			continue
		}
		all[at].PeerURLs = sorted(append(all[at].PeerURLs, s.PeerURLs...))
	}
	slices.SortFunc(all, func(a, b Seed) int { return strings.Compare(a.Name, b.Name) })
	return all
}
