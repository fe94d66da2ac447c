package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// dialAs connects with a certificate that is made for a name.
func (a *authority) dialAs(t *testing.T, name, address string) *grpc.ClientConn {
	t.Helper()
	_, _, pair := a.sign(t, name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: a.pool, Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1",
	})))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// usersOf makes root and ann, who may have what begins with a, and turns
// authentication on.
func usersOf(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, as := t.Context(), pb.NewAuthClient(conn)
	_, err := as.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "rootpw"})
	must(t, err)
	_, err = as.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	must(t, err)
	_, err = as.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "ann", Password: "annpw"})
	must(t, err)
	_, err = as.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "r"})
	must(t, err)
	_, err = as.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{
		Name: "r", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")},
	})
	must(t, err)
	_, err = as.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "ann", Role: "r"})
	must(t, err)
	_, err = as.AuthEnable(ctx, &pb.AuthEnableRequest{})
	must(t, err)
}

func says(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%s: %v %q, want %v %q", what, s.Code(), s.Message(), code, text)
	}
}

const (
	userEmpty = "etcdserver: user name is empty"
	denied    = "etcdserver: permission denied"
	badToken  = "etcdserver: invalid auth token"
)

func TestACertificateSaysWhoCalls(t *testing.T) {
	ca := newAuthority(t)
	ca.leaf(t, "here", "127.0.0.1")
	d := start(t, append(flags(t.TempDir()), "--bcrypt-cost=4",
		"--listen-client-urls=https://127.0.0.1:0", "--cert-file="+ca.path("here.crt"), "--key-file="+ca.path("here.key"),
		"--client-cert-auth", "--trusted-ca-file="+ca.path("ca.crt"),
	)...)
	root := ca.dialAs(t, "root", d.client(t))
	usersOf(t, root)
	put := func(ctx context.Context, conn *grpc.ClientConn, key string) error {
		_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key)})
		return err
	}
	compact := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Compact(ctx, &pb.CompactionRequest{Revision: 1})
		return err
	}
	ctx := t.Context()
	must(t, put(ctx, root, "z"))
	must(t, compact(ctx, root))
	ann, ghost, nameless := ca.dialAs(t, "ann", d.client(t)), ca.dialAs(t, "ghost", d.client(t)), ca.dialAs(t, "", d.client(t))
	must(t, put(ctx, ann, "a"))
	says(t, "ann puts z", put(ctx, ann, "z"), codes.PermissionDenied, denied)
	says(t, "ann compacts", compact(ctx, ann), codes.PermissionDenied, denied)
	says(t, "ghost puts a", put(ctx, ghost, "a"), codes.PermissionDenied, denied)
	says(t, "ghost compacts", compact(ctx, ghost), codes.FailedPrecondition, "etcdserver: user name not found")
	says(t, "a certificate without a name", put(ctx, nameless, "a"), codes.InvalidArgument, userEmpty)

	// What comes through the JSON gateway has the gateway's certificate, and no name.
	gateway := metadata.AppendToOutgoingContext(ctx, "grpcgateway-accept", "application/json")
	says(t, "the gateway puts a", put(gateway, root, "a"), codes.InvalidArgument, userEmpty)

	token, err := pb.NewAuthClient(root).Authenticate(ctx, &pb.AuthenticateRequest{Name: "ann", Password: "annpw"})
	must(t, err)
	asAnn := metadata.AppendToOutgoingContext(ctx, "token", token.Token)
	says(t, "root with the token of ann puts z", put(asAnn, root, "z"), codes.PermissionDenied, denied)
	must(t, put(metadata.AppendToOutgoingContext(gateway, "token", token.Token), root, "a"))
	wrong := metadata.AppendToOutgoingContext(ctx, "token", "wrong.1")
	says(t, "root with a wrong token puts a", put(wrong, root, "a"), codes.Unauthenticated, badToken)
}

func logIn(t *testing.T, conn *grpc.ClientConn, name, password string) context.Context {
	t.Helper()
	got, err := pb.NewAuthClient(conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: password})
	must(t, err)
	return metadata.AppendToOutgoingContext(t.Context(), "token", got.Token)
}

func plainly(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestATokenOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	begin := func() (*instance, *grpc.ClientConn) {
		d := start(t, append(flags(dir), "--bcrypt-cost=4")...)
		return d, plainly(t, d.client(t))
	}
	put := func(ctx context.Context, conn *grpc.ClientConn, key string) error {
		_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key)})
		return err
	}
	d, conn := begin()
	usersOf(t, conn)
	root, ann, other := logIn(t, conn, "root", "rootpw"), logIn(t, conn, "ann", "annpw"), logIn(t, conn, "ann", "annpw")
	must(t, put(ann, conn, "a"))
	d.stop(t)

	d, conn = begin()
	must(t, put(ann, conn, "a"))
	must(t, put(root, conn, "z"))
	says(t, "ann puts z", put(ann, conn, "z"), codes.PermissionDenied, denied)
	_, err := pb.NewAuthClient(conn).UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "ann", Password: "annpw"})
	must(t, err)
	says(t, "a token of the old password", put(ann, conn, "a"), codes.Unauthenticated, badToken)
	d.stop(t)

	d, conn = begin()
	says(t, "a token of the old password", put(other, conn, "a"), codes.Unauthenticated, badToken)
	_, err = pb.NewAuthClient(conn).AuthDisable(root, &pb.AuthDisableRequest{})
	must(t, err)
	_, err = pb.NewAuthClient(conn).AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	must(t, err)
	says(t, "a token from before authentication was off", put(root, conn, "z"), codes.Unauthenticated, badToken)
	must(t, put(logIn(t, conn, "root", "rootpw"), conn, "z"))
	d.stop(t)
}
