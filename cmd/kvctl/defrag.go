package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (p *program) defragCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "defrag",
		Short:   "Rewrites each endpoint's database file without its holes",
		GroupID: groupCluster,
		Run:     p.does(p.defrag),
	}
	cmd.PersistentFlags().Bool("cluster", false, "defragment all members of the cluster, as its member list names them")
	return cmd
}

// defrag takes one endpoint after the other, so that a cluster never has two
// members busy with it.
func (p *program) defrag(cmd *cobra.Command, _ []string) error {
	s, err := p.prepare(cmd)
	if err != nil {
		return err
	}
	endpoints, err := s.each(cmd)
	if err != nil {
		return err
	}
	var broken error
	for _, e := range endpoints {
		took, err := s.defragment(e)
		if err != nil {
			fmt.Fprintf(p.errs, "Failed to defragment etcd member[%s]. took %s. (%v)\n", e, took, err)
			broken = err
			continue
		}
		if err := p.say("Finished defragmenting etcd member[%s]. took %s", e, took); err != nil {
			return err
		}
	}
	if broken != nil {
		return &failure{code: exitError, hint: s.hint(broken)} // already told, line by line
	}
	return nil
}

func (s *session) defragment(endpoint string) (took time.Duration, err error) {
	c, err := s.dial(s.log.Named("etcd-client"), endpoint)
	if err != nil {
		return 0, err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	shown := s.bar("defragmenting "+endpoint, 0, nil)
	defer shown.clear()
	begun := time.Now()
	_, err = c.Defragment(ctx, endpoint)
	return time.Since(begun), err
}
