package api

import (
	"context"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/internal/auth"
	"kvd/internal/state"
)

func (a *API) authService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Auth"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "AuthEnable", decoded[pb.AuthEnableRequest], a.authEnable),
			inLog(a, name, "AuthDisable", func(r *pb.AuthDisableRequest) *state.Request { return &state.Request{AuthDisable: r} }),
			unary(a, name, "AuthStatus", decoded[pb.AuthStatusRequest], a.authStatus),
			unary(a, name, "Authenticate", decoded[pb.AuthenticateRequest], a.authenticate),
			unary(a, name, "UserAdd", decoded[pb.AuthUserAddRequest], a.userAdd),
			unary(a, name, "UserGet", decoded[pb.AuthUserGetRequest], a.userGet),
			unary(a, name, "UserList", decoded[pb.AuthUserListRequest], a.userList),
			inLog(a, name, "UserDelete", func(r *pb.AuthUserDeleteRequest) *state.Request { return &state.Request{AuthUserDelete: r} }),
			unary(a, name, "UserChangePassword", decoded[pb.AuthUserChangePasswordRequest], a.userChangePassword),
			inLog(a, name, "UserGrantRole", func(r *pb.AuthUserGrantRoleRequest) *state.Request { return &state.Request{AuthUserGrantRole: r} }),
			inLog(a, name, "UserRevokeRole", func(r *pb.AuthUserRevokeRoleRequest) *state.Request { return &state.Request{AuthUserRevokeRole: r} }),
			unary(a, name, "RoleAdd", decoded[pb.AuthRoleAddRequest], a.roleAdd),
			unary(a, name, "RoleGet", decoded[pb.AuthRoleGetRequest], a.roleGet),
			unary(a, name, "RoleList", decoded[pb.AuthRoleListRequest], a.roleList),
			inLog(a, name, "RoleDelete", func(r *pb.AuthRoleDeleteRequest) *state.Request { return &state.Request{AuthRoleDelete: r} }),
			inLog(a, name, "RoleGrantPermission", func(r *pb.AuthRoleGrantPermissionRequest) *state.Request {
				return &state.Request{AuthRoleGrantPermission: r}
			}),
			inLog(a, name, "RoleRevokePermission", func(r *pb.AuthRoleRevokePermissionRequest) *state.Request {
				return &state.Request{AuthRoleRevokePermission: r}
			}),
		},
		Metadata: "rpc.proto",
	}
}

// inLog is a method that is a command as it is.
func inLog[M any, P interface {
	*M
	proto.Message
}](a *API, service, name string, command func(P) *state.Request) grpc.MethodDesc {
	return unary(a, service, name, decoded[M, P], func(ctx context.Context, r P, _ []byte) (any, error) {
		return a.propose(ctx, command(r), nil)
	})
}

// authEnable switches authentication on, unless that would be for show: where
// passwords, tokens and writes are open to everybody on the way.
func (a *API) authEnable(ctx context.Context, r *pb.AuthEnableRequest, _ []byte) (any, error) {
	if len(a.o.Exposed) > 0 && !a.member.View().Users.Enabled() {
		return nil, status.Errorf(codes.FailedPrecondition, "kvd: passwords, tokens and writes would be open to everybody on the way to %s: "+
			"use https URLs on all members first, or set allow-insecure-listen = true if the network is safe", strings.Join(a.o.Exposed, ", "))
	}
	return a.propose(ctx, &state.Request{AuthEnable: r}, nil)
}

func (a *API) roleAdd(ctx context.Context, r *pb.AuthRoleAddRequest, _ []byte) (any, error) {
	if err := checkName(r.Name); err != nil {
		return nil, err
	}
	return a.propose(ctx, &state.Request{AuthRoleAdd: r}, nil)
}

// The reads need no entry in the log, as they have in etcd: after a barrier the
// view is as good.

// usersNow is a view that holds every acknowledged change.
func (a *API) usersNow(ctx context.Context) (*state.View, error) {
	if err := a.member.Barrier(ctx); err != nil {
		return nil, err
	}
	return a.member.View(), nil
}

func (a *API) authStatus(ctx context.Context, _ *pb.AuthStatusRequest, _ []byte) (any, error) {
	v, err := a.usersNow(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: a.message(v), Enabled: v.Users.Enabled(), AuthRevision: v.Users.Revision()}, nil
}

// administered is usersNow for administrators.
func (a *API) administered(ctx context.Context) (*state.View, error) {
	v, err := a.usersNow(ctx)
	if err == nil {
		err = v.Users.Admin(callerOf(ctx).at(v.Users))
	}
	return v, err
}

// userGet shows a user to administrators, and to the user.
func (a *API) userGet(ctx context.Context, r *pb.AuthUserGetRequest, _ []byte) (any, error) {
	v, err := a.administered(ctx)
	if v == nil || err != nil && r.Name != callerOf(ctx).name {
		return nil, err
	}
	roles, ok := v.Users.RolesOf(r.Name)
	if !ok {
		return nil, auth.ErrUserNotFound
	}
	return &pb.AuthUserGetResponse{Header: a.message(v), Roles: roles}, nil
}

func (a *API) userList(ctx context.Context, _ *pb.AuthUserListRequest, _ []byte) (any, error) {
	v, err := a.administered(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: a.message(v), Users: v.Users.Users()}, nil
}

// roleGet shows a role to administrators, and to the users who have it.
func (a *API) roleGet(ctx context.Context, r *pb.AuthRoleGetRequest, _ []byte) (any, error) {
	v, err := a.administered(ctx)
	if v == nil || err != nil && !v.Users.Has(callerOf(ctx).name, r.Role) {
		return nil, err
	}
	granted, ok := v.Users.Permissions(r.Role)
	if !ok {
		return nil, auth.ErrRoleNotFound
	}
	return &pb.AuthRoleGetResponse{Header: a.message(v), Perm: granted}, nil
}

func (a *API) roleList(ctx context.Context, _ *pb.AuthRoleListRequest, _ []byte) (any, error) {
	v, err := a.administered(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: a.message(v), Roles: v.Users.Roles()}, nil
}
