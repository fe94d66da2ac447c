package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"kvd/test/oracle"
)

// users is one session of calls by several users, held with etcd and with kvd.
type users struct {
	t      *testing.T
	sides  [2]*side
	tokens [2]map[string]string // of each server, by user
}

// nobody shows no token, and stranger one that nobody has given out.
const (
	nobody   = "nobody"
	stranger = "stranger"
)

func newUsers(t *testing.T, flags ...string) *users {
	t.Helper()
	etcd, kvd := pairOf(t, oracle.Etcd(t), target(t), append([]string{"--bcrypt-cost=4"}, flags...))
	u := &users{t: t, sides: [2]*side{newSide(t, etcd), newSide(t, kvd)}}
	for i := range u.tokens {
		u.tokens[i] = map[string]string{stranger: "abcdefghijklmnop.1"}
	}
	return u
}

// bearer is the metadata that a user sends to a server.
func (u *users) bearer(i int, who string) metadata.MD {
	if who == nobody {
		return nil
	}
	token, ok := u.tokens[i][who]
	if !ok {
		u.t.Fatalf("%s has no token", who)
	}
	return metadata.Pairs("token", token)
}

// answers asks both servers, in the name of one user.
func (u *users) answers(who string, o op) (got [2]answer) {
	for i, s := range u.sides {
		o.md = u.bearer(i, who)
		switch req := o.req.(type) {
		case *pb.LeaseKeepAliveRequest:
			got[i] = s.renewOnce(o.md, req)
		case *pb.SnapshotRequest:
			got[i] = s.snapshotOnce(o.md)
		case *pb.WatchRequest:
			got[i] = s.watchOnce(o.md, req)
		default:
			got[i] = s.send(o)
		}
		got[i] = s.normal(got[i])
		if token, ok := got[i].msg.(*pb.AuthenticateResponse); ok {
			token.Token = strings.Map(func(r rune) rune { return -1 }, token.Token)
		}
	}
	return got
}

// do has both servers answer alike.
func (u *users) do(who string, all ...op) {
	u.t.Helper()
	for _, o := range all {
		got := u.answers(who, o)
		if !same(got[0], got[1]) {
			u.t.Errorf("%s: %s\n  etcd: %s\n  kvd:  %s", who, o, got[0], got[1])
		}
	}
}

// logIn gets a token from both servers.
func (u *users) logIn(name, password string) {
	u.t.Helper()
	for i, s := range u.sides {
		got := s.call(nil, "/etcdserverpb.Auth/Authenticate", &pb.AuthenticateRequest{Name: name, Password: password}, &pb.AuthenticateResponse{})
		if got.msg == nil {
			u.t.Fatalf("%s: %s does not get in: %s", s.name, name, got)
		}
		u.tokens[i][name] = got.msg.(*pb.AuthenticateResponse).Token
	}
}

// renewOnce sends one keep-alive on a stream of its own.
func (s *side) renewOnce(md metadata.MD, req *pb.LeaseKeepAliveRequest) answer {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(s.ctx, md), answerWithin)
	defer cancel()
	stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(req)
	}
	if err != nil && !errors.Is(err, io.EOF) { // which says only that Recv tells the reason
		return failed(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return failed(err)
	}
	return answer{msg: resp}
}

// snapshotOnce reports how the first message of a snapshot comes.
func (s *side) snapshotOnce(md metadata.MD) answer {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(s.ctx, md), answerWithin)
	defer cancel()
	stream, err := pb.NewMaintenanceClient(s.conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return failed(err)
	}
	return answer{msg: &pb.SnapshotResponse{}}
}

// watchOnce makes a watcher and reports the first answer.
func (s *side) watchOnce(md metadata.MD, req *pb.WatchRequest) answer {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(s.ctx, md), answerWithin)
	defer cancel()
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err == nil {
		err = stream.Send(req)
	}
	if err != nil && !errors.Is(err, io.EOF) { // which says only that Recv tells the reason
		return failed(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return failed(err)
	}
	return answer{msg: resp}
}

func authOp(method string, req proto.Message) op {
	return op{method: "/etcdserverpb.Auth/" + method, req: req}
}

func userAdd(name, password string) op {
	return authOp("UserAdd", &pb.AuthUserAddRequest{Name: name, Password: password, Options: &authpb.UserAddOptions{}})
}

func grantRole(user, role string) op {
	return authOp("UserGrantRole", &pb.AuthUserGrantRoleRequest{User: user, Role: role})
}

func grantKeys(role string, kind authpb.Permission_Type, key, end string) op {
	return authOp("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{
		Name: role, Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)},
	})
}

func roleAdd(name string) op { return authOp("RoleAdd", &pb.AuthRoleAddRequest{Name: name}) }

