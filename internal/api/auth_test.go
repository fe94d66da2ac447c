package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kvd/internal/credential"
	"kvd/internal/state"
	"kvd/internal/store"
)

// enforce makes root, and ann who may read and write what begins with a, and
// turns authentication on.
func enforce(t testing.TB, conn grpc.ClientConnInterface) {
	t.Helper()
	ctx, users := t.Context(), pb.NewAuthClient(conn)
	must(users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "rootpw"}))(t)
	must(users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))(t)
	must(users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "ann", Password: "annpw"}))(t)
	must(users.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "r"}))(t)
	must(users.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{
		PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b"),
	}}))(t)
	must(users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "ann", Role: "r"}))(t)
	must(users.AuthEnable(ctx, &pb.AuthEnableRequest{}))(t)
}

// logIn returns a context with a user's token.
func logIn(t testing.TB, conn grpc.ClientConnInterface, name string) context.Context {
	t.Helper()
	got := must(pb.NewAuthClient(conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: name + "pw"}))(t)
	return metadata.AppendToOutgoingContext(t.Context(), "token", got.Token)
}

const (
	textEmpty   = "etcdserver: user name is empty"
	textDenied  = "etcdserver: permission denied"
	textInvalid = "etcdserver: invalid auth token"
)

func TestNobodyGetsAnythingFromAnyCall(t *testing.T) {
	conn := serve(t, newSolo(t), Options{})
	enforce(t, conn)
	bad := metadata.AppendToOutgoingContext(t.Context(), "token", "bad.1")
	for name, r := range rules {
		service, method, _ := strings.Cut(name[1:], "/")
		for _, c := range []struct {
			ctx  context.Context
			code codes.Code
			text string
		}{{t.Context(), codes.InvalidArgument, textEmpty}, {bad, codes.Unauthenticated, textInvalid}} {
			err := callOnce(c.ctx, t, conn, service, method)
			switch {
			case r.need == anyone, r.need == sound && c.ctx == t.Context():
				if s := status.Convert(err); s.Message() == c.text {
					t.Errorf("%s is refused to nobody: %v", name, err)
				}
			default:
				want := c.code
				if r.marks&uncoded != 0 {
					want = codes.Unknown
				}
				if s := status.Convert(err); s.Code() != want || s.Message() != c.text {
					t.Errorf("%s: %v, want %s", name, err, c.text)
				}
			}
		}
	}
}

// callOnce makes a call that is well formed, of any kind, and returns how it
// ends.
func callOnce(ctx context.Context, t *testing.T, conn *grpc.ClientConn, service, method string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var request proto.Message = &pb.RangeRequest{Key: []byte("a")} // of many requests the first field is a key or a name
	switch method {
	case "MemberAdd":
		request = &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}}
	case "Txn":
		request = &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a")}}}
	case "Watch":
		if service == "etcdserverpb.Watch" {
			return watchEnds(ctx, conn)
		}
		fallthrough
	case "AuthEnable", "AuthDisable", "AuthStatus", "Status", "Defragment", "Hash", "Snapshot", "UserList", "RoleList", "MemberList", "LeaseLeases",
		"Check", "List", "Compact", "Alarm", "HashKV", "MoveLeader", "Downgrade", "LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseKeepAlive",
		"MemberRemove", "MemberUpdate", "MemberPromote", "RoleGrantPermission", "Proclaim", "Resign":
		request = &pb.StatusRequest{}
	}
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, "/"+service+"/"+method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // an early refusal is told by RecvMsg
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	return stream.RecvMsg(&pb.StatusResponse{})
}

// watchEnds makes a watcher and returns what it was refused with.
func watchEnds(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = stream.Send(watchRequest("a", ""))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	got, err := stream.Recv()
	if err != nil || !got.Canceled {
		return err
	}
	code := codes.InvalidArgument
	if strings.HasSuffix(got.CancelReason, textInvalid) {
		code = codes.Unauthenticated
	}
	_, text, _ := strings.Cut(got.CancelReason, "desc = ")
	return status.Error(code, text)
}

func watchRequest(key, end string) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func watching(ctx context.Context, t *testing.T, conn *grpc.ClientConn, key, end string) pb.Watch_WatchClient {
	t.Helper()
	stream := must(pb.NewWatchClient(conn).Watch(ctx))(t)
	if err := stream.Send(watchRequest(key, end)); err != nil {
		t.Fatal(err)
	}
	if got := must(stream.Recv())(t); !got.Created || got.Canceled {
		t.Fatalf("got %v", got)
	}
	return stream
}

// cancelled waits for the end of a watcher, before which nothing may be heard.
func cancelled(t *testing.T, stream pb.Watch_WatchClient, text string) {
	t.Helper()
	got := must(stream.Recv())(t)
	if !got.Canceled || len(got.Events) > 0 || !strings.HasSuffix(got.CancelReason, text) {
		t.Errorf("got %v, want the end because of %q", got, text)
	}
}

