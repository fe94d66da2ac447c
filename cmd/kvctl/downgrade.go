package main

import (
	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) downgradeCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "downgrade <subcommand>",
		Aliases: []string{"do"},
		Short:   "Readies the cluster for an older version",
		GroupID: groupCluster,
	}
	group.AddCommand(
		&cobra.Command{
			Use:   "validate <version>",
			Short: "Tells whether the cluster could go to an older version",
			Run: p.does(func(cmd *cobra.Command, args []string) error {
				return p.downgradeTo(cmd, args, clientv3.DowngradeValidate, "validate")
			}),
		},
		&cobra.Command{
			Use:   "enable <version>",
			Short: "Has all members write what the older version can read",
			Run: p.does(func(cmd *cobra.Command, args []string) error {
				return p.downgradeTo(cmd, args, clientv3.DowngradeEnable, "enable")
			}),
		},
		&cobra.Command{
			Use:   "cancel",
			Short: "Ends a downgrade that is under way",
			Run: p.does(func(cmd *cobra.Command, _ []string) error {
				return p.downgrade(cmd, clientv3.DowngradeCancel, "cancel", "")
			}),
		},
	)
	return group
}

func (p *program) downgradeTo(cmd *cobra.Command, args []string, action clientv3.DowngradeAction, name string) error {
	switch {
	case len(args) < 1:
		return failf(exitBadArgs, "TARGET_VERSION not provided")
	case len(args) > 1:
		return failf(exitBadArgs, "too many arguments")
	case args[0] == "":
		return failf(exitBadArgs, "target version not provided")
	}
	return p.downgrade(cmd, action, name, args[0])
}

func (p *program) downgrade(cmd *cobra.Command, action clientv3.DowngradeAction, name, version string) error {
	s, c, err := p.open(cmd, downgradeAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Downgrade(ctx, action, version)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(downgradeAnswer{(*pb.DowngradeResponse)(resp), name})
}

// downgradeAnswer has no fields form, nor has etcdctl's.
type downgradeAnswer struct {
	*pb.DowngradeResponse

	action string
}

func (a downgradeAnswer) simple(g *page) {
	g.linef("Downgrade %s success, cluster version %s", a.action, a.GetVersion())
}

func (a downgradeAnswer) json(bool) any          { return a.DowngradeResponse }
func (a downgradeAnswer) message() proto.Message { return a.DowngradeResponse }