func authenticate(name, password string) op {
	return authOp("Authenticate", &pb.AuthenticateRequest{Name: name, Password: password})
}

func watchOf(key, end string) op {
	return op{method: methodWatch, req: &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}}
}

var authStatus = authOp("AuthStatus", &pb.AuthStatusRequest{})

// prepare makes users and roles while nobody is asked, with everything that is
// refused then, and turns authentication on.
func (u *users) prepare() {
	u.do(nobody,
		authStatus, authOp("AuthDisable", &pb.AuthDisableRequest{}), authStatus,
		authOp("AuthEnable", &pb.AuthEnableRequest{}), userAdd("", "x"), userAdd("root", "rootpw"), userAdd("root", "again"), authStatus,
		authOp("AuthEnable", &pb.AuthEnableRequest{}), grantRole("nobody", "root"), grantRole("root", "none"),
		authOp("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "none", Password: "x"}),
		authOp("UserDelete", &pb.AuthUserDeleteRequest{Name: "none"}), authOp("UserGet", &pb.AuthUserGetRequest{Name: "none"}),
		authOp("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "none", Role: "r"}),
		authOp("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "r"}),
		grantRole("root", "root"), authStatus, grantRole("root", "root"), authStatus,
		authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "root"}), roleAdd(""), roleAdd("root"), roleAdd("root"),
		authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "root"}), authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "none"}),
		authOp("RoleDelete", &pb.AuthRoleDeleteRequest{Role: "none"}),
		authenticate("root", "rootpw"),
		authOp("UserAdd", &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat("x", 73)}),
	)
	u.do(nobody,
		roleAdd("abc"), grantKeys("abc", authpb.READWRITE, "a", "d"), grantKeys("abc", authpb.READ, "d", ""),
		grantKeys("abc", authpb.WRITE, "e", ""), grantKeys("abc", authpb.READ, "e", "f"), grantKeys("abc", authpb.READWRITE, "e", "f"),
		grantKeys("abc", authpb.WRITE, "e", "f"), grantKeys("abc", authpb.READ, "z", "\x00"),
		grantKeys("abc", authpb.READ, "z", "a"), grantKeys("abc", authpb.READ, "", ""), grantKeys("none", authpb.READ, "a", ""),
		authOp("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "abc"}),
		authOp("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "abc", Key: []byte("a")}),
		authOp("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "none", Key: []byte("a")}),
		authOp("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "abc", Key: []byte("e")}),
		authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "abc"}),
		roleAdd("more"), grantKeys("more", authpb.READWRITE, "m", "n"), grantKeys("more", authpb.READ, "d", "e"),
		userAdd("ann", "annpw"), grantRole("ann", "more"), grantRole("ann", "abc"),
		userAdd("bob", "bobpw"), userAdd("empty", ""),
		authOp("UserAdd", &pb.AuthUserAddRequest{Name: "cert", Password: "ignored", Options: &authpb.UserAddOptions{NoPassword: true}}),
		authOp("UserAdd", &pb.AuthUserAddRequest{Name: "plain", Password: "plainpw"}),
		authOp("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "cert", Password: "x"}),
		authOp("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "plain", Password: ""}),
		authOp("UserGet", &pb.AuthUserGetRequest{Name: "ann"}), authOp("UserList", &pb.AuthUserListRequest{}),
		authOp("RoleList", &pb.AuthRoleListRequest{}), authStatus,
		kv("Put", &pb.PutRequest{Key: []byte("secret"), Value: []byte("x")}),
		kv("Put", &pb.PutRequest{Key: []byte("a"), Value: []byte("x")}),
		lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 1, TTL: 1000}), lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 2, TTL: 1000}),
		lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 3, TTL: 1000}),
		kv("Put", &pb.PutRequest{Key: []byte("b"), Lease: 1}), kv("Put", &pb.PutRequest{Key: []byte("s"), Lease: 2}),
		authOp("AuthEnable", &pb.AuthEnableRequest{}),
	)
	for _, c := range [][2]string{
		{"root", "wrong"}, {"none", "x"}, {"cert", "ignored"}, {"plain", "plainpw"}, {"plain", ""}, {"empty", "x"}, {"", ""}, {"root", strings.Repeat("x", 100)},
	} {
		u.do(nobody, authenticate(c[0], c[1]))
		u.do(stranger, authenticate(c[0], c[1]))
	}
	for _, c := range [][2]string{{"root", "rootpw"}, {"ann", "annpw"}, {"bob", "bobpw"}, {"empty", ""}} {
		u.logIn(c[0], c[1])
	}
}

