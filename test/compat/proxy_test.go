package compat

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kvd/test/oracle"
)

// readers are the RPCs that change nothing: a read-only proxy passes these on and
// no other.
var readers = []string{
	"etcdserverpb.KV.Range", "etcdserverpb.KV.RangeStream", "etcdserverpb.KV.Txn", // of reads
	"etcdserverpb.Watch.Watch",
	"etcdserverpb.Lease.LeaseTimeToLive", "etcdserverpb.Lease.LeaseLeases",
	"etcdserverpb.Cluster.MemberList",
	"etcdserverpb.Maintenance.Alarm", // to list them
	"etcdserverpb.Maintenance.Status", "etcdserverpb.Maintenance.Hash", "etcdserverpb.Maintenance.HashKV", "etcdserverpb.Maintenance.Snapshot",
	"etcdserverpb.Auth.AuthStatus", "etcdserverpb.Auth.Authenticate", "etcdserverpb.Auth.UserGet", "etcdserverpb.Auth.UserList",
	"etcdserverpb.Auth.RoleGet", "etcdserverpb.Auth.RoleList",
	"v3electionpb.Election.Leader", "v3electionpb.Election.Observe",
	"grpc.health.v1.Health.Check", "grpc.health.v1.Health.List", "grpc.health.v1.Health.Watch",
}

// TestAReadOnlyProxyRefusesEveryRPCThatWrites walks all services and all paths
// of the gateway with empty messages.
func TestAReadOnlyProxyRefusesEveryRPCThatWrites(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	mustWrite(t, m, "k", "v")
	p := proxyBefore(t, m, oracle.Options{Name: "readonly", Proxy: "readonly"})
	conn := p.Dial()
	known := map[string]bool{}
	var calls sync.WaitGroup
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, electionFile(), lockFile(), grpc_health_v1.File_grpc_health_v1_health_proto} {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				method := file.Services().Get(i).Methods().Get(j)
				name := string(method.FullName())
				known[name] = true
				calls.Go(func() {
					err := callEmpty(conn, method)
					refused := status.Code(err) == codes.PermissionDenied && strings.Contains(err.Error(), "this proxy is read-only")
					if reads := slices.Contains(readers, name); refused == reads {
						t.Errorf("%s, which reads: %t: %v", name, reads, err)
					}
				})
			}
		}
	}
	for _, name := range readers {
		if !known[name] {
			t.Errorf("%s is no RPC any more", name)
		}
	}
	for _, path := range gatewayPaths(t) {
		calls.Go(func() { readOnlyPath(t, p, path) })
	}
	calls.Wait()
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
	_, err := pb.NewKVClient(conn).Txn(bounded(t), &pb.TxnRequest{Failure: []*pb.RequestOp{put}})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a transaction that writes: %v", err)
	}
	_, err = pb.NewMaintenanceClient(conn).Alarm(bounded(t), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("an alarm that is raised: %v", err)
	}
	serves(t, p, "k", "v")
	if r, err := pb.NewKVClient(conn).Range(bounded(t), &pb.RangeRequest{Key: []byte("k")}); err != nil || r.Header.Revision != 2 {
		t.Errorf("something was written: %v, %v", r, err)
	}
}

// readOnlyPath sends an empty request to one path of the gateway.
func readOnlyPath(t *testing.T, p *oracle.Member, path string) {
	reads := slices.ContainsFunc([]string{
		"range", "rangestream", "txn", "watch", "timetolive", "leases", "member/list", "alarm", "status", "hash", "hashkv", "snapshot",
		"user/get", "user/list", "role/get", "role/list", "authenticate", "leader", "observe",
	}, func(end string) bool { return strings.HasSuffix(path, "/"+end) })
	ctx, cancel := context.WithTimeout(t.Context(), servedWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.ClientURL+path, strings.NewReader("{}"))
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if !reads {
			t.Errorf("%s: %v", path, err)
		}
		return // it waits
	}
	defer resp.Body.Close()
	if refused := resp.StatusCode == http.StatusForbidden; refused == reads {
		t.Errorf("%s, which reads: %t: %s", path, reads, resp.Status)
	}
}

// TestEveryAnswerThroughAProxyIsEtcds plays a generated sequence on a proxy
// before etcd and on one before kvd.
func TestEveryAnswerThroughAProxyIsEtcds(t *testing.T) {
	for _, bin := range []oracle.Binary{oracle.Etcd(t), oracle.Kvd(t)} {
		t.Run("before "+bin.Name, func(t *testing.T) {
			t.Parallel()
			judged := bin
			judged.Through = oracle.Kvd(t).Path
			runSequence(t, oracle.Etcd(t), judged, uint64(time.Now().UnixNano())>>16, number(t, "KVD_COMPAT_OPS", opsOfASequence))
		})
	}
}

