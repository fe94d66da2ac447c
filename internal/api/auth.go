package api

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// authService is known and has its rules, but nothing to say yet.
func (a *API) authService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Auth"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unserved[pb.AuthEnableRequest](a, name, "AuthEnable"),
			unserved[pb.AuthDisableRequest](a, name, "AuthDisable"),
			unserved[pb.AuthStatusRequest](a, name, "AuthStatus"),
			unserved[pb.AuthenticateRequest](a, name, "Authenticate"),
			unserved[pb.AuthUserAddRequest](a, name, "UserAdd"),
			unserved[pb.AuthUserGetRequest](a, name, "UserGet"),
			unserved[pb.AuthUserListRequest](a, name, "UserList"),
			unserved[pb.AuthUserDeleteRequest](a, name, "UserDelete"),
			unserved[pb.AuthUserChangePasswordRequest](a, name, "UserChangePassword"),
			unserved[pb.AuthUserGrantRoleRequest](a, name, "UserGrantRole"),
			unserved[pb.AuthUserRevokeRoleRequest](a, name, "UserRevokeRole"),
			unserved[pb.AuthRoleAddRequest](a, name, "RoleAdd"),
			unserved[pb.AuthRoleGetRequest](a, name, "RoleGet"),
			unserved[pb.AuthRoleListRequest](a, name, "RoleList"),
			unserved[pb.AuthRoleDeleteRequest](a, name, "RoleDelete"),
			unserved[pb.AuthRoleGrantPermissionRequest](a, name, "RoleGrantPermission"),
			unserved[pb.AuthRoleRevokePermissionRequest](a, name, "RoleRevokePermission"),
		},
		Metadata: "rpc.proto",
	}
}

// unserved is a method that is answered as gRPC answers one that is not
// implemented, but counted and checked like the others.
func unserved[M any, P interface {
	*M
	proto.Message
}](a *API, service, name string) grpc.MethodDesc {
	return unary(a, service, name, decoded[M, P], func(context.Context, P, []byte) (any, error) {
		return nil, status.Error(codes.Unimplemented, "method "+name+" not implemented")
	})
}
