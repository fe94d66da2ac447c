package api

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
)

func TestALeaseFromGrantToRevoke(t *testing.T) {
	conn := serve(t, newSolo(t), Options{})
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	chosen := must(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 100}))(t)
	if chosen.ID <= 0 || chosen.TTL != 100 || chosen.Header.Revision != 1 {
		t.Errorf("grant answers %v", chosen)
	}
	given := must(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: -7, TTL: -5}))(t)
	if given.ID != -7 || given.TTL != 2 {
		t.Errorf("grant answers %v", given)
	}
	_, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: -7, TTL: 5})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: lease already exists")
	_, err = leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 9_000_000_001})
	refuses(t, err, codes.OutOfRange, "etcdserver: too large lease TTL")
	for _, key := range []string{"b", "a"} {
		must(kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Lease: chosen.ID}))(t)
	}
	left := must(leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: chosen.ID, Keys: true}))(t)
	if left.GrantedTTL != 100 || left.TTL < 90 || left.TTL > 99 || len(left.Keys) != 2 || left.Header.Revision != 3 {
		t.Errorf("time to live answers %v", left)
	}
	none := must(leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 99}))(t)
	if none.ID != 99 || none.TTL != -1 || none.GrantedTTL != 0 {
		t.Errorf("time to live of no lease answers %v", none)
	}
	if all := must(leases.LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{}))(t); len(all.Leases) != 2 {
		t.Errorf("leases are %v", all)
	}
	alive := must(leases.LeaseKeepAlive(t.Context()))(t)
	for id, ttl := range map[int64]int64{chosen.ID: 100, -7: 2, 99: 0} {
		if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		if m := must(alive.Recv())(t); m.ID != id || m.TTL != ttl || m.Header.Revision != 3 {
			t.Errorf("keep alive of %d answers %v", id, m)
		}
	}
	if err := alive.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := alive.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a stream of renewals ends with %v", err)
	}
	revoked := must(leases.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: chosen.ID}))(t)
	if revoked.Header.Revision != 4 {
		t.Errorf("revoke answers %v", revoked)
	}
	_, err = leases.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: chosen.ID})
	refuses(t, err, codes.NotFound, "etcdserver: requested lease not found")
	if got := must(kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c")}))(t); got.Count != 0 {
		t.Errorf("keys are left: %v", got)
	}
}

func TestLeasesThatAMemberNamesAscend(t *testing.T) {
	leases := pb.NewLeaseClient(serve(t, newSolo(t), Options{}))
	last := int64(0)
	for range 300 { // more than one byte of the counter
		granted := must(leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 100}))(t)
		if granted.ID <= last {
			t.Fatalf("lease %x is granted after %x", granted.ID, last)
		}
		last = granted.ID
	}
}

func TestStatusTellsWhatKubernetesReads(t *testing.T) {
	s := newSolo(t)
	maintenance := pb.NewMaintenanceClient(serve(t, s, Options{}))
	got := must(maintenance.Status(t.Context(), &pb.StatusRequest{}))(t)
	want := &pb.StatusResponse{
		Header:  &pb.ResponseHeader{ClusterId: 0xc1, MemberId: soloID, Revision: 1, RaftTerm: 2},
		Version: "3.7.3", DbSize: s.file.Size(), DbSizeInUse: s.file.InUse(), Leader: soloID,
		RaftIndex: 2, RaftAppliedIndex: 2, RaftTerm: 2,
		StorageVersion: "3.7.0", DbSizeQuota: 2 << 30, DowngradeInfo: &pb.DowngradeInfo{},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	s.leader.Store(0)
	must(maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 77, Alarm: pb.AlarmType_NOSPACE}))(t)
	got = must(maintenance.Status(t.Context(), &pb.StatusRequest{}))(t)
	if len(got.Errors) != 2 || got.Errors[0] != "etcdserver: no leader" || strings.Join(strings.Fields(got.Errors[1]), " ") != "memberID:77 alarm:NOSPACE" {
		t.Errorf("errors are %q", got.Errors)
	}
}

