package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

var errEmptyPassword = errors.New("empty password")

// userAddOptions are the flags of "user add".
type userAddOptions struct {
	interactive bool
	password    string
	none        bool // no password at all: the user comes with a certificate
}

func (p *program) userCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "user <subcommand>",
		Short: "Shows and changes users and their roles",
		Long: `Shows and changes users, their passwords and their roles.

$ kvctl user add alice
$ kvctl user grant-role alice app`,
		GroupID: groupAuth,
	}
	var o userAddOptions
	add := &cobra.Command{
		Use:   "add <user name or user:password> [options]",
		Short: "Makes a user",
		Long: `Makes a user. The password comes from the command line (where other users of this
computer may see it), or is asked for twice; with --interactive=false it is the
first word of standard input. A user without one (--no-password) can only come
with a client certificate of that common name.
`,
		Run: p.does(func(cmd *cobra.Command, args []string) error { return p.userAdd(cmd, args, &o) }),
	}
	add.Flags().BoolVar(&o.interactive, "interactive", true, "ask for the password; false: read it from standard input")
	add.Flags().StringVar(&o.password, "new-user-password", "", "the password")
	add.Flags().BoolVar(&o.none, "no-password", false, "make a user who cannot come with a password, only with a certificate")

	var interactive bool
	passwd := &cobra.Command{
		Use:   "passwd <user name> [options]",
		Short: "Changes a user's password",
		Run:   p.does(func(cmd *cobra.Command, args []string) error { return p.userPassword(cmd, args, interactive) }),
	}
	passwd.Flags().BoolVar(&interactive, "interactive", true, "ask for the password; false: read it from standard input")

	var detail bool
	get := &cobra.Command{
		Use:   "get <user name> [options]",
		Short: "Shows a user's roles",
		Run:   p.does(func(cmd *cobra.Command, args []string) error { return p.userGet(cmd, args, detail) }),
	}
	get.Flags().BoolVar(&detail, "detail", false, "also show what the roles permit")
	group.AddCommand(add, passwd, get,
		&cobra.Command{Use: "delete <user name>", Short: "Deletes a user", Run: p.does(p.userDelete)},
		&cobra.Command{Use: "list", Short: "Lists all users", Run: p.does(p.userList)},
		&cobra.Command{Use: "grant-role <user name> <role name>", Short: "Gives a user a role", Run: p.does(p.userGrant)},
		&cobra.Command{Use: "revoke-role <user name> <role name>", Short: "Takes a role from a user", Run: p.does(p.userRevoke)},
	)
	return group
}

// userName is the one argument of a command.
func userName(command string, args []string) (string, error) {
	if len(args) != 1 {
		return "", failf(exitBadArgs, "user %s command requires user name as its argument", command)
	}
	return args[0], nil
}

func (p *program) userAdd(cmd *cobra.Command, args []string, o *userAddOptions) error {
	user, err := userName("add", args)
	if err != nil {
		return err
	}
	password := o.password
	if !o.none && password == "" {
		name, given, found := strings.Cut(user, ":")
		switch {
		case !found:
			password, err = p.newPassword(user, o.interactive)
		case name == "":
			err = errors.New("empty user name is not allowed")
		case given == "":
			err = errEmptyPassword
		default:
			user, password = name, given
		}
	}
	if err != nil {
		return fail(exitBadArgs, err)
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserAddWithOptions(ctx, user, password, &clientv3.UserAddOptions{NoPassword: o.none})
		m := (*pb.AuthUserAddResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("User %s created", user)}, err
	})
}

