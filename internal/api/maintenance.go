package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kvd/internal/member"
	"kvd/internal/state"
)

func (a *API) maintenanceService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Maintenance"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "Alarm", decoded[pb.AlarmRequest], a.alarm),
			unary(a, name, "Status", decoded[pb.StatusRequest], a.status),
			unary(a, name, "Defragment", decoded[pb.DefragmentRequest], a.defragment),
			unary(a, name, "Hash", decoded[pb.HashRequest], a.hash),
			unary(a, name, "HashKV", decoded[pb.HashKVRequest], a.hashKV),
			unary(a, name, "MoveLeader", decoded[pb.MoveLeaderRequest], a.moveLeader),
			unary(a, name, "Downgrade", decoded[pb.DowngradeRequest], a.downgrade),
		},
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "Snapshot", ServerStreams: true}, a.snapshot),
		},
		Metadata: "rpc.proto",
	}
}

// message is the header of replies that are encoded by package proto.
func (a *API) message(v *state.View) *pb.ResponseHeader {
	h := a.header(v)
	return &pb.ResponseHeader{ClusterId: h.Cluster, MemberId: h.Member, Revision: h.Revision, RaftTerm: h.Term}
}

func (a *API) alarm(ctx context.Context, r *pb.AlarmRequest, _ []byte) (any, error) {
	return a.propose(ctx, &state.Request{Alarm: r}, nil)
}

func (a *API) status(context.Context, *pb.StatusRequest, []byte) (any, error) {
	at, v := a.member.Status(), a.member.View()
	job := v.Members.Downgrade()
	self, _ := v.Members.Member(a.id)
	reply := &pb.StatusResponse{
		Header:           a.message(v),
		Version:          version.Version,
		DbSize:           a.store.Size(),
		Leader:           at.Leader,
		RaftIndex:        max(at.Commit, v.Applied), // the two are read one after the other
		RaftTerm:         v.Term,
		RaftAppliedIndex: v.Applied,
		DbSizeInUse:      a.store.InUse(),
		IsLearner:        self.Learner,
		StorageVersion:   storageVersion(v),
		DbSizeQuota:      a.o.QuotaBytes,
		DowngradeInfo:    &pb.DowngradeInfo{Enabled: job.Enabled, TargetVersion: job.Target},
	}
	if at.Leader == 0 {
		reply.Errors = append(reply.Errors, "etcdserver: no leader")
	}
	for _, alarm := range v.Alarms {
		reply.Errors = append(reply.Errors, (&pb.AlarmMember{MemberID: uint64(alarm.Member), Alarm: alarm.Type}).String())
	}
	return reply, nil
}

// storageVersion is the version of the rows' format, which follows the
// cluster's. Clusters before 3.6 wrote none.
func storageVersion(v *state.View) string {
	cluster := v.Members.ClusterVersion()
	if cluster.Compare(member.Version{Major: 3, Minor: 6}) < 0 {
		return ""
	}
	return cluster.Line().String()
}

func (a *API) defragment(ctx context.Context, _ *pb.DefragmentRequest, _ []byte) (any, error) {
	if err := a.Defragment(ctx); err != nil {
		return nil, err
	}
	return &pb.DefragmentResponse{}, nil
}

// Defragment defragments this member's database.
func (a *API) Defragment(ctx context.Context) error {
	if a.o.RefuseOnDefrag {
		a.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		defer a.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	}
	return a.member.Defragment(ctx)
}

// hash is of all rows on disk: so they must be there.
func (a *API) hash(ctx context.Context, _ *pb.HashRequest, _ []byte) (any, error) {
	began := time.Now()
	v := a.member.View()
	if err := a.member.Flush(ctx); err != nil {
		return nil, err
	}
	sum, err := a.store.Hash()
	if err != nil {
		return nil, err
	}
	a.metrics.hash.Observe(time.Since(began).Seconds())
	return &pb.HashResponse{Header: a.message(v), Hash: sum}, nil
}

