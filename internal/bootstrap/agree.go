package bootstrap

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	resolveLimit = 30 * time.Second // for all names together
	resolvePause = time.Second      // between two tries
)

// agree makes sure that the initial cluster knows this member by the URLs that
// it advertises. Other members compute its ID from the former, so a difference
// would make two members of one. Where the texts differ, the addresses count.
func (o *Options) agree(ctx context.Context, listed []string) error {
	if slices.Equal(sorted(listed), sorted(o.Advertised)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	problem := o.differ(ctx, o.Advertised, listed)
	if problem == nil {
		return nil
	}
	if missing := without(listed, o.Advertised); len(missing) > 0 {
		return fmt.Errorf("%w: --initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%w)",
			ErrCluster, pairs(Seed{o.Name, missing}), strings.Join(o.Advertised, ","), problem)
	}
	if missing := without(o.Advertised, listed); len(missing) > 0 {
		return fmt.Errorf("%w: --initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
			ErrCluster, strings.Join(missing, ","), pairs(Seed{o.Name, listed}))
	}
	return fmt.Errorf("%w: failed to resolve %s to match --initial-cluster=%s (%w)",
		ErrCluster, strings.Join(o.Advertised, ","), pairs(Seed{o.Name, listed}), problem)
}

// differ says in what two lists of URLs differ after their names are resolved.
func (o *Options) differ(ctx context.Context, advertised, listed []string) error {
	if len(advertised) != len(listed) {
		return fmt.Errorf("len(%q) != len(%q)", advertised, listed)
	}
	var resolved [2][]string
	for i, all := range [][]string{advertised, listed} {
		for _, text := range all {
			r, err := o.resolveURL(ctx, text)
			if err != nil {
				return fmt.Errorf("failed to resolve %q (%w)", text, err)
			}
			resolved[i] = append(resolved[i], r)
		}
		slices.Sort(resolved[i])
	}
	for i, r := range resolved[0] {
		if r != resolved[1][i] {
			return fmt.Errorf("resolved urls: %q != %q", r, resolved[1][i])
		}
	}
	return nil
}

// resolveURL puts an address in place of the host's name. localhost stays, as
// do the paths of sockets.
func (o *Options) resolveURL(ctx context.Context, text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme == "unix" || u.Scheme == "unixs" || u.Hostname() == "localhost" {
		return text, nil
	}
	address, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		if address, err = o.lookUp(ctx, u.Hostname()); err != nil {
			return "", err
		}
		o.Logger.Info("resolved URL Host", "url", text, "host", u.Host, "resolved-addr", address.String())
	}
	u.Host = net.JoinHostPort(address.Unmap().String(), u.Port()) // two spellings of an address are one
	return u.String(), nil
}

// Resolver finds hosts and services; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// lookUp insists: at boot the name service may come up after this process.
// Where a host has several addresses, the first counts.
func (o *Options) lookUp(ctx context.Context, host string) (netip.Addr, error) {
	o.Progress("resolving " + host)
	for {
		all, err := o.Resolver.LookupNetIP(ctx, "ip", host)
		if err == nil && len(all) > 0 {
			return all[0].Unmap(), nil
		}
		if err == nil {
			err = fmt.Errorf("lookup %s: it has no address", host)
		}
		o.Logger.Warn("failed to resolve URL Host", "host", host, "retry-interval", resolvePause, "error", err)
		select {
		case <-ctx.Done():
			return netip.Addr{}, err
		case <-time.After(resolvePause):
		}
	}
}

// without returns those of all that are not among others, sorted.
func without(all, others []string) []string {
	return slices.DeleteFunc(sorted(all), func(s string) bool { return slices.Contains(others, s) })
}

func sorted(all []string) []string { return slices.Sorted(slices.Values(all)) }