// TestAProxyServesClustersOfBothKinds lets etcd's client do all that it can do,
// while a member that serves is killed.
func TestAProxyServesClustersOfBothKinds(t *testing.T) {
	for _, bin := range []oracle.Binary{oracle.Etcd(t), oracle.Kvd(t)} {
		t.Run("of "+bin.Name, func(t *testing.T) {
			t.Parallel()
			c := oracle.StartCluster(t, []oracle.Binary{bin}, oracle.ClusterOptions{Size: 3})
			p := proxyBefore(t, c.Members[0], oracle.Options{Name: "proxy"})
			client := (&library{}).connect(t, p.ClientURL)
			useAll(t, client, "all up")
			c.Members[1].Kill()
			useAll(t, client, "one down")
			c.Members[1].Restart()
		})
	}
}

// useAll uses every service once and more.
func useAll(t *testing.T, client *clientv3.Client, prefix string) {
	t.Helper()
	ctx := bounded(t)
	fail := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s: %v", prefix, what, err)
		}
	}
	events := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-events; !r.Created {
		t.Fatalf("%s: the watch: %v", prefix, r)
	}
	var lease *clientv3.LeaseGrantResponse
	settled := settles(t, func() (err error) { lease, err = client.Grant(ctx, 60); return err })
	fail("grant", settled)
	_, err := client.Put(ctx, prefix+"/a", "1", clientv3.WithLease(lease.ID))
	fail("put", err)
	txn, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Value(prefix+"/a"), "=", "1")).Then(clientv3.OpPut(prefix+"/b", "2"), clientv3.OpGet(prefix+"/a")).Commit()
	fail("txn", err)
	if !txn.Succeeded {
		t.Errorf("%s: the transaction was refused", prefix)
	}
	get, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	fail("get", err)
	if len(get.Kvs) != 2 {
		t.Errorf("%s: got %v", prefix, get.Kvs)
	}
	if r, err := client.KeepAliveOnce(ctx, lease.ID); err != nil || r.TTL != 60 {
		t.Errorf("%s: keep-alive: %v, %v", prefix, r, err)
	}
	_, err = client.Revoke(ctx, lease.ID)
	fail("revoke", err)
	var seen []string
	for len(seen) < 3 {
		r, ok := <-events
		if !ok || r.Err() != nil {
			t.Fatalf("%s: the watch ended: %v", prefix, r.Err())
		}
		for _, e := range r.Events {
			seen = append(seen, fmt.Sprintf("%s %s", e.Type, e.Kv.Key))
		}
	}
	if want := []string{"PUT " + prefix + "/a", "PUT " + prefix + "/b", "DELETE " + prefix + "/a"}; !slices.Equal(seen, want) {
		t.Errorf("%s: saw %q, want %q", prefix, seen, want)
	}
	session, err := concurrency.NewSession(client)
	fail("session", err)
	lock := concurrency.NewMutex(session, prefix+"/lock")
	fail("lock", lock.Lock(ctx))
	fail("unlock", lock.Unlock(ctx))
	fail("end of the session", session.Close())
	members, err := client.MemberList(ctx)
	fail("member list", err)
	if len(members.Members) != 3 {
		t.Errorf("%s: members %v", prefix, members.Members)
	}
	snapshot, err := client.Snapshot(ctx)
	fail("snapshot", err)
	fail("end of the snapshot", snapshot.Close())
	fail("compact", func() error { _, err := client.Compact(ctx, txn.Header.Revision); return err }())
}

