package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// rootName is both the user and the role that may do everything.
const rootName = "root"

func (p *program) authCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "auth <subcommand>",
		Short: "Turns authentication on and off",
		Long: `Turns authentication on and off, and shows whether it is on.

While it is off, everybody who reaches the cluster may do everything. Before it
can be turned on there must be a user root:

$ kvctl user add root
$ kvctl auth enable
$ kvctl --user root auth status`,
		GroupID: groupAuth,
	}
	group.AddCommand(
		&cobra.Command{
			Use:   "enable",
			Short: "Turns authentication on",
			Long: `Turns authentication on. The role root is made and granted to the user root where
that has not been done; the user root itself must exist.
`,
			Run: p.does(p.authEnable),
		},
		&cobra.Command{Use: "disable", Short: "Turns authentication off", Run: p.does(p.authDisable)},
		&cobra.Command{Use: "status", Short: "Shows whether authentication is on", Run: p.does(p.authStatus)},
	)
	return group
}

func noArguments(what string, args []string) error {
	if len(args) != 0 {
		return failf(exitBadArgs, "%s command does not accept any arguments", what)
	}
	return nil
}

func (p *program) authEnable(cmd *cobra.Command, args []string) error {
	if err := noArguments("auth enable", args); err != nil {
		return err
	}
	s, c, err := p.open(cmd)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	_, err = c.AuthEnable(ctx)
	if errors.Is(err, rpctypes.ErrRootRoleNotExist) {
		if err = makeRoot(ctx, c); err == nil {
			_, err = c.AuthEnable(ctx)
		}
	}
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.say("Authentication Enabled")
}

// makeRoot gives the user root the role root, which it makes if need be.
func makeRoot(ctx context.Context, c *clientv3.Client) error {
	if _, err := c.RoleAdd(ctx, rootName); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	_, err := c.UserGrantRole(ctx, rootName, rootName)
	return err
}

func (p *program) authDisable(cmd *cobra.Command, args []string) error {
	if err := noArguments("auth disable", args); err != nil {
		return err
	}
	s, c, err := p.open(cmd)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	if _, err := c.AuthDisable(ctx); err != nil {
		return s.refused(exitError, err)
	}
	return p.say("Authentication Disabled")
}

func (p *program) authStatus(cmd *cobra.Command, args []string) error {
	if err := noArguments("auth status", args); err != nil {
		return err
	}
	return one(p, cmd, authStatusAnswer{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.AuthStatus(ctx)
		return authStatusAnswer{(*pb.AuthStatusResponse)(resp)}, err
	})
}

// one does what most commands do: one request, and its answer printed. kind is
// an answer of the kind that will come.
func one(p *program, cmd *cobra.Command, kind answer, ask func(context.Context, *clientv3.Client) (answer, error)) error {
	s, c, err := p.open(cmd, kind)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	a, err := ask(ctx, c)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(a)
}

type authStatusAnswer struct{ *pb.AuthStatusResponse }

func (a authStatusAnswer) simple(g *page) {
	g.line("Authentication Status:", a.GetEnabled())
	g.line("AuthRevision:", a.GetAuthRevision())
}

func (a authStatusAnswer) json(bool) any          { return a.AuthStatusResponse }
func (a authStatusAnswer) message() proto.Message { return a.AuthStatusResponse }

// receipt is the answer to a change of users or roles: there is nothing in it
// but a header, and the simple form says what was done.
type receipt struct {
	proto.Message
	head *pb.ResponseHeader
	done string
}

func (a receipt) simple(g *page)         { g.line(a.done) }
func (a receipt) fields(g *page)         { g.header(a.head) }
func (a receipt) json(bool) any          { return a.Message }
func (a receipt) message() proto.Message { return a.Message }
