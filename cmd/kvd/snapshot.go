package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"kvd/internal/offline"
)

func (t *tool) snapshotCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "snapshot <subcommand>",
		Short: "Restores snapshots and says what they hold",
	}
	t.bindFile(group)
	group.AddCommand(t.snapshotRestoreCommand(), t.snapshotStatusCommand())
	return group
}

func (t *tool) snapshotStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Verifies a snapshot and says what it holds",
		Long: `Reads all of a snapshot, or of the database of a member that does not run, and
prints its hash, its revision, how many keys it has, its size and the version of
its layout.

Every page and every row are looked at, and the digest that "snapshot save" has
put at the end is compared. The status is 0 if all of it is sound and 1 if not,
so that a backup can be verified by it. The files of a member that runs are
refused.`,
		Example: `  kvd snapshot status /var/backups/kvd.db
  kvd snapshot status -w table /var/backups/kvd.db`,
		Run: t.does(t.snapshotStatus),
	}
}

func (t *tool) snapshotStatus(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "snapshot status requires exactly one argument")
	}
	if err := t.checkFormat(); err != nil {
		return err
	}
	o, err := t.files()
	if err != nil {
		return err
	}
	s, err := offline.StatusOf(args[0], o)
	if err != nil {
		return err
	}
	return t.print(statusAnswer(s))
}

type statusAnswer offline.Status

func (s statusAnswer) fields() []field {
	return []field{{"Hash", s.Hash}, {"Revision", s.Revision}, {"Keys", s.TotalKey}, {"Size", s.TotalSize}, {"Version", s.Version}}
}

func (s statusAnswer) row() (header, row []string) {
	return []string{"hash", "revision", "total keys", "total size", "version"},
		[]string{fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.TotalKey), humanize.Bytes(uint64(s.TotalSize)), s.Version}
}
