package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) leaseCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "lease <subcommand>",
		Short:   "Grants, renews, shows and revokes leases",
		GroupID: groupKV,
	}
	var keys, once bool
	ttl := &cobra.Command{
		Use:   "timetolive <leaseID> [options]",
		Short: "Shows how long a lease still has",
		Run:   p.does(func(cmd *cobra.Command, args []string) error { return p.leaseTimeToLive(cmd, args, keys) }),
	}
	ttl.Flags().BoolVar(&keys, "keys", false, "also show the keys that go with the lease")
	keepAlive := &cobra.Command{
		Use:   "keep-alive [options] <leaseID>",
		Short: "Renews a lease for as long as it runs",
		Run:   p.does(func(cmd *cobra.Command, args []string) error { return p.leaseKeepAlive(cmd, args, once) }),
	}
	keepAlive.Flags().BoolVar(&once, "once", false, "renew the lease once and exit")
	group.AddCommand(
		&cobra.Command{Use: "grant <ttl>", Short: "Creates a lease of so many seconds", Run: p.does(p.leaseGrant)},
		&cobra.Command{Use: "revoke <leaseID>", Short: "Ends a lease and deletes its keys", Run: p.does(p.leaseRevoke)},
		&cobra.Command{Use: "list", Short: "Lists the leases that are alive", Run: p.does(p.leaseList)},
		ttl, keepAlive,
	)
	return group
}

func parseLease(arg string) (clientv3.LeaseID, error) {
	id, err := strconv.ParseInt(arg, 16, 64)
	if err != nil {
		return 0, failf(exitBadArgs, "bad lease ID arg (%w), expecting ID in Hex", err)
	}
	return clientv3.LeaseID(id), nil
}

func (p *program) leaseGrant(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "lease grant command needs TTL argument")
	}
	ttl, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return failf(exitBadArgs, "bad TTL (%w)", err)
	}
	s, c, err := p.open(cmd, grantAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Grant(ctx, ttl)
	if err != nil {
		return s.refused(exitError, fmt.Errorf("failed to grant lease (%w)", err))
	}
	return p.print(grantAnswer{resp})
}

func (p *program) leaseRevoke(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "lease revoke command needs 1 argument")
	}
	id, err := parseLease(args[0])
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, revokeAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Revoke(ctx, id)
	if err != nil {
		return s.refused(exitError, fmt.Errorf("failed to revoke lease (%w)", err))
	}
	return p.print(revokeAnswer{(*pb.LeaseRevokeResponse)(resp), id})
}

func (p *program) leaseTimeToLive(cmd *cobra.Command, args []string, keys bool) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "lease timetolive command needs lease ID as argument")
	}
	id, err := parseLease(args[0])
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, timeToLiveAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	var opts []clientv3.LeaseOption
	if keys {
		opts = append(opts, clientv3.WithAttachedKeys())
	}
	resp, err := c.TimeToLive(ctx, id, opts...)
	if err != nil {
		return s.refused(exitBadConnection, err)
	}
	return p.print(timeToLiveAnswer{resp, keys})
}

func (p *program) leaseList(cmd *cobra.Command, _ []string) error {
	s, c, err := p.open(cmd, leasesAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Leases(ctx)
	if err != nil {
		return s.refused(exitBadConnection, err)
	}
	return p.print(leasesAnswer{resp})
}

func (p *program) leaseKeepAlive(cmd *cobra.Command, args []string, once bool) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "lease keep-alive command needs lease ID as argument")
	}
	id, err := parseLease(args[0])
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, keepAliveAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	if once {
		ctx, cancel := s.context()
		defer cancel()
		resp, err := c.KeepAliveOnce(ctx, id)
		if err != nil {
			return s.refused(exitBadConnection, err)
		}
		return p.print(keepAliveAnswer{resp})
	}
	renewals, err := c.KeepAlive(context.Background(), id)
	if err != nil {
		return s.refused(exitBadConnection, err)
	}
	for resp := range renewals {
		if err := p.print(keepAliveAnswer{resp}); err != nil {
			return err
		}
	}
	if p.globals.format == "simple" {
		return p.say("lease %016x expired or revoked.", id)
	}
	return nil
}

