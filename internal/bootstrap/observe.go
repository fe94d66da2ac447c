package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Observe returns the peer URLs of the cluster that meets at the discovery
// service, once it is whole. It registers nothing.
func (d Discovery) Observe(ctx context.Context, log *slog.Logger, progress func(string)) ([]string, error) {
	m := newMeeting(d.Token, 0, Seed{}, log.With("discovery-token", d.Token, "discovery-endpoints", strings.Join(d.Endpoints, ",")), progress)
	board, err := d.connect(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("look up the cluster in discovery: %w", err)
	}
	defer board.close()
	m.registry = board
	seeds, err := m.observe(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up the cluster in discovery: %w", err)
	}
	var urls []string
	for _, s := range seeds {
		urls = append(urls, s.PeerURLs...)
	}
	return urls, nil
}

// observe waits until enough have registered, and returns the founders.
func (m *meeting) observe(ctx context.Context) ([]Seed, error) {
	if !strings.HasPrefix(m.home, registryRoot+"/") {
		return nil, errBadToken
	}
	for {
		size, found, revision, err := m.look(ctx)
		if err != nil {
			return nil, err
		}
		if len(found) >= size {
			return seedsOf(found[:size])
		}
		m.progress(fmt.Sprintf("waiting for %d of %d members in discovery", size-len(found), size))
		if err := m.await(ctx, revision); err != nil {
			return nil, err
		}
	}
}

// PeerURLs are where the domain's records say that members listen for members.
// Nil: the system's resolver.
func (s SRV) PeerURLs(ctx context.Context, r Resolver) ([]string, error) {
	return s.urls(ctx, r, s.services())
}

// ClientURLs are where the domain's records say that members listen for clients.
// Nil: the system's resolver.
func (s SRV) ClientURLs(ctx context.Context, r Resolver) ([]string, error) {
	services := s.services()
	for i := range services {
		services[i].name = strings.Replace(services[i].name, "etcd-server", "etcd-client", 1)
	}
	return s.urls(ctx, r, services)
}

// urls are those of the services' records. It is an error if there are none.
func (s SRV) urls(ctx context.Context, r Resolver, services []service) ([]string, error) {
	if r == nil {
		r = net.DefaultResolver
	}
	var urls []string
	var problems []error
	for _, service := range services {
		_, records, err := r.LookupSRV(ctx, service.name, "tcp", s.Domain)
		if err != nil {
			problems = append(problems, err)
		}
		for _, record := range records {
			u := service.scheme + "://" + net.JoinHostPort(strings.TrimSuffix(record.Target, "."), strconv.Itoa(int(record.Port)))
			if !slices.Contains(urls, u) {
				urls = append(urls, u)
			}
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("no SRV record of %s tells a member: %w", s.Domain, errors.Join(problems...))
	}
	return urls, nil
}