// keyOps are requests by ranges that are granted or not, whole or in part.
func keyOps() (all []op) {
	for _, span := range [][2]string{
		{"a", ""},
		{"b", "c"},
		{"a", "d"},
		{"a", "e"},
		{"a", "f"},
		{"c", "g"},
		{"d", ""},
		{"d", "d\x00"},
		{"d", "e"},
		{"e", ""},
		{"e", "f"},
		{"m", "n"},
		{"m", "o"},
		{"l", "n"},
		{"s", ""},
		{"secret", ""},
		{"z", "\x00"},
		{"y", "\x00"},
		{"\x00", "\x00"},
		{"zz", "zzz"},
		{"b", "a"},
		{"b", "b"},
		{"z", "a"},
		{"q", "p"},
	} {
		key, end := []byte(span[0]), []byte(span[1])
		all = append(all,
			kv("Range", &pb.RangeRequest{Key: key, RangeEnd: end}),
			kv("Range", &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: true, CountOnly: true}),
			op{method: methodRangeStream, req: &pb.RangeRequest{Key: key, RangeEnd: end}},
			kv("Txn", &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, RangeEnd: end}}}),
			kv("Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(key, end)}}),
			kv("Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(key, end), putOp([]byte("a"), false)}}),
			kv("DeleteRange", &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: true}),
			kv("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Failure: []*pb.RequestOp{deleteOp(key, end, false)}})}}),
			kv("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{deleteOp(key, end, true)}}),
			watchOf(span[0], span[1]),
		)
		if span[1] == "" {
			all = append(all,
				kv("Put", &pb.PutRequest{Key: key, Value: []byte("1")}),
				kv("Put", &pb.PutRequest{Key: key, Value: []byte("2"), PrevKv: true}),
				kv("Put", &pb.PutRequest{Key: key, Lease: 1}), kv("Put", &pb.PutRequest{Key: key, Lease: 2}), kv("Put", &pb.PutRequest{Key: key, IgnoreLease: true}),
				kv("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{putOp(key, true)}})}}),
			)
		}
	}
	return append(all,
		kv("Put", &pb.PutRequest{}), kv("Range", &pb.RangeRequest{}), kv("DeleteRange", &pb.DeleteRangeRequest{}),
		kv("DeleteRange", &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("d")}),
		kv("Compact", &pb.CompactionRequest{Revision: 2}), kv("Compact", &pb.CompactionRequest{Revision: 1 << 40}),
	)
}

func rangeOp(key, end []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, RangeEnd: end}}}
}

func putOp(key []byte, previous bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, PrevKv: previous}}}
}

func deleteOp(key, end []byte, previous bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: previous},
	}}
}

func txnOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// otherOps are all that is left of the API, but for what manages users.
func otherOps(round int64) []op {
	return []op{
		lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 100 + round, TTL: 1000}),
		lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 99}), lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 99, Keys: true}),
		lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}), lease("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}),
		lease("LeaseLeases", &pb.LeaseLeasesRequest{}),
		lease("LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: 1}), lease("LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: 2}),
		lease("LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: 99}),
		lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 2}), lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 99}), lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 100 + round}),
		cluster("MemberList", &pb.MemberListRequest{}), cluster("MemberList", &pb.MemberListRequest{Linearizable: true}),
		cluster("MemberAdd", &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}}),
		cluster("MemberRemove", &pb.MemberRemoveRequest{ID: 7}),
		cluster("MemberUpdate", &pb.MemberUpdateRequest{ID: 7, PeerURLs: []string{"http://127.0.0.1:1"}}), cluster("MemberPromote", &pb.MemberPromoteRequest{ID: 7}),
		maintenance("Alarm", &pb.AlarmRequest{}), maintenance("Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE}),
		maintenance("Status", &pb.StatusRequest{}), maintenance("Defragment", &pb.DefragmentRequest{}),
		maintenance("Hash", &pb.HashRequest{}), maintenance("HashKV", &pb.HashKVRequest{}), maintenance("Snapshot", &pb.SnapshotRequest{}),
		maintenance("MoveLeader", &pb.MoveLeaderRequest{TargetID: 7}),
		maintenance("Downgrade", &pb.DowngradeRequest{Version: "x"}), maintenance("Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}),
		{method: "/grpc.health.v1.Health/Check", req: &pb.AuthStatusRequest{}},
	}
}

