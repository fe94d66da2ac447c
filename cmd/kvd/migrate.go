package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"kvd/internal/member"
	"kvd/internal/offline"
)

func (t *tool) migrateCommand() *cobra.Command {
	var m offline.Migration
	var target string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Gives the database of a member that does not run the layout of another version",
		Long: `Changes the database of a member that does not run so that another version of etcd
starts from it. Usually nobody needs this: the layout follows the version of the
cluster by itself, in both directions ("kvctl downgrade").

An older version is refused as long as the log holds entries that it does not
understand.`,
		Example: `  systemctl stop kvd
  kvd migrate --data-dir /var/lib/kvd/default --target-version 3.6`,
		Run: t.does(func(*cobra.Command, []string) error { return t.migrate(&m, target) }),
	}
	t.bindFile(cmd)
	flags := cmd.Flags()
	flags.StringVar(&m.Member.DataDir, "data-dir", "", "Path to the etcd data dir")
	flags.StringVar(&target, "target-version", "", `Target etcd version to migrate contents of data dir. Minimal value 3.5. Format "X.Y" for example 3.6.`)
	flags.BoolVar(&m.Force, "force", false, "Ignore migration failure and forcefully override storage version. Not recommended.")
	_ = cmd.MarkFlagRequired("data-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagRequired("target-version")
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (t *tool) migrate(m *offline.Migration, target string) error {
	if strings.Count(target, ".") != 1 {
		return failf(exitBadArgs, `wrong target version format, expected "X.Y", got %q`, target)
	}
	var err error
	if m.Target, err = member.ParseVersion(target); err != nil {
		return failf(exitBadArgs, "failed to parse target version: %w", err)
	}
	if m.Target.Compare(member.Version{Major: 3, Minor: 5}) < 0 {
		return failf(exitBadArgs, `target version %q not supported. Minimal "3.5"`, shortVersion(m.Target))
	}
	o, err := t.files()
	if err != nil {
		return err
	}
	done, err := m.Run(o)
	switch {
	case err != nil:
		return err
	case done.From.Compare(m.Target) == 0:
		fmt.Fprintf(t.errs, "The storage version is %s already.\n", shortVersion(m.Target))
		return nil
	case done.Refused != nil:
		fmt.Fprintf(t.errs, "Warning: forced, against: %v\n", done.Refused)
	}
	fmt.Fprintf(t.errs, "The storage version is %s now, was %s.\n", shortVersion(m.Target), shortVersion(done.From))
	return nil
}

func shortVersion(v member.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
