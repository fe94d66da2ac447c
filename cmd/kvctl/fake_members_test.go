package main

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// members are those of every fake: one with two peer URLs, a learner, and one
// that has not been started.
func (f *fake) members() []*pb.Member {
	return []*pb.Member{
		{ID: 0xa11ce, Name: "n1", PeerURLs: []string{"http://10.0.0.1:2380", "http://10.0.1.1:2380"}, ClientURLs: f.ends[:1]},
		{ID: 0xb0bb1e5deadbeef, Name: "zwei & \"drei\"", PeerURLs: []string{"http://10.0.0.2:2380"}, ClientURLs: f.ends[1:], IsLearner: true},
		{ID: 0xc, PeerURLs: []string{"http://10.0.0.3:2380"}},
	}
}

// refusals are why a change may be refused, by the first peer URL that it
// names or by the member.
var (
	refusals = map[string]error{
		"nonsense":          rpctypes.ErrGRPCMemberBadURLs,
		"http://taken:1":    rpctypes.ErrGRPCPeerURLExist,
		"http://again:1":    rpctypes.ErrGRPCMemberExist,
		"http://lonely:1":   rpctypes.ErrGRPCUnhealthy,
		"http://learners:1": rpctypes.ErrGRPCTooManyLearners,
		// under this code, by etcd and kvd alike
		"http://unstarted:1": status.Error(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"),
		"http://noleader:1":  rpctypes.ErrGRPCNoLeader,
		"http://nobody:1":    rpctypes.ErrGRPCUserEmpty,
	}
	refusedIDs = map[uint64]error{
		1: rpctypes.ErrGRPCMemberNotFound,
		2: rpctypes.ErrGRPCUnhealthy,
		3: rpctypes.ErrGRPCMemberNotLearner,
		4: rpctypes.ErrGRPCLearnerNotReady,
		5: status.Error(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"),
		6: rpctypes.ErrGRPCPermissionDenied,
	}
)

func (f *fake) MemberList(_ context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	f.ask("MemberList", r)
	return &pb.MemberListResponse{Header: f.header(0), Members: f.members()}, nil
}

func (f *fake) MemberAdd(_ context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	f.ask("MemberAdd", r)
	if err := refusals[r.PeerURLs[0]]; err != nil {
		return nil, err
	}
	m := &pb.Member{ID: 0xdeadbeefcafef00d, PeerURLs: r.PeerURLs, IsLearner: r.IsLearner}
	if r.PeerURLs[0] == "http://short:1" { // for the width of an identity
		m.ID = 0xd
	}
	return &pb.MemberAddResponse{Header: f.header(0), Member: m, Members: append(f.members(), m)}, nil
}

func (f *fake) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	f.ask("MemberRemove", r)
	if err := refusedIDs[r.ID]; err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(f.members(), func(m *pb.Member) bool { return m.ID == r.ID })
	return &pb.MemberRemoveResponse{Header: f.header(0), Members: rest}, nil
}

func (f *fake) MemberUpdate(_ context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	f.ask("MemberUpdate", r)
	if err := refusals[r.PeerURLs[0]]; err != nil {
		return nil, err
	}
	if err := refusedIDs[r.ID]; err != nil {
		return nil, err
	}
	members := f.members()
	for _, m := range members {
		if m.ID == r.ID {
			m.PeerURLs = r.PeerURLs
		}
	}
	return &pb.MemberUpdateResponse{Header: f.header(0), Members: members}, nil
}

func (f *fake) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	f.ask("MemberPromote", r)
	if err := refusedIDs[r.ID]; err != nil {
		return nil, err
	}
	members := f.members()
	for _, m := range members {
		m.IsLearner = m.IsLearner && m.ID != r.ID
	}
	return &pb.MemberPromoteResponse{Header: f.header(0), Members: members}, nil
}

func (f *fake) Downgrade(_ context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	f.ask("Downgrade", r)
	resp := &pb.DowngradeResponse{Header: f.header(0), Version: "3.7.0"}
	switch {
	case r.Action == pb.DowngradeRequest_CANCEL && f.name == "B":
		return nil, rpctypes.ErrGRPCNoInflightDowngrade
	case r.Action == pb.DowngradeRequest_CANCEL, r.Version == "3.6.0":
		return resp, nil
	case r.Version == "3.5.0":
		return nil, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	case r.Version == "3.6":
		return nil, rpctypes.ErrGRPCDowngradeInProcess
	case r.Version == "3.4":
		return nil, rpctypes.ErrGRPCClusterVersionUnavailable
	}
	return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
}
