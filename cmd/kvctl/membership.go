package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) memberAddCommand() *cobra.Command {
	var peerURLs string
	var learner bool
	cmd := &cobra.Command{
		Use:   "add <name>",
		Short: "Adds a member, which is to be started then",
		Long: `Adds a member to the cluster; in the simple format with the variables that the
new member is to be started with. kvd reads them under KVD_ in place of ETCD_.
`,
		Run: p.does(func(cmd *cobra.Command, args []string) error { return p.memberAdd(cmd, args, peerURLs, learner) }),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "URLs at which the other members reach the new one, comma-separated")
	cmd.Flags().BoolVar(&learner, "learner", false, "add it without a vote; \"member promote\" gives it one once it has caught up")
	return cmd
}

func (p *program) memberAdd(cmd *cobra.Command, args []string, peerURLs string, learner bool) error {
	switch {
	case len(args) < 1:
		return failf(exitBadArgs, "member name not provided")
	case len(args) > 1:
		text := "too many arguments"
		for _, arg := range args {
			if strings.HasPrefix(strings.ToLower(arg), "http") {
				text += ", did you mean --peer-urls=" + arg
			}
		}
		return fail(exitBadArgs, errors.New(text))
	case peerURLs == "":
		return failf(exitBadArgs, "member peer urls not provided")
	}
	return p.changeMembers(cmd, nil, memberAdded{}, func(ctx context.Context, c *clientv3.Client, _ uint64) (answer, error) {
		add := c.MemberAdd
		if learner {
			add = c.MemberAddAsLearner
		}
		resp, err := add(ctx, strings.Split(peerURLs, ","))
		return memberAdded{(*pb.MemberAddResponse)(resp), args[0], peerURLs}, err
	})
}

func (p *program) memberUpdateCommand() *cobra.Command {
	var peerURLs string
	cmd := &cobra.Command{
		Use:   "update <id or name>",
		Short: "Tells the cluster a member's new peer URLs",
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errNoMember()
			}
			if peerURLs == "" {
				return failf(exitBadArgs, "member peer urls not provided")
			}
			return p.changeMembers(cmd, args, memberChanged{}, func(ctx context.Context, c *clientv3.Client, id uint64) (answer, error) {
				resp, err := c.MemberUpdate(ctx, id, strings.Split(peerURLs, ","))
				return memberChanged{(*pb.MemberUpdateResponse)(resp), id, "updated in"}, err
			})
		}),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "URLs at which the other members reach it from now on, comma-separated")
	return cmd
}

func (p *program) memberRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove <id or name>",
		Short: "Takes a member out of the cluster, for good",
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errNoMember()
			}
			return p.changeMembers(cmd, args, memberChanged{}, func(ctx context.Context, c *clientv3.Client, id uint64) (answer, error) {
				resp, err := c.MemberRemove(ctx, id)
				return memberChanged{(*pb.MemberRemoveResponse)(resp), id, "removed from"}, err
			})
		}),
	}
}

func (p *program) memberPromoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "promote <id or name>",
		Short: "Gives a learner its vote",
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errNoMember()
			}
			return p.changeMembers(cmd, args, memberChanged{}, func(ctx context.Context, c *clientv3.Client, id uint64) (answer, error) {
				resp, err := c.MemberPromote(ctx, id)
				return memberChanged{(*pb.MemberPromoteResponse)(resp), id, "promoted in"}, err
			})
		}),
	}
}

func errNoMember() error { return failf(exitBadArgs, "member ID is not provided") }

// memberID is the identity of the member that word names: by its identity in
// hexadecimal, or else by its name.
func memberID(ctx context.Context, c *clientv3.Client, word string) (uint64, error) {
	id, err := strconv.ParseUint(word, 16, 64)
	if err == nil {
		return id, nil
	}
	if list, listErr := c.MemberList(ctx); listErr == nil {
		var named []uint64
		for _, m := range list.Members {
			if m.GetName() == word && word != "" {
				named = append(named, m.GetID())
			}
		}
		if len(named) == 1 {
			return named[0], nil
		}
	}
	return 0, err
}

