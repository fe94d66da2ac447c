package mixed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

// guarded is a cluster of both kinds that asks who calls.
type guarded struct {
	t       *testing.T
	cluster *oracle.Cluster
	conns   []*grpc.ClientConn
	tokens  map[string]string
}

func newGuarded(t *testing.T, kinds string) *guarded {
	t.Helper()
	c := oracle.StartCluster(t, seats(t, kinds), oracle.ClusterOptions{Args: []string{"--bcrypt-cost=4"}})
	g := &guarded{t: t, cluster: c, tokens: map[string]string{}}
	for _, m := range c.Members {
		g.conns = append(g.conns, m.Dial())
	}
	return g
}

// call makes a call through a member in the name of a user; nobody is "".
func (g *guarded) call(at int, who, method string, request, reply any) error {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	if who != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", g.tokens[who])
	}
	return g.conns[at].Invoke(ctx, "/etcdserverpb."+method, request, reply)
}

func (g *guarded) must(at int, who, method string, request, reply any) {
	g.t.Helper()
	if err := g.call(at, who, method, request, reply); err != nil {
		g.t.Fatalf("%s as %q at member %d: %v", method, who, at, err)
	}
}

func (g *guarded) logIn(at int, who string) {
	g.t.Helper()
	got := &pb.AuthenticateResponse{}
	g.must(at, "", "Auth/Authenticate", &pb.AuthenticateRequest{Name: who, Password: who + "pw"}, got)
	g.tokens[who] = got.Token
}

func (g *guarded) grant(at int, who, role string, kind authpb.Permission_Type, key, end string) {
	g.t.Helper()
	g.must(at, who, "Auth/RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{
		Name: role, Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)},
	}, &pb.AuthRoleGrantPermissionResponse{})
}

// enforce makes the users through members of either kind.
func (g *guarded) enforce() {
	for i, name := range []string{"root", "ann", "bob"} {
		g.must(i, "", "Auth/UserAdd", &pb.AuthUserAddRequest{Name: name, Password: name + "pw"}, &pb.AuthUserAddResponse{})
	}
	for i, name := range []string{"one", "two"} {
		g.must(i, "", "Auth/RoleAdd", &pb.AuthRoleAddRequest{Name: name}, &pb.AuthRoleAddResponse{})
	}
	g.grant(0, "", "one", authpb.READWRITE, "a", "c")
	g.grant(1, "", "one", authpb.READ, "e", "")
	g.grant(2, "", "two", authpb.WRITE, "e", "\x00")
	for i, to := range [][2]string{{"root", "root"}, {"ann", "two"}, {"ann", "one"}} {
		g.must(i, "", "Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{User: to[0], Role: to[1]}, &pb.AuthUserGrantRoleResponse{})
	}
	g.must(1, "", "Auth/AuthEnable", &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{})
}

// Whatever is allowed and denied, by whom and through which member, leaves the
// same keys, users and roles on members of both kinds.
func TestUsersAndPermissionsAreOneToBothKinds(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "ekk")
	g.enforce()
	for at := range g.conns { // each member's tokens are good at all of them
		for _, who := range []string{"root", "ann", "bob"} {
			g.logIn(at, who)
		}
		for other := range g.conns {
			g.must(other, "root", "KV/Put", &pb.PutRequest{Key: []byte("z")}, &pb.PutResponse{})
			g.must(other, "ann", "KV/Put", &pb.PutRequest{Key: []byte("a")}, &pb.PutResponse{})
			if err := g.call(other, "bob", "KV/Put", &pb.PutRequest{Key: []byte("a")}, &pb.PutResponse{}); status.Code(err) != codes.PermissionDenied {
				t.Errorf("bob at member %d: %v", other, err)
			}
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for round := range 6 {
		g.leadBy(round % len(g.conns))
		allowed := 0
		for range 60 {
			if g.something(random) == nil {
				allowed++
			}
		}
		if allowed == 0 || allowed == 60 {
			t.Errorf("%d of 60 were allowed", allowed)
		}
	}
	g.leasesEnd()
	g.must(1, "root", "Auth/AuthDisable", &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{})
	agree(t, g.cluster)
	g.sameRows()
}

func (g *guarded) leadBy(to int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("member %d leads", to), func(context.Context) error {
		at := make([]*pb.StatusResponse, len(g.conns))
		for i := range g.conns {
			at[i] = &pb.StatusResponse{}
			if err := g.call(i, "root", "Maintenance/Status", &pb.StatusRequest{}, at[i]); err != nil {
				return err
			}
		}
		want := at[to].Header.MemberId
		if at[to].Leader == want {
			return nil
		}
		for i := range at {
			if at[i].Header.MemberId == at[i].Leader {
				return g.call(i, "root", "Maintenance/MoveLeader", &pb.MoveLeaderRequest{TargetID: want}, &pb.MoveLeaderResponse{})
			}
		}
		return errors.New("nobody leads")
	})
}

// something is done by somebody somewhere: a write, or a change of permissions.
func (g *guarded) something(random *rand.Rand) error {
	at, who := random.IntN(len(g.conns)), []string{"ann", "ann", "ann", "root", "bob", ""}[random.IntN(6)]
	key := func() []byte { return []byte{byte('a' + random.IntN(8))} }
	end := func() []byte { return []byte([]string{"", "", "c", "e", "g", "\x00", "a", "b"}[random.IntN(8)]) }
	switch random.IntN(8) {
	case 0:
		kind := authpb.Permission_Type(random.IntN(3))
		k, e := key(), end()
		return g.call(at, "root", "Auth/RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{
			Name: []string{"one", "two"}[random.IntN(2)], Perm: &authpb.Permission{PermType: kind, Key: k, RangeEnd: e},
		}, &pb.AuthRoleGrantPermissionResponse{})
	case 1:
		return g.call(at, "root", "Auth/RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{
			Role: []string{"one", "two"}[random.IntN(2)], Key: key(), RangeEnd: end(),
		}, &pb.AuthRoleRevokePermissionResponse{})
	case 2:
		return g.call(at, who, "KV/DeleteRange", &pb.DeleteRangeRequest{Key: key(), RangeEnd: end(), PrevKv: random.IntN(2) == 0}, &pb.DeleteRangeResponse{})
	case 3, 4:
		// Whether the put is done depends on a range that may have no key in it.
		return g.call(at, who, "KV/Txn", &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key(), RangeEnd: end(), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key(), Value: []byte("s")}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key(), RangeEnd: end()}}}},
		}, &pb.TxnResponse{})
	default:
		return g.call(at, who, "KV/Put", &pb.PutRequest{Key: key(), Value: key(), PrevKv: random.IntN(2) == 0}, &pb.PutResponse{})
	}
}