func TestAWatcherHearsNothingThatItsOwnerMayNotReadAnyMore(t *testing.T) {
	conn := serve(t, newSolo(t), Options{Election: 50 * time.Millisecond})
	early := watching(t.Context(), t, conn, "a", "") // while nobody was asked
	enforce(t, conn)
	cancelled(t, early, textEmpty)
	root, ann, kv := logIn(t, conn, "root"), logIn(t, conn, "ann"), pb.NewKVClient(conn)
	users := pb.NewAuthClient(conn)
	all, hers, quiet := watching(root, t, conn, "\x00", "\x00"), watching(ann, t, conn, "a", "b"), watching(ann, t, conn, "aa", "ab")
	must(kv.Put(ann, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}))(t)
	for _, s := range []pb.Watch_WatchClient{all, hers} {
		if got := must(s.Recv())(t); len(got.Events) != 1 || string(got.Events[0].Kv.Value) != "1" {
			t.Errorf("got %v", got)
		}
	}
	must(users.UserRevokeRole(root, &pb.AuthUserRevokeRoleRequest{Name: "ann", Role: "r"}))(t)
	must(kv.Put(root, &pb.PutRequest{Key: []byte("a"), Value: []byte("2")}))(t)
	cancelled(t, hers, textDenied)
	cancelled(t, quiet, textDenied)
	if got := must(all.Recv())(t); len(got.Events) != 1 || string(got.Events[0].Kv.Value) != "2" {
		t.Errorf("root gets %v", got)
	}
	// A password is not a permission.
	must(users.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "root", Password: "other"}))(t)
	must(users.AuthStatus(t.Context(), &pb.AuthStatusRequest{}))(t)
	if _, err := kv.Put(root, &pb.PutRequest{Key: []byte("a")}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the token of another password: %v", err)
	}
}

func TestATokenEndsWhenItIsNotUsed(t *testing.T) {
	s := newSolo(t)
	var ahead atomic.Int64
	s.tokens = Tokens{Simple: credential.NewSimple(time.Hour, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })}
	conn := serve(t, s, Options{})
	enforce(t, conn)
	ann, kv := logIn(t, conn, "ann"), pb.NewKVClient(conn)
	stream := must(pb.NewWatchClient(conn).Watch(ann))(t)
	lives := must(pb.NewLeaseClient(conn).LeaseKeepAlive(ann))(t)
	for range 3 { // each use prolongs its life
		ahead.Add(int64(50 * time.Minute))
		must(kv.Put(ann, &pb.PutRequest{Key: []byte("a")}))(t)
	}
	ahead.Add(int64(61 * time.Minute))
	_, err := kv.Put(ann, &pb.PutRequest{Key: []byte("a")})
	refuses(t, err, codes.Unauthenticated, textInvalid)
	// So it does on streams that are open.
	if err := stream.Send(watchRequest("a", "")); err != nil {
		t.Fatal(err)
	}
	cancelled(t, stream, textInvalid)
	if err := lives.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	_, err = lives.Recv()
	refuses(t, err, codes.Unauthenticated, textInvalid)
	s.tokens.Changed([]state.TokenChange{{}})
	if n := s.tokens.Simple.Len(); n != 0 {
		t.Errorf("%d tokens are left", n)
	}
}

func TestAPasswordIsNeverInTheLogNorInTheStore(t *testing.T) {
	s := newSolo(t)
	spy := &listener{}
	conn := serve(t, s, Options{})
	s.heard = spy.hear
	users := pb.NewAuthClient(conn)
	must(users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "p", Password: "topsecret"}))(t)
	must(users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "n", Password: "topsecret", Options: &authpb.UserAddOptions{NoPassword: true}}))(t)
	must(users.UserChangePassword(t.Context(), &pb.AuthUserChangePasswordRequest{Name: "p", Password: "topsecret"}))(t)
	enforce(t, conn)
	_, err := users.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "p", Password: "topsecret"})
	if err != nil {
		t.Fatal(err)
	}
	if spy.entries < 9 || spy.leaks > 0 {
		t.Errorf("%d of %d entries have the password", spy.leaks, spy.entries)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := must(s.file.Read())(t)
	defer r.Close()
	r.Scan(store.AuthUsers, nil, nil, func(_, row []byte) bool {
		if strings.Contains(string(row), "topsecret") {
			t.Errorf("a row has the password: %q", row)
		}
		return true
	})
}

// listener looks at what is proposed.
type listener struct{ entries, leaks int }

func (l *listener) hear(entry []byte) {
	l.entries++
	if strings.Contains(string(entry), "topsecret") {
		l.leaks++
	}
}