// changeMembers asks for one change, of the member that the word in which names,
// if there is one; kind is what it will print.
func (p *program) changeMembers(cmd *cobra.Command, which []string, kind answer, change func(context.Context, *clientv3.Client, uint64) (answer, error)) error {
	s, c, err := p.open(cmd, kind)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	var id uint64
	if len(which) > 0 {
		if id, err = memberID(ctx, c, which[0]); err != nil {
			return &failure{
				code: exitBadArgs, err: fmt.Errorf("bad member ID arg (%w), expecting ID in Hex", err),
				hint: "\"kvctl member list\" shows the members' IDs and names; either will do",
			}
		}
	}
	a, err := change(ctx, c, id)
	if err != nil {
		return s.refused(exitError, err)
	}
	if err := p.print(a); err != nil {
		return err
	}
	if added, ok := a.(memberAdded); ok && p.terminal && p.globals.format == "simple" {
		fmt.Fprintln(p.errs, "Hint:", added.hint())
	}
	return nil
}

// memberAdded has no fields form, nor has etcdctl's.
type memberAdded struct {
	*pb.MemberAddResponse

	name, peerURLs string // as they were given
}

// simple writes a file of variables that scripts feed to the new member.
func (a memberAdded) simple(g *page) {
	as := ""
	if a.GetMember().GetIsLearner() {
		as = " as learner"
	}
	g.linef("Member %16x added%s to cluster %16x", a.GetMember().GetID(), as, a.GetHeader().GetClusterId())
	var initial []string
	for _, m := range a.GetMembers() {
		name := m.GetName()
		if m.GetID() == a.GetMember().GetID() {
			name = a.name
		}
		for _, u := range m.GetPeerURLs() {
			initial = append(initial, name+"="+u)
		}
	}
	g.line()
	g.linef("ETCD_NAME=%q", a.name)
	g.linef("ETCD_INITIAL_CLUSTER=%q", strings.Join(initial, ","))
	g.linef("ETCD_INITIAL_ADVERTISE_PEER_URLS=%q", a.peerURLs)
	g.linef("ETCD_INITIAL_CLUSTER_STATE=%q", "existing")
}

func (a memberAdded) hint() string {
	h := "start the new member with these settings, which kvd reads under KVD_ in place of ETCD_, before you change anything else"
	if a.GetMember().GetIsLearner() {
		h += fmt.Sprintf("; \"kvctl member promote %x\" gives it its vote once it has caught up", a.GetMember().GetID())
	}
	return h
}

func (a memberAdded) message() proto.Message { return a.MemberAddResponse }

func (a memberAdded) json(hex bool) any {
	if !hex {
		return a.MemberAddResponse
	}
	return struct {
		Header  *hexHeader   `json:"header"`
		Member  *hexMember   `json:"member"`
		Members []*hexMember `json:"members"`
	}{newHexHeader(a.GetHeader()), newHexMember(a.GetMember()), newHexMembers(a.GetMembers())}
}

// memberChanged is the answer to the other changes: the members after it. It
// has no fields form, nor has etcdctl's.
type memberChanged struct {
	resp interface {
		proto.Message
		GetHeader() *pb.ResponseHeader
		GetMembers() []*pb.Member
	}
	id   uint64
	what string // "removed from"
}

func (a memberChanged) simple(g *page) {
	g.linef("Member %16x %s cluster %16x", a.id, a.what, a.resp.GetHeader().GetClusterId())
}

func (a memberChanged) message() proto.Message { return a.resp }

func (a memberChanged) json(hex bool) any {
	if !hex {
		return a.resp
	}
	return hexMemberList{newHexHeader(a.resp.GetHeader()), newHexMembers(a.resp.GetMembers())}
}