// TestAProxyOutlivesAllMembersThatItKnew replaces one member after the other
// while somebody writes and watches through a proxy.
func TestAProxyOutlivesAllMembersThatItKnew(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Kvd(t)}, oracle.ClusterOptions{Size: 3, Args: []string{"--strict-reconfig-check=false"}})
	first := slices.Clone(c.Members)
	p := proxyBefore(t, first[0], oracle.Options{Name: "proxy"})
	client := (&library{}).connect(t, p.ClientURL)
	events := client.Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	if r := <-events; !r.Created {
		t.Fatal(r)
	}
	var revisions []int64
	write := func() {
		t.Helper()
		if err := settles(t, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := client.Put(ctx, "k", "v")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, gone := range first {
		m := c.AddMember(oracle.Kvd(t), oracle.Options{})
		learned(t, p.DataDir, func(urls []string) bool { return slices.Contains(urls, m.PeerURL) })
		write()
		id := memberOf(t, client, gone.Name)
		if err := settles(t, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := client.MemberRemove(ctx, id)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		gone.Kill()
		learned(t, p.DataDir, func(urls []string) bool { return !slices.Contains(urls, gone.PeerURL) })
		write()
	}
	get, err := client.Get(bounded(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	for version := int64(0); version < get.Kvs[0].Version; {
		r, ok := <-events
		if !ok || r.Err() != nil {
			t.Fatalf("the watch ended: %v", r.Err())
		}
		for _, e := range r.Events {
			if version++; e.Kv.Version != version {
				t.Fatalf("version %d comes after %v", e.Kv.Version, revisions)
			}
			revisions = append(revisions, e.Kv.ModRevision)
		}
	}
	// What it was told to begin with is all gone; its file leads to the members.
	p.Stop()
	p.Restart()
	serves(t, p, "k", "v")
	write()
}

func memberOf(t *testing.T, client *clientv3.Client, name string) uint64 {
	t.Helper()
	list, err := client.MemberList(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("%s is none of %v", name, list.Members)
	return 0
}

// TestUsersShareNothingAtAProxy: who may not read is told nothing by the watch of
// one who may, nor is who may no longer.
func TestUsersShareNothingAtAProxy(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), oracle.Kvd(t)} {
		t.Run("before "+bin.Name, func(t *testing.T) {
			t.Parallel()
			m := oracle.Start(t, bin, oracle.Options{})
			p := proxyBefore(t, m, oracle.Options{Name: "proxy", Args: []string{"--proxy-endpoints", m.ClientURL}})
			usersShareNothing(t, p)
		})
	}
}

func usersShareNothing(t *testing.T, p *oracle.Member) {
	t.Helper()
	conn := p.Dial()
	auth, kv := pb.NewAuthClient(conn), pb.NewKVClient(conn)
	tokens := map[string]string{}
	as := func(user string) context.Context {
		return metadata.AppendToOutgoingContext(bounded(t), "token", tokens[user])
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := auth.RoleAdd(bounded(t), &pb.AuthRoleAddRequest{Name: "reader"})
	must(err)
	_, err = auth.RoleAdd(bounded(t), &pb.AuthRoleAddRequest{Name: "root"})
	must(err)
	_, err = auth.RoleGrantPermission(bounded(t), &pb.AuthRoleGrantPermissionRequest{Name: "reader", Perm: &authpb.Permission{Key: []byte("k")}})
	must(err)
	for user, role := range map[string]string{"root": "root", "alice": "reader", "bob": ""} {
		_, err := auth.UserAdd(bounded(t), &pb.AuthUserAddRequest{Name: user, Password: user})
		must(err)
		if role != "" {
			_, err = auth.UserGrantRole(bounded(t), &pb.AuthUserGrantRoleRequest{User: user, Role: role})
			must(err)
		}
	}
	_, err = auth.AuthEnable(bounded(t), &pb.AuthEnableRequest{})
	must(err)
	for _, user := range slices.Sorted(maps.Keys(map[string]bool{"root": true, "alice": true, "bob": true})) {
		r, err := auth.Authenticate(bounded(t), &pb.AuthenticateRequest{Name: user, Password: user})
		must(err)
		tokens[user] = r.Token
	}
	_, err = kv.Put(as("root"), &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	must(err)
	_, err = kv.Range(as("alice"), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	must(err)
	if r, err := kv.Range(as("bob"), &pb.RangeRequest{Key: []byte("k"), Serializable: true}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("bob reads %v, %v", r, err)
	}
	if r, err := kv.Range(bounded(t), &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err == nil {
		t.Errorf("nobody reads %v", r)
	}
	watch := func(user string) *pb.WatchResponse {
		t.Helper()
		s, err := pb.NewWatchClient(conn).Watch(as(user))
		must(err)
		must(s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}))
		r, err := s.Recv()
		must(err)
		return r
	}
	if r := watch("alice"); !r.Created || r.Canceled {
		t.Errorf("alice watches: %v", r)
	}
	if r := watch("bob"); !r.Canceled || !strings.Contains(r.CancelReason, "permission denied") {
		t.Errorf("bob watches: %v", r)
	}
	if r := watch("alice"); !r.Created || r.Canceled {
		t.Errorf("alice watches once more: %v", r)
	}
	_, err = auth.RoleRevokePermission(as("root"), &pb.AuthRoleRevokePermissionRequest{Role: "reader", Key: []byte("k")})
	must(err)
	if r := watch("alice"); !r.Canceled {
		t.Errorf("alice joins her old watch though she may no longer: %v", r)
	}
}
