package main

import (
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (p *program) compactionCommand() *cobra.Command {
	var physical bool
	cmd := &cobra.Command{
		Use:     "compaction [options] <revision>",
		Short:   "Forgets what the store held before a revision",
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.compaction(cmd, args, physical) }),
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "wait until the old revisions are off the disk")
	return cmd
}

func (p *program) compaction(cmd *cobra.Command, args []string, physical bool) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "compaction command needs 1 argument")
	}
	rev, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return fail(exitError, err)
	}
	s, c, err := p.open(cmd)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	var opts []clientv3.CompactOption
	if physical {
		opts = append(opts, clientv3.WithCompactPhysical())
	}
	if _, err := c.Compact(ctx, rev, opts...); err != nil {
		return s.refused(exitError, err)
	}
	return p.say("compacted revision %d", rev)
}
