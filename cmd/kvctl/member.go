package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) memberCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "member <subcommand>",
		Short:   "Shows and changes who is in the cluster",
		GroupID: groupCluster,
	}
	var consistency string
	list := &cobra.Command{
		Use:   "list",
		Short: "Lists the members of the cluster",
		Long: `Lists the members of the cluster; in the simple format as a line of
` + strings.Join(memberColumns, ", ") + ".\n",
		Run: p.does(func(cmd *cobra.Command, _ []string) error { return p.memberList(cmd, consistency) }),
	}
	list.Flags().StringVar(&consistency, "consistency", "l", "Linearizable(l) or Serializable(s)")
	group.AddCommand(list, p.memberAddCommand(), p.memberUpdateCommand(), p.memberRemoveCommand(), p.memberPromoteCommand())
	return group
}

func (p *program) memberList(cmd *cobra.Command, consistency string) error {
	var opts []clientv3.OpOption
	if serializable, err := serializable(consistency); err != nil {
		return err
	} else if serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	s, c, err := p.open(cmd, membersAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.MemberList(ctx, opts...)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(membersAnswer{(*pb.MemberListResponse)(resp)})
}

var memberColumns = []string{"ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"}

type membersAnswer struct{ *pb.MemberListResponse }

func (a membersAnswer) simple(g *page) { g.rows(a.table()) }

func (a membersAnswer) table() (header []string, rows [][]string) {
	for _, m := range a.GetMembers() {
		status := "started"
		if m.GetName() == "" {
			status = "unstarted"
		}
		rows = append(rows, []string{
			fmt.Sprintf("%x", m.GetID()),
			status,
			m.GetName(),
			strings.Join(m.GetPeerURLs(), ","),
			strings.Join(m.GetClientURLs(), ","),
			strconv.FormatBool(m.GetIsLearner()),
		})
	}
	return memberColumns, rows
}

func (a membersAnswer) fields(g *page) {
	g.header(a.GetHeader())
	for _, m := range a.GetMembers() {
		g.id("ID", m.GetID())
		g.linef(`"Name" : %q`, m.GetName())
		for _, u := range m.GetPeerURLs() {
			g.linef(`"PeerURL" : %q`, u)
		}
		for _, u := range m.GetClientURLs() {
			g.linef(`"ClientURL" : %q`, u)
		}
		g.line(`"IsLearner" :`, m.GetIsLearner())
		g.line()
	}
}

func (a membersAnswer) message() proto.Message { return a.MemberListResponse }

func (a membersAnswer) json(hex bool) any {
	if !hex {
		return a.MemberListResponse
	}
	return hexMemberList{newHexHeader(a.GetHeader()), newHexMembers(a.GetMembers())}
}

// With --hex, JSON about members has the identities as hexadecimal strings:
// most readers of JSON would round such numbers.
type (
	hexMemberList struct {
		Header  *hexHeader   `json:"header"`
		Members []*hexMember `json:"members"`
	}
	hexHeader struct {
		ClusterID string `json:"cluster_id"`
		MemberID  string `json:"member_id"`
		Revision  int64  `json:"revision,omitempty"`
		RaftTerm  uint64 `json:"raft_term,omitempty"`
	}
	hexMember struct {
		ID         string   `json:"ID"`
		Name       string   `json:"name,omitempty"`
		PeerURLs   []string `json:"peerURLs,omitempty"`
		ClientURLs []string `json:"clientURLs,omitempty"`
		IsLearner  bool     `json:"isLearner,omitempty"`
	}
)

func newHexHeader(h *pb.ResponseHeader) *hexHeader {
	return &hexHeader{fmt.Sprintf("%x", h.GetClusterId()), fmt.Sprintf("%x", h.GetMemberId()), h.GetRevision(), h.GetRaftTerm()}
}

func newHexMember(m *pb.Member) *hexMember {
	return &hexMember{fmt.Sprintf("%x", m.GetID()), m.GetName(), m.GetPeerURLs(), m.GetClientURLs(), m.GetIsLearner()}
}

func newHexMembers(members []*pb.Member) []*hexMember {
	all := make([]*hexMember, 0, len(members))
	for _, m := range members {
		all = append(all, newHexMember(m))
	}
	return all
}
