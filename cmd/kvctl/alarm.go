package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) alarmCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "alarm <subcommand>",
		Short:   "Shows and ends the cluster's alarms",
		GroupID: groupCluster,
	}
	list := func(ctx context.Context, c *clientv3.Client) (*clientv3.AlarmResponse, error) {
		return c.AlarmList(ctx)
	}
	disarm := func(ctx context.Context, c *clientv3.Client) (*clientv3.AlarmResponse, error) {
		return c.AlarmDisarm(ctx, &clientv3.AlarmMember{}) // of no member: all of them
	}
	group.AddCommand(
		&cobra.Command{Use: "list", Short: "Lists all alarms", Run: p.does(func(cmd *cobra.Command, args []string) error {
			return p.alarm(cmd, args, list)
		})},
		&cobra.Command{Use: "disarm", Short: "Ends all alarms", Run: p.does(func(cmd *cobra.Command, args []string) error {
			return p.alarm(cmd, args, disarm)
		})},
	)
	return group
}

func (p *program) alarm(cmd *cobra.Command, args []string, call func(context.Context, *clientv3.Client) (*clientv3.AlarmResponse, error)) error {
	if len(args) != 0 {
		return failf(exitBadArgs, "alarm %s command accepts no arguments", cmd.Name())
	}
	s, c, err := p.open(cmd, alarmAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := call(ctx, c)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(alarmAnswer{(*pb.AlarmResponse)(resp)})
}

type alarmAnswer struct{ *pb.AlarmResponse }

// simple is protobuf's text form with a single space between the fields: the
// library's own writes one or two, differently in each build, lest anybody
// rely on it.
func (a alarmAnswer) simple(g *page) {
	for _, m := range a.GetAlarms() {
		var words []string
		if m.GetMemberID() != 0 {
			words = append(words, fmt.Sprintf("memberID:%d", m.GetMemberID()))
		}
		if m.GetAlarm() != pb.AlarmType_NONE {
			words = append(words, "alarm:"+m.GetAlarm().String())
		}
		g.line(strings.Join(words, " "))
	}
}

func (a alarmAnswer) fields(g *page) {
	g.header(a.GetHeader())
	for _, m := range a.GetAlarms() {
		g.id("MemberID", m.GetMemberID())
		g.line(`"AlarmType" :`, m.GetAlarm())
		g.line()
	}
}

func (a alarmAnswer) json(bool) any          { return a.AlarmResponse }
func (a alarmAnswer) message() proto.Message { return a.AlarmResponse }
