package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"kvd/internal/bootstrap"
	"kvd/internal/offline"
)

func (t *tool) hashKVCommand() *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv <filename>",
		Short: "Prints the KV history hash of a given file",
		Long: `Hashes the history of the keys in a snapshot, or in the database of a member that
does not run, up to a revision, and prints the hash, the revision and the revision
of the last compaction. At one revision it is equal on all members of a cluster,
as long as they have the same last compaction; "kvctl endpoint hashkv" asks
members that run. The file is not changed.`,
		Example: `  kvd hashkv /var/backups/kvd.db
  kvd hashkv --rev 1500 -w json /var/lib/kvd/default/member/snap/db`,
		Args: cobra.ExactArgs(1),
		Run:  t.does(func(_ *cobra.Command, args []string) error { return t.hashKV(args[0], rev) }),
	}
	t.bindFile(cmd)
	cmd.Flags().Int64Var(&rev, "rev", 0, "maximum revision to hash (default: latest revision)")
	return cmd
}

func (t *tool) hashKV(path string, rev int64) error {
	if err := t.checkFormat(); err != nil {
		return err
	}
	o, err := t.files()
	if err != nil {
		return err
	}
	h, err := offline.HashKVOf(path, rev, o)
	if err != nil {
		return err
	}
	return t.print(hashAnswer(h))
}

type hashAnswer offline.HashKV

func (h hashAnswer) fields() []field {
	return []field{{"Hash", h.Hash}, {"Hash revision", h.HashRevision}, {"Compact revision", h.CompactRevision}}
}

func (h hashAnswer) row() (header, row []string) {
	return []string{"hash", "hash revision", "compact revision"},
		[]string{fmt.Sprint(h.Hash), fmt.Sprint(h.HashRevision), fmt.Sprint(h.CompactRevision)}
}

func (t *tool) defragCommand() *cobra.Command {
	var at bootstrap.Options
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Rewrites the database of a member that does not run",
		Long: `Rewrites the database of a member that does not run, without the free pages that
deletions and compactions have left, so that the file becomes smaller. A member
that runs is defragmented by "kvctl defrag".

The database is verified first. The new file is written beside the old one, so
there must be room for both, and takes its name when it is on disk.`,
		Example: `  systemctl stop kvd
  kvd defrag --data-dir /var/lib/kvd/default
  systemctl start kvd`,
		Args: cobra.NoArgs,
		Run:  t.does(func(*cobra.Command, []string) error { return t.defrag(at) }),
	}
	t.bindFile(cmd)
	cmd.Flags().StringVar(&at.DataDir, "data-dir", "", "Required. Defragments a data directory not in use by a member.")
	_ = cmd.MarkFlagRequired("data-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (t *tool) defrag(at bootstrap.Options) error {
	o, err := t.files()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	d, err := offline.Defrag(ctx, at, o)
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("given up; the database is as it was")
	case err != nil:
		return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", at.DataDir, err) //nolint:staticcheck // etcdutl's words
	}
	fmt.Fprintf(t.errs, "Rewrote %s: %s, was %s.\n", at.Paths().Database, humanize.Bytes(uint64(d.After)), humanize.Bytes(uint64(d.Before)))
	return nil
}
