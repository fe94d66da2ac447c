package api

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAuthenticationIsNotSwitchedOnWhereOthersListenIn(t *testing.T) {
	for _, exposed := range [][]string{{"192.0.2.1:2379"}, nil} {
		users := pb.NewAuthClient(serve(t, newSolo(t), Options{Exposed: exposed}))
		if _, err := users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, err := users.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}); err != nil {
			t.Fatal(err)
		}
		_, err := users.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
		if exposed == nil {
			if err != nil {
				t.Errorf("with nothing exposed: %v", err)
			}
			continue
		}
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), exposed[0]) {
			t.Errorf("exposed: %v", err)
		}
		if on, err := users.AuthStatus(t.Context(), &pb.AuthStatusRequest{}); err != nil || on.Enabled {
			t.Errorf("it is on all the same: %v, %v", on, err)
		}
	}
}
