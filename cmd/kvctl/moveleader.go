package main

import (
	"fmt"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) moveLeaderCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "move-leader <transferee-member-id>",
		Short: "Makes another member the leader",
		Long: `Makes another member the leader, which is named by its ID in hexadecimal or by its
name. Only the leader can hand over, so it must be among --endpoints.
`,
		GroupID: groupCluster,
		Run:     p.does(p.moveLeader),
	}
}

// moveLeader needs the leader itself to ask, so it looks for it among the
// endpoints.
func (p *program) moveLeader(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "move-leader command needs 1 argument")
	}
	s, anyone, err := p.open(cmd, moveAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(anyone)
	ctx, cancel := s.context()
	defer cancel()
	target, err := memberID(ctx, anyone, args[0])
	if err != nil {
		return fail(exitBadArgs, err)
	}
	for _, e := range s.spec.Endpoints {
		c, err := s.dial(s.log.Named("etcd-client"), e)
		if err != nil {
			return err
		}
		defer hangUp(c)
		status, err := c.Status(ctx, e)
		if err != nil {
			return s.refused(exitError, err)
		}
		leader := (*pb.StatusResponse)(status).GetLeader()
		if status.Header.GetMemberId() != leader {
			continue
		}
		resp, err := c.MoveLeader(ctx, target)
		if err != nil {
			return s.refused(exitError, err)
		}
		return p.print(moveAnswer{resp, leader, target})
	}
	return &failure{
		code: exitBadArgs,
		err:  fmt.Errorf("no leader endpoint given at %v", s.spec.Endpoints),
		hint: "only the leader can hand over: \"kvctl endpoint status --cluster\" shows who leads; give it, or all members, with --endpoints",
	}
}

// moveAnswer has no fields form, nor has etcdctl's.
type moveAnswer struct {
	resp     *clientv3.MoveLeaderResponse
	from, to uint64
}

func (a moveAnswer) simple(g *page) {
	g.linef("Leadership transferred from %x to %x", a.from, a.to)
}

func (a moveAnswer) json(bool) any          { return (*pb.MoveLeaderResponse)(a.resp) }
func (a moveAnswer) message() proto.Message { return (*pb.MoveLeaderResponse)(a.resp) }