type grantAnswer struct{ *clientv3.LeaseGrantResponse }

func (a grantAnswer) simple(g *page) {
	g.linef("lease %016x granted with TTL(%ds)", a.ID, a.TTL)
}

func (a grantAnswer) fields(g *page) {
	g.header(a.ResponseHeader)
	g.lease("ID", int64(a.ID))
	g.line(`"TTL" :`, a.TTL)
}

func (a grantAnswer) json(bool) any { return a.LeaseGrantResponse }

func (a grantAnswer) message() proto.Message {
	return &pb.LeaseGrantResponse{Header: a.ResponseHeader, ID: int64(a.ID), TTL: a.TTL, Error: a.Error}
}

type revokeAnswer struct {
	*pb.LeaseRevokeResponse
	id clientv3.LeaseID
}

func (a revokeAnswer) simple(g *page)         { g.linef("lease %016x revoked", a.id) }
func (a revokeAnswer) fields(g *page)         { g.header(a.GetHeader()) }
func (a revokeAnswer) json(bool) any          { return a.LeaseRevokeResponse }
func (a revokeAnswer) message() proto.Message { return a.LeaseRevokeResponse }

type keepAliveAnswer struct {
	*clientv3.LeaseKeepAliveResponse
}

func (a keepAliveAnswer) simple(g *page) {
	g.linef("lease %016x keepalived with TTL(%d)", a.ID, a.TTL)
}

func (a keepAliveAnswer) fields(g *page) {
	g.header(a.ResponseHeader)
	g.lease("ID", int64(a.ID))
	g.line(`"TTL" :`, a.TTL)
}

func (a keepAliveAnswer) json(bool) any { return a.LeaseKeepAliveResponse }

func (a keepAliveAnswer) message() proto.Message {
	return &pb.LeaseKeepAliveResponse{Header: a.ResponseHeader, ID: int64(a.ID), TTL: a.TTL}
}

type timeToLiveAnswer struct {
	*clientv3.LeaseTimeToLiveResponse
	keys bool
}

func (a timeToLiveAnswer) simple(g *page) {
	switch {
	case a.GrantedTTL == 0 && a.TTL == -1:
		g.linef("lease %016x already expired", a.ID)
	case a.keys:
		g.linef("lease %016x granted with TTL(%ds), remaining(%ds), attached keys(%s)", a.ID, a.GrantedTTL, a.TTL, a.Keys)
	default:
		g.linef("lease %016x granted with TTL(%ds), remaining(%ds)", a.ID, a.GrantedTTL, a.TTL)
	}
}

func (a timeToLiveAnswer) fields(g *page) {
	g.header(a.ResponseHeader)
	g.lease("ID", int64(a.ID))
	g.line(`"TTL" :`, a.TTL)
	g.line(`"GrantedTTL" :`, a.GrantedTTL)
	for _, key := range a.Keys {
		g.linef(`"Key" : %q`, key)
	}
}

func (a timeToLiveAnswer) json(bool) any { return a.LeaseTimeToLiveResponse }

func (a timeToLiveAnswer) message() proto.Message {
	return &pb.LeaseTimeToLiveResponse{
		Header: a.ResponseHeader, ID: int64(a.ID), TTL: a.TTL, GrantedTTL: a.GrantedTTL, Keys: a.Keys,
	}
}

type leasesAnswer struct{ *clientv3.LeaseLeasesResponse }

func (a leasesAnswer) simple(g *page) {
	g.linef("found %d leases", len(a.Leases))
	for _, l := range a.Leases {
		g.linef("%016x", l.ID)
	}
}

func (a leasesAnswer) fields(g *page) {
	g.header(a.ResponseHeader)
	for _, l := range a.Leases {
		g.lease("ID", int64(l.ID))
	}
}

func (a leasesAnswer) json(bool) any { return a.LeaseLeasesResponse }

func (a leasesAnswer) message() proto.Message {
	m := &pb.LeaseLeasesResponse{Header: a.ResponseHeader}
	for _, l := range a.Leases {
		m.Leases = append(m.Leases, &pb.LeaseStatus{ID: int64(l.ID)})
	}
	return m
}
