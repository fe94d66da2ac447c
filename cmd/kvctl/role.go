package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// openEnd as the end of a range means that it has none.
const openEnd = "\x00"

// spanOptions are the flags that make a range of one key, where permissions
// are granted and revoked.
type spanOptions struct{ prefix, fromKey bool }

func (o *spanOptions) bind(cmd *cobra.Command, what string) {
	fs := cmd.Flags()
	fs.BoolVar(&o.prefix, "prefix", false, what+" the keys that begin with <key>")
	fs.BoolVar(&o.fromKey, "from-key", false, what+" <key> and all keys after it, in byte order")
}

// span is the range that args, a key and perhaps an end, and the flags name.
func (o *spanOptions) span(args []string) (key, end string, err error) {
	key = args[0]
	switch {
	case o.prefix && o.fromKey:
		return "", "", failf(exitBadArgs, "--from-key and --prefix flags are mutually exclusive")
	case len(args) > 1 && o.prefix:
		return "", "", failf(exitBadArgs, "unexpected endkey argument with --prefix flag")
	case len(args) > 1 && o.fromKey:
		return "", "", failf(exitBadArgs, "unexpected endkey argument with --from-key flag")
	case len(args) > 1:
		end = args[1]
	case o.fromKey, o.prefix && key == "":
		end = openEnd
	case o.prefix:
		end = clientv3.GetPrefixRangeEnd(key)
	}
	if key == "" { // no key is empty: the first there can be
		key = "\x00"
	}
	return key, end, nil
}

func (p *program) roleCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "role <subcommand>",
		Short: "Shows and changes roles and what they permit",
		Long: `Shows and changes roles and what they permit. A role is a list of permissions: to
read, to write or both (readwrite), each of a key, a prefix or a range.

$ kvctl role add app
$ kvctl role grant-permission app readwrite app/ --prefix
$ kvctl user grant-role alice app`,
		GroupID: groupAuth,
	}
	var granted, revoked spanOptions
	grant := &cobra.Command{
		Use:   "grant-permission [options] <role name> <permission type> <key> [endkey]",
		Short: "Permits a role to read or write keys",
		Long: `Permits a role to read or write a key or a range of keys; <permission type> is
read, write or readwrite.
`,
		Run: p.does(func(cmd *cobra.Command, args []string) error { return p.roleGrant(cmd, args, &granted) }),
	}
	granted.bind(grant, "grant")
	revoke := &cobra.Command{
		Use:   "revoke-permission <role name> <key> [endkey]",
		Short: "Takes a permission of a role back",
		Long: `Takes a permission back, which must be named as it was granted ("kvctl role get"
shows it): a part of a range cannot be taken back.
`,
		Run: p.does(func(cmd *cobra.Command, args []string) error { return p.roleRevoke(cmd, args, &revoked) }),
	}
	revoked.bind(revoke, "revoke")
	group.AddCommand(
		&cobra.Command{Use: "add <role name>", Short: "Makes a role", Run: p.does(p.roleAdd)},
		&cobra.Command{Use: "delete <role name>", Short: "Deletes a role", Run: p.does(p.roleDelete)},
		&cobra.Command{Use: "get <role name>", Short: "Shows what a role permits", Run: p.does(p.roleGet)},
		&cobra.Command{Use: "list", Short: "Lists all roles", Run: p.does(p.roleList)},
		grant, revoke,
	)
	return group
}

// roleName is the one argument of a command.
func roleName(command string, args []string) (string, error) {
	if len(args) != 1 {
		return "", failf(exitBadArgs, "role %s command requires role name as its argument", command)
	}
	return args[0], nil
}

func (p *program) roleAdd(cmd *cobra.Command, args []string) error {
	name, err := roleName("add", args)
	if err != nil {
		return err
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleAdd(ctx, name)
		m := (*pb.AuthRoleAddResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("Role %s created", name)}, err
	})
}

func (p *program) roleDelete(cmd *cobra.Command, args []string) error {
	name, err := roleName("delete", args)
	if err != nil {
		return err
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleDelete(ctx, name)
		m := (*pb.AuthRoleDeleteResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("Role %s deleted", name)}, err
	})
}

func (p *program) roleGet(cmd *cobra.Command, args []string) error {
	name, err := roleName("get", args)
	if err != nil {
		return err
	}
	return one(p, cmd, roleAnswer{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleGet(ctx, name)
		return roleAnswer{(*pb.AuthRoleGetResponse)(resp), name}, err
	})
}

