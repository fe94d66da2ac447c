package main

import (
	"github.com/spf13/cobra"
	etcd "go.etcd.io/etcd/api/v3/version"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Prints the version of kvctl and of the API it speaks",
		GroupID: groupUtility,
		Run: p.does(func(*cobra.Command, []string) error {
			return p.say("kvctl version: %s\nAPI version: %s\nGit SHA: %s", version, etcd.APIVersion, commit)
		}),
	}
}