// newPassword asks for a password twice, or takes a word of standard input.
func (p *program) newPassword(user string, interactive bool) (password string, err error) {
	if !interactive {
		if _, err := fmt.Fscanf(p.in, "%s", &password); err != nil || password == "" {
			return "", fmt.Errorf("%w: standard input has none", errEmptyPassword)
		}
		return password, nil
	}
	password, err = askPassword(fmt.Sprintf("Password of %s: ", user), p.in, p.out)
	if err != nil {
		return "", fmt.Errorf("failed to ask password: %w", err)
	}
	if password == "" {
		return "", errEmptyPassword
	}
	again, err := askPassword(fmt.Sprintf("Type password of %s again for confirmation: ", user), p.in, p.out)
	if err != nil {
		return "", fmt.Errorf("failed to ask password: %w", err)
	}
	if password != again {
		return "", errors.New("given passwords are different")
	}
	return password, nil
}

func (p *program) userPassword(cmd *cobra.Command, args []string, interactive bool) error {
	user, err := userName("passwd", args)
	if err != nil {
		return err
	}
	password, err := p.newPassword(user, interactive)
	if err != nil {
		return fail(exitBadArgs, err)
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserChangePassword(ctx, user, password)
		m := (*pb.AuthUserChangePasswordResponse)(resp)
		return receipt{m, m.GetHeader(), "Password updated"}, err
	})
}

func (p *program) userDelete(cmd *cobra.Command, args []string) error {
	user, err := userName("delete", args)
	if err != nil {
		return err
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserDelete(ctx, user)
		m := (*pb.AuthUserDeleteResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("User %s deleted", user)}, err
	})
}

func (p *program) userList(cmd *cobra.Command, args []string) error {
	if len(args) != 0 {
		return failf(exitBadArgs, "user list command requires no arguments")
	}
	return one(p, cmd, usersAnswer{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserList(ctx)
		return usersAnswer{(*pb.AuthUserListResponse)(resp)}, err
	})
}

func (p *program) userGrant(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return failf(exitBadArgs, "user grant command requires user name and role name as its argument")
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserGrantRole(ctx, args[0], args[1])
		m := (*pb.AuthUserGrantRoleResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("Role %s is granted to user %s", args[1], args[0])}, err
	})
}

func (p *program) userRevoke(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return failf(exitBadArgs, "user revoke-role requires user name and role name as its argument")
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.UserRevokeRole(ctx, args[0], args[1])
		m := (*pb.AuthUserRevokeRoleResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("Role %s is revoked from user %s", args[1], args[0])}, err
	})
}

func (p *program) userGet(cmd *cobra.Command, args []string, detail bool) error {
	user, err := userName("get", args)
	if err != nil {
		return err
	}
	if !detail {
		return one(p, cmd, userAnswer{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
			resp, err := c.UserGet(ctx, user)
			return userAnswer{(*pb.AuthUserGetResponse)(resp), user}, err
		})
	}
	s, c, err := p.open(cmd, roleAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.UserGet(ctx, user)
	if err != nil {
		return s.refused(exitError, err)
	}
	if err := p.say("User: %s", user); err != nil {
		return err
	}
	for _, role := range resp.Roles {
		if err := p.say(""); err != nil {
			return err
		}
		resp, err := c.RoleGet(ctx, role)
		if err != nil {
			return s.refused(exitError, err)
		}
		if err := p.print(roleAnswer{(*pb.AuthRoleGetResponse)(resp), role}); err != nil {
			return err
		}
	}
	return nil
}

type userAnswer struct {
	*pb.AuthUserGetResponse
	name string
}

func (a userAnswer) simple(g *page) {
	g.line("User:", a.name)
	g.line(strings.Join(append([]string{"Roles:"}, a.GetRoles()...), " "))
}

func (a userAnswer) json(bool) any          { return a.AuthUserGetResponse }
func (a userAnswer) message() proto.Message { return a.AuthUserGetResponse }

type usersAnswer struct{ *pb.AuthUserListResponse }

func (a usersAnswer) simple(g *page) {
	for _, user := range a.GetUsers() {
		g.line(user)
	}
}

func (a usersAnswer) json(bool) any          { return a.AuthUserListResponse }
func (a usersAnswer) message() proto.Message { return a.AuthUserListResponse }
