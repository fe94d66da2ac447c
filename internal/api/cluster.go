package api

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"kvd/internal/member"
	"kvd/internal/state"
)

func (a *API) clusterService() *grpc.ServiceDesc {
	const name = "etcdserverpb.Cluster"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "MemberList", decoded[pb.MemberListRequest], a.memberList),
			unary(a, name, "MemberAdd", decoded[pb.MemberAddRequest], a.memberAdd, checkMemberAdd),
			unary(a, name, "MemberRemove", decoded[pb.MemberRemoveRequest], a.memberRemove),
			unary(a, name, "MemberUpdate", decoded[pb.MemberUpdateRequest], a.memberUpdate),
			unary(a, name, "MemberPromote", decoded[pb.MemberPromoteRequest], a.memberPromote),
		},
		Metadata: "rpc.proto",
	}
}

// clusterHeader is the header of all Cluster calls: without a revision.
func (a *API) clusterHeader(v *state.View) *pb.ResponseHeader {
	h := a.message(v)
	h.Revision = 0
	return h
}

func (a *API) memberList(ctx context.Context, r *pb.MemberListRequest, _ []byte) (any, error) {
	if r.Linearizable {
		if err := a.member.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	v := a.member.View()
	return &pb.MemberListResponse{Header: a.clusterHeader(v), Members: messages(v.Members.Members())}, nil
}

func checkMemberAdd(r *pb.MemberAddRequest) error {
	if _, err := parsePeerURLs(r.PeerURLs); err != nil {
		return errBadURLs
	}
	return nil
}

func (a *API) memberAdd(ctx context.Context, r *pb.MemberAddRequest, _ []byte) (any, error) {
	urls, err := parsePeerURLs(r.PeerURLs)
	if err != nil {
		return nil, errBadURLs
	}
	slices.Sort(urls)
	m := member.Member{ID: member.AddedID(urls, time.Now()), PeerURLs: urls, Learner: r.IsLearner}
	if a.o.Strict {
		if err := a.member.View().Members.MayAdd(m.Learner, a.sight()); err != nil {
			return nil, a.reject(err)
		}
	}
	c := member.Change{Type: raftpb.ConfChangeAddNode, ID: m.ID, Member: m}
	if m.Learner {
		c.Type = raftpb.ConfChangeAddLearnerNode
	}
	v, err := a.change(ctx, c)
	if err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{
		Header:  a.clusterHeader(v),
		Member:  &pb.Member{ID: uint64(m.ID), PeerURLs: m.PeerURLs, IsLearner: m.Learner},
		Members: messages(v.Members.Members()),
	}, nil
}

func (a *API) memberRemove(ctx context.Context, r *pb.MemberRemoveRequest, _ []byte) (any, error) {
	id := member.ID(r.ID)
	if a.o.Strict {
		if err := a.member.View().Members.MayRemove(id, a.sight()); err != nil {
			return nil, a.reject(err)
		}
	}
	v, err := a.change(ctx, member.Change{Type: raftpb.ConfChangeRemoveNode, ID: id})
	if err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: a.clusterHeader(v), Members: messages(v.Members.Members())}, nil
}

// memberUpdate takes no URLs that cannot be any. Etcd takes them, and its other
// members end as soon as they read them.
func (a *API) memberUpdate(ctx context.Context, r *pb.MemberUpdateRequest, _ []byte) (any, error) {
	urls, err := parsePeerURLs(r.PeerURLs)
	if err != nil {
		return nil, errBadURLs
	}
	id := member.ID(r.ID)
	v, err := a.change(ctx, member.Change{
		Type: raftpb.ConfChangeUpdateNode, ID: id, Member: member.Member{ID: id, PeerURLs: urls},
	})
	if err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: a.clusterHeader(v), Members: messages(v.Members.Members())}, nil
}

// change makes a change of members and returns a view that shows it.
func (a *API) change(ctx context.Context, c member.Change) (*state.View, error) {
	if err := a.member.Change(ctx, c); err != nil {
		return nil, err
	}
	a.log.Info("the members have changed", "change", c.Type.String(), "member", c.ID.String())
	return a.member.View(), nil
}

// reject logs why a change is not even proposed: the client hears only the kind
// of reason.
func (a *API) reject(err error) error {
	a.log.Warn("a change of members is refused", "error", err)
	return err
}

// sight is what this member sees of the others now.
func (a *API) sight() member.Sight {
	return member.Sight{Self: a.id, Now: time.Now(), ActiveSince: a.peers.ActiveSince}
}

func messages(members []member.Member) (out []*pb.Member) {
	for _, m := range members {
		out = append(out, &pb.Member{
			ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner,
		})
	}
	return out
}

// parsePeerURLs returns the URLs of a member as etcd would write them, in the
// order given. There must be one.
func parsePeerURLs(texts []string) ([]string, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("peer URLs: none")
	}
	urls := make([]string, len(texts))
	for i, text := range texts {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("peer URL: %w", err)
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf("peer URL %q: %w", text, err)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("peer URL %q: it has a path", text)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("peer URL %q: want http, https, unix or unixs", text)
		}
		urls[i] = u.String()
	}
	return urls, nil
}