func TestASnapshotIsTheDatabase(t *testing.T) {
	s := newSolo(t)
	conn := serve(t, s, Options{})
	kv := pb.NewKVClient(conn)
	for _, key := range []string{"a", "b"} {
		put(t, kv, key, strings.Repeat("v", 50_000))
	}
	stream := must(pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{}))(t)
	var blobs [][]byte
	var whole bytes.Buffer
	var remaining []uint64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Header != nil {
			t.Errorf("a message has header %v", m.Header)
		}
		blobs = append(blobs, m.Blob)
		remaining = append(remaining, m.RemainingBytes)
	}
	last := len(blobs) - 1
	for i, b := range blobs[:last] {
		whole.Write(b)
		if len(b) != blobBytes && i != last-1 || remaining[i] != uint64(s.file.Size())-uint64(whole.Len()) {
			t.Errorf("message %d of %d has %d bytes, %d remain", i, last, len(b), remaining[i])
		}
	}
	if sum := sha256.Sum256(whole.Bytes()); !bytes.Equal(blobs[last], sum[:]) || remaining[last] != 0 {
		t.Error("the last message is not the sum")
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, whole.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	db := must(bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true}))(t)
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		if n := tx.Bucket([]byte("key")).Stats().KeyN; n != 2 {
			t.Errorf("the image has %d rows of keys, want 2", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestHashKVIsOfWhatWasWritten(t *testing.T) {
	conn := serve(t, newSolo(t), Options{})
	kv, maintenance := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	hash := func(rev int64) *pb.HashKVResponse {
		t.Helper()
		return must(maintenance.HashKV(t.Context(), &pb.HashKVRequest{Revision: rev}))(t)
	}
	// The example of etcd's own figures.
	if h := hash(0); h.Hash != 1084519789 || h.CompactRevision != -1 || h.HashRevision != 1 {
		t.Errorf("empty: %v", h)
	}
	put(t, kv, "foo", "bar")
	put(t, kv, "foo", "baz")
	put(t, kv, "hello", "world")
	must(kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("foo")}))(t)
	put(t, kv, "x", "")
	put(t, kv, "foo", "again")
	for rev, want := range map[int64]uint32{3: 2020292994, 5: 3567760499, 0: 3514194586} {
		if h := hash(rev); h.Hash != want || h.Header.Revision != 7 {
			t.Errorf("at %d: %v, want %d", rev, h, want)
		}
	}
	_, err := maintenance.HashKV(t.Context(), &pb.HashKVRequest{Revision: 8})
	refuses(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	first := must(maintenance.Hash(t.Context(), &pb.HashRequest{}))(t)
	must(maintenance.Defragment(t.Context(), &pb.DefragmentRequest{}))(t)
	if again := must(maintenance.Hash(t.Context(), &pb.HashRequest{}))(t); again.Hash != first.Hash || first.Hash == 0 || again.Header.Revision != 7 {
		t.Errorf("hash %v, after a defragmentation %v", first, again)
	}
}

func TestLeadershipAndDowngrades(t *testing.T) {
	s := newSolo(t)
	maintenance := pb.NewMaintenanceClient(serve(t, s, Options{}))
	if m := must(maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: soloID}))(t); m.Header != nil {
		t.Errorf("to itself: %v", m)
	}
	_, err := maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: 5})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: bad leader transferee")
	s.add(member.Member{ID: idOf("l"), Learner: true})
	_, err = maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: uint64(idOf("l"))})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: bad leader transferee")
	s.join("a")
	_, err = maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: uint64(idOf("a"))})
	refuses(t, err, codes.Unknown, "etcdserver: request timed out, leader transfer took too long")
	s.leader.Store(5)
	_, err = maintenance.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: 5})
	refuses(t, err, codes.FailedPrecondition, "etcdserver: not leader")

	down := func(action pb.DowngradeRequest_DowngradeAction, version string) (*pb.DowngradeResponse, error) {
		return maintenance.Downgrade(t.Context(), &pb.DowngradeRequest{Action: action, Version: version})
	}
	_, err = down(9, "")
	refuses(t, err, codes.Unknown, "etcdserver: unknown method")
	_, err = down(pb.DowngradeRequest_VALIDATE, "x")
	refuses(t, err, codes.InvalidArgument, "etcdserver: wrong downgrade target version format")
	_, err = down(pb.DowngradeRequest_ENABLE, "3.5")
	refuses(t, err, codes.InvalidArgument, "etcdserver: invalid downgrade target version")
	must(down(pb.DowngradeRequest_CANCEL, ""))(t)
	for _, target := range []string{"3.6.9", "3.6", "3.6.0-rc.1", "3.6.0+fips"} {
		if m := must(down(pb.DowngradeRequest_VALIDATE, target))(t); m.Version != "3.7" {
			t.Errorf("validate %s answers %v", target, m)
		}
	}
	_, err = down(pb.DowngradeRequest_VALIDATE, "3.6-rc")
	refuses(t, err, codes.InvalidArgument, "etcdserver: wrong downgrade target version format")
	must(down(pb.DowngradeRequest_ENABLE, "3.6"))(t)
	status := must(maintenance.Status(t.Context(), &pb.StatusRequest{}))(t)
	if !status.DowngradeInfo.Enabled || status.DowngradeInfo.TargetVersion != "3.6.0" {
		t.Errorf("the job is %v", status.DowngradeInfo)
	}
	_, err = down(pb.DowngradeRequest_ENABLE, "3.6")
	refuses(t, err, codes.FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
	must(down(pb.DowngradeRequest_CANCEL, ""))(t)
	if m := must(maintenance.Status(t.Context(), &pb.StatusRequest{}))(t); m.DowngradeInfo.Enabled {
		t.Errorf("the job is %v", m.DowngradeInfo)
	}
}

func TestNothingIsGoneBackFromWithoutAClusterVersion(t *testing.T) {
	maintenance := pb.NewMaintenanceClient(serve(t, newStranger(t), Options{}))
	for _, action := range []pb.DowngradeRequest_DowngradeAction{pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE} {
		_, err := maintenance.Downgrade(t.Context(), &pb.DowngradeRequest{Action: action, Version: "3.6"})
		refuses(t, err, codes.FailedPrecondition, "etcdserver: cluster version not found during downgrade")
	}
	must(maintenance.Downgrade(t.Context(), &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}))(t)
}

func TestMembersHealthAndWhatIsNotServed(t *testing.T) {
	conn := serve(t, newSolo(t), Options{})
	list := must(pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true}))(t)
	want := &pb.Member{ID: soloID, Name: "solo", PeerURLs: []string{"http://127.0.0.1:1"}, ClientURLs: []string{"http://127.0.0.1:2"}}
	if list.Header.Revision != 0 || list.Header.MemberId != soloID || len(list.Members) != 1 || !proto.Equal(list.Members[0], want) {
		t.Errorf("members are %v", list)
	}
	check := must(healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}))(t)
	if check.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %v", check)
	}
	watch := must(healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{}))(t)
	if m := must(watch.Recv())(t); m.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %v", m)
	}
	_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "x"})
	refuses(t, err, codes.NotFound, "unknown service")
	err = conn.Invoke(t.Context(), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &pb.StatusRequest{}, &pb.StatusResponse{})
	refuses(t, err, codes.Unimplemented, "unknown service grpc.reflection.v1.ServerReflection")
}