// authOps manage users in ways that leave those of the session alone.
func authOps() []op {
	return []op{
		authStatus,
		authOp("UserList", &pb.AuthUserListRequest{}), authOp("RoleList", &pb.AuthRoleListRequest{}),
		authOp("UserGet", &pb.AuthUserGetRequest{Name: "ann"}), authOp("UserGet", &pb.AuthUserGetRequest{Name: "root"}), authOp("UserGet", &pb.AuthUserGetRequest{Name: "none"}),
		authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "abc"}), authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "root"}), authOp("RoleGet", &pb.AuthRoleGetRequest{Role: "none"}),
		userAdd("new", "pw"), grantRole("new", "abc"), grantRole("new", "abc"), authOp("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "new", Role: "abc"}),
		authOp("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}),
		authOp("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "new", Password: "other"}),
		authOp("UserDelete", &pb.AuthUserDeleteRequest{Name: "new"}), authOp("UserDelete", &pb.AuthUserDeleteRequest{Name: "root"}),
		roleAdd("new"), grantKeys("new", authpb.READ, "k", ""), authOp("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "new", Key: []byte("k")}),
		authOp("RoleDelete", &pb.AuthRoleDeleteRequest{Role: "new"}), authOp("RoleDelete", &pb.AuthRoleDeleteRequest{Role: "root"}),
		authOp("AuthEnable", &pb.AuthEnableRequest{}),
	}
}

func TestEveryCallIsAllowedAndDeniedAsInEtcd(t *testing.T) {
	t.Parallel()
	u := newUsers(t)
	u.prepare()
	for round, who := range []string{nobody, stranger, "bob", "ann", "empty", "root"} {
		u.do(who, keyOps()...)
		u.do(who, otherOps(int64(round))...)
		u.do(who, authOps()...)
	}
	u.changes()
	u.do("ann", authOp("AuthDisable", &pb.AuthDisableRequest{}))
	u.do("root", authOp("AuthDisable", &pb.AuthDisableRequest{}))
	for _, who := range []string{"ann", nobody, stranger} { // now tokens mean nothing
		u.do(who, authStatus, kv("Put", &pb.PutRequest{Key: []byte("secret")}), authenticate("root", "rootpw"))
	}
	u.do(nobody, authOp("AuthEnable", &pb.AuthEnableRequest{}))
	u.do("root", authStatus) // the token went with the end of authentication
	u.compareStores()
}

// changes of users and roles take effect for tokens that are out.
func (u *users) changes() {
	read := kv("Range", &pb.RangeRequest{Key: []byte("m")})
	u.do("ann", read)
	u.do("root", authOp("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "ann", Role: "more"}))
	u.do("ann", read, kv("Range", &pb.RangeRequest{Key: []byte("a")}))
	u.do("root", grantRole("ann", "more"))
	u.do("ann", read)
	u.do("root", authOp("RoleDelete", &pb.AuthRoleDeleteRequest{Role: "more"}), authOp("UserGet", &pb.AuthUserGetRequest{Name: "ann"}))
	u.do("ann", read)
	u.do("root", authOp("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "ann", Password: "next"}))
	u.do("ann", kv("Range", &pb.RangeRequest{Key: []byte("a")}), authStatus)
	u.do(nobody, authenticate("ann", "annpw"))
	u.logIn("ann", "next")
	u.do("ann", kv("Range", &pb.RangeRequest{Key: []byte("a")}))
	u.do("root", grantRole("bob", "root"))
	u.do("bob", keyOps()...)
	u.do("bob", otherOps(77)...)
	u.do("root", authOp("UserDelete", &pb.AuthUserDeleteRequest{Name: "bob"}))
	u.do("bob", authStatus)
}

// compareStores looks at what both have on disk.
func (u *users) compareStores() {
	u.t.Helper()
	var rows [2]map[string]string
	for i, s := range u.sides {
		s.member.Stop()
		rows[i] = authRows(u.t, filepath.Join(s.member.DataDir, "member", "snap", "db"))
	}
	for key, row := range rows[0] {
		if rows[1][key] != row {
			u.t.Errorf("row %s\n  etcd: %x\n  kvd:  %x", key, row, rows[1][key])
		}
	}
	if len(rows[0]) != len(rows[1]) || len(rows[0]) < 6 {
		u.t.Errorf("etcd has rows %q, kvd %q", slices.Sorted(maps.Keys(rows[0])), slices.Sorted(maps.Keys(rows[1])))
	}
}

// authRows are the rows of users and roles, but for the hashes of passwords,
// which differ by a salt.
func authRows(t testing.TB, path string) map[string]string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		for _, name := range []string{"auth", "authUsers", "authRoles"} {
			bucket := tx.Bucket([]byte(name))
			if bucket == nil {
				return fmt.Errorf("no bucket %s", name)
			}
			err := bucket.ForEach(func(key, row []byte) error {
				if name == "authUsers" {
					u := &authpb.User{}
					if err := proto.Unmarshal(row, u); err != nil {
						return err
					}
					row = bytes.ReplaceAll(row, u.Password, bytes.Repeat([]byte("*"), len(u.Password)))
				}
				rows[name+" "+string(key)] = string(row)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