// leasesEnd sees keys go with their lease, whichever kind leads.
func (g *guarded) leasesEnd() {
	g.t.Helper()
	for to := range g.conns[:2] {
		g.leadBy(to)
		got := &pb.LeaseGrantResponse{}
		g.must(1, "root", "Lease/LeaseGrant", &pb.LeaseGrantRequest{TTL: 1}, got)
		g.must(2, "root", "KV/Put", &pb.PutRequest{Key: []byte("leased"), Lease: got.ID}, &pb.PutResponse{})
		eventually(g.t, fmt.Sprintf("the lease ends while member %d leads", to), func(context.Context) error {
			r := &pb.RangeResponse{}
			if err := g.call(0, "root", "KV/Range", &pb.RangeRequest{Key: []byte("leased")}, r); err != nil {
				return err
			}
			if r.Count > 0 {
				time.Sleep(100 * time.Millisecond)
				return errors.New("the key is there")
			}
			return nil
		})
	}
}

// sameRows compares what the members have on disk of users and roles, byte for
// byte.
func (g *guarded) sameRows() {
	g.t.Helper()
	var all []map[string]string
	for _, m := range g.cluster.Members {
		m.Stop()
		all = append(all, authRows(g.t, filepath.Join(m.DataDir, "member", "snap", "db")))
	}
	for i, rows := range all[1:] {
		if !maps.Equal(rows, all[0]) {
			g.t.Errorf("member %d has %q\nmember 0 has %q", i+1, rows, all[0])
		}
	}
	if len(all[0]) < 7 {
		g.t.Errorf("there are only the rows %q", slices.Sorted(maps.Keys(all[0])))
	}
}

func authRows(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		for _, name := range []string{"auth", "authUsers", "authRoles"} {
			err := tx.Bucket([]byte(name)).ForEach(func(key, row []byte) error {
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

// A cluster of etcd with users becomes one of kvd, member by member on its data,
// and goes back.
func TestDataWithUsersChangesItsKindAndBack(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "eee")
	g.enforce()
	for _, kinds := range []string{"kkk", "eek"} {
		for i, m := range g.cluster.Members {
			m.Stop()
			m.Binary = kind(t, rune(kinds[i]))
			m.Restart()
			g.conns[i] = m.Dial()
		}
		for at := range g.conns {
			for _, who := range []string{"root", "ann"} {
				g.logIn(at, who)
			}
			g.must(at, "root", "KV/Put", &pb.PutRequest{Key: []byte("z")}, &pb.PutResponse{})
			g.must(at, "ann", "KV/Put", &pb.PutRequest{Key: []byte("a")}, &pb.PutResponse{})
			if err := g.call(at, "ann", "KV/Range", &pb.RangeRequest{Key: []byte("z")}, &pb.RangeResponse{}); status.Code(err) != codes.PermissionDenied {
				t.Errorf("ann at member %d: %v", at, err)
			}
			if err := g.call(at, "", "KV/Range", &pb.RangeRequest{Key: []byte("a")}, &pb.RangeResponse{}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("nobody at member %d: %v", at, err)
			}
		}
	}
	g.must(0, "root", "Auth/AuthDisable", &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{})
	agree(t, g.cluster)
	g.sameRows()
}