func (a *API) hashKV(ctx context.Context, r *pb.HashKVRequest, _ []byte) (any, error) {
	type sum struct {
		hash          uint32
		compacted, at int64
	}
	began := time.Now()
	v, s, err := read(a, everybody, func(v *state.View) (s sum, err error) {
		if err := a.member.Flush(ctx); err != nil {
			return s, err
		}
		s.hash, s.compacted, s.at, err = v.Keys.HashKV(r.Revision)
		return s, err
	})
	if err != nil {
		return nil, err
	}
	a.metrics.hashKV.Observe(time.Since(began).Seconds())
	return &pb.HashKVResponse{Header: a.message(v), Hash: s.hash, CompactRevision: s.compacted, HashRevision: s.at}, nil
}

func (a *API) moveLeader(ctx context.Context, r *pb.MoveLeaderRequest, _ []byte) (any, error) {
	if a.member.Status().Leader != uint64(a.id) {
		return nil, errNotLeader
	}
	to, ok := a.member.View().Members.Member(member.ID(r.TargetID))
	if !ok || to.Learner {
		return nil, errBadTransferee
	}
	if to.ID != a.id {
		if err := a.member.Transfer(ctx, to.ID); err != nil {
			return nil, err
		}
	}
	return &pb.MoveLeaderResponse{}, nil
}

// downgrade starts, checks or ends the job of going back by one minor version.
func (a *API) downgrade(ctx context.Context, r *pb.DowngradeRequest, _ []byte) (any, error) {
	var err error
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE:
		_, err = a.checkDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_ENABLE:
		var target member.Version
		if target, err = a.checkDowngrade(ctx, r.Version); err == nil {
			err = a.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: target.String()})
		}
	case pb.DowngradeRequest_CANCEL:
		// Succeeds whether there is a job or not, as in etcd.
		if err := a.cancelDowngrade(ctx); err != nil {
			a.log.Warn("a downgrade is not cancelled", "error", err)
		}
	default:
		err = errUnknownMethod
	}
	if err != nil {
		return nil, err
	}
	v := a.member.View()
	cluster := v.Members.ClusterVersion()
	return &pb.DowngradeResponse{
		Header:  a.message(v),
		Version: fmt.Sprintf("%d.%d", cluster.Major, cluster.Minor),
	}, nil
}

func (a *API) checkDowngrade(ctx context.Context, text string) (target member.Version, err error) {
	if target, err = parseTarget(text); err != nil {
		return target, errVersionFormat
	}
	if !a.member.View().Members.ClusterVersion().Known() {
		return target, errVersionUnknown
	}
	if err := a.member.Barrier(ctx); err != nil {
		return target, err
	}
	members := a.member.View().Members
	cluster := members.ClusterVersion()
	switch {
	case target.Major != cluster.Major || target.Minor+1 != cluster.Minor:
		return target, errVersionTarget
	case members.Downgrade().Enabled:
		return target, errDowngradeRunning
	}
	return target, nil
}

// parseTarget reads the version to go back to. A patch and what follows it does
// not matter, but may be there.
func parseTarget(text string) (member.Version, error) {
	numbers, _, _ := strings.Cut(text, "+")
	numbers, _, _ = strings.Cut(numbers, "-")
	if numbers != text && strings.Count(numbers, ".") != 2 {
		return member.Version{}, errVersionFormat
	}
	v, err := member.ParseVersion(numbers)
	return v.Line(), err
}

func (a *API) cancelDowngrade(ctx context.Context) error {
	if err := a.member.Barrier(ctx); err != nil {
		return err
	}
	if !a.member.View().Members.Downgrade().Enabled {
		return errNoDowngradeWanted
	}
	return a.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{})
}

func (a *API) setDowngrade(ctx context.Context, r *membershippb.DowngradeInfoSetRequest) error {
	_, err := a.member.Propose(ctx, &state.Request{DowngradeInfoSet: r}, nil)
	return err
}