func (p *program) roleList(cmd *cobra.Command, args []string) error {
	if len(args) != 0 {
		return failf(exitBadArgs, "role list command requires no arguments")
	}
	return one(p, cmd, rolesAnswer{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleList(ctx)
		return rolesAnswer{(*pb.AuthRoleListResponse)(resp)}, err
	})
}

func (p *program) roleGrant(cmd *cobra.Command, args []string, o *spanOptions) error {
	if len(args) < 3 {
		return failf(exitBadArgs, "role grant command requires role name, permission type, and key [endkey] as its argument")
	}
	kind, err := clientv3.StrToPermissionType(args[1])
	if err != nil {
		return fail(exitBadArgs, err)
	}
	key, end, err := o.span(args[2:])
	if err != nil {
		return err
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleGrantPermission(ctx, args[0], key, end, kind)
		m := (*pb.AuthRoleGrantPermissionResponse)(resp)
		return receipt{m, m.GetHeader(), fmt.Sprintf("Role %s updated", args[0])}, err
	})
}

func (p *program) roleRevoke(cmd *cobra.Command, args []string, o *spanOptions) error {
	if len(args) < 2 {
		return failf(exitBadArgs, "role revoke-permission command requires role name and key [endkey] as its argument")
	}
	key, end, err := o.span(args[1:])
	if err != nil {
		return err
	}
	done := fmt.Sprintf("Permission of range [%s, %s) is revoked from role %s", args[1], end, args[0])
	switch end {
	case "":
		done = fmt.Sprintf("Permission of key %s is revoked from role %s", args[1], args[0])
	case openEnd:
		done = fmt.Sprintf("Permission of range [%s, <open ended> is revoked from role %s", args[1], args[0])
	}
	return one(p, cmd, receipt{}, func(ctx context.Context, c *clientv3.Client) (answer, error) {
		resp, err := c.RoleRevokePermission(ctx, args[0], key, end)
		m := (*pb.AuthRoleRevokePermissionResponse)(resp)
		return receipt{m, m.GetHeader(), done}, err
	})
}

type roleAnswer struct {
	*pb.AuthRoleGetResponse
	name string
}

func (a roleAnswer) simple(g *page) {
	g.line("Role", a.name)
	everything := a.name == rootName && a.GetPerm() == nil
	for _, way := range []struct {
		title string
		kind  authpb.Permission_Type
	}{{"KV Read:", authpb.READ}, {"KV Write:", authpb.WRITE}} {
		g.line(way.title)
		if everything {
			g.line("\t[, <open ended>")
		}
		for _, perm := range a.GetPerm() {
			if kind := perm.GetPermType(); kind == way.kind || kind == authpb.READWRITE {
				g.permission(string(perm.GetKey()), string(perm.GetRangeEnd()))
			}
		}
	}
}

// permission prints the keys that a permission is for.
func (g *page) permission(key, end string) {
	var prefix string
	if key != "" && end == clientv3.GetPrefixRangeEnd(key) {
		prefix = fmt.Sprintf(" (prefix %s)", key)
	}
	switch end {
	case "":
		g.linef("\t%s", key)
	case openEnd:
		g.linef("\t[%s, <open ended>%s", key, prefix)
	default:
		g.linef("\t[%s, %s)%s", key, end, prefix)
	}
}

func (a roleAnswer) fields(g *page) {
	g.header(a.GetHeader())
	for _, perm := range a.GetPerm() {
		g.line(`"PermType" : `, perm.GetPermType()) // two spaces, as etcdctl has them
		g.linef(`"Key" : %q`, perm.GetKey())
		g.linef(`"RangeEnd" : %q`, perm.GetRangeEnd())
	}
}

func (a roleAnswer) json(bool) any          { return a.AuthRoleGetResponse }
func (a roleAnswer) message() proto.Message { return a.AuthRoleGetResponse }

type rolesAnswer struct{ *pb.AuthRoleListResponse }

func (a rolesAnswer) simple(g *page) {
	for _, role := range a.GetRoles() {
		g.line(role)
	}
}

func (a rolesAnswer) fields(g *page) {
	g.header(a.GetHeader())
	g.WriteString(`"Roles" :`)
	for _, role := range a.GetRoles() {
		fmt.Fprintf(g, " %q", role)
	}
	g.line()
}

func (a rolesAnswer) json(bool) any          { return a.AuthRoleListResponse }
func (a rolesAnswer) message() proto.Message { return a.AuthRoleListResponse }
