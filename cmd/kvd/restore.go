package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/daemon"
	"kvd/internal/offline"
)

// standardBump is a week of 1500 writes a second, about: more than a cluster is
// likely to have written since its last snapshot.
const standardBump = 1_000_000_000

// restoreFlags are the command's own, named as in etcdutl.
type restoreFlags struct {
	name, cluster, token, peerURLs string
	dataDir, walDir                string
	unverified, compacted          bool
	bump, mmap                     uint64
}

func (t *tool) snapshotRestoreCommand() *cobra.Command {
	f := &restoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Makes a member of a new cluster out of a snapshot",
		Long: `Makes the data directory of a member that begins a new cluster with the data of a
snapshot, of kvd or of etcd. For a cluster of several members run it once for
each, with the same file and the same --initial-cluster; then start all of them.
A member that goes on with an old cluster is not restored: see "kvd member
rejoin".

Clients may have seen later revisions than the snapshot has, so the revision is
raised by a billion and all before is marked as compacted: watches that go on from
there are told so and list again, and nothing that was cached passes for new.
Where no client comes back, --bump-revision=0 keeps the revision as it is.

The snapshot is read and verified before anything is written; what is being built
gets its name when all of it is on disk. The data directory must be empty. If root
restores, the files get the owner of the data directory.`,
		Example: `  kvd snapshot restore backup.db --data-dir /var/lib/kvd/default --name n1 \
    --initial-cluster n1=https://10.0.0.1:2380 --initial-advertise-peer-urls https://10.0.0.1:2380
  kvd snapshot restore backup.db --data-dir test --bump-revision=0`,
		Run: t.does(func(cmd *cobra.Command, args []string) error { return t.snapshotRestore(cmd, f, args) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dataDir, "data-dir", "", "Path to the output data directory")
	flags.StringVar(&f.walDir, "wal-dir", "", "Path to the WAL directory (use --data-dir if none given)")
	flags.StringVar(&f.cluster, "initial-cluster", "default=http://localhost:2380", "Initial cluster configuration for restore bootstrap")
	flags.StringVar(&f.token, "initial-cluster-token", "etcd-cluster", "Initial cluster token for the etcd cluster during restore bootstrap")
	flags.StringVar(&f.peerURLs, "initial-advertise-peer-urls", "http://localhost:2380", "List of this member's peer URLs to advertise to the rest of the cluster")
	flags.StringVar(&f.name, "name", "default", "Human-readable name for this member")
	flags.BoolVar(&f.unverified, "skip-hash-check", false, "Ignore snapshot integrity hash value (required if copied from data directory)")
	flags.Uint64Var(&f.mmap, "initial-memory-map-size", 0, "Has no effect: a restore takes the same memory for every size")
	flags.Uint64Var(&f.bump, "bump-revision", standardBump, "How much to increase the latest revision after restore; 0: not at all, and nothing is marked as compacted")
	flags.BoolVar(&f.compacted, "mark-compacted", true, "Mark the latest revision after restore as the point of scheduled compaction (goes with --bump-revision > 0)")
	_ = cmd.MarkFlagDirname("data-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("wal-dir")
	return cmd
}

func (t *tool) snapshotRestore(cmd *cobra.Command, f *restoreFlags, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "snapshot restore requires exactly one argument")
	}
	bumped, marked := cmd.Flags().Changed("bump-revision"), cmd.Flags().Changed("mark-compacted")
	switch {
	case marked && !f.compacted && bumped && f.bump > 0, marked && f.compacted && bumped && f.bump == 0:
		return failf(exitBadArgs, "--mark-compacted required if --bump-revision > 0, and has no meaning without; to restore without either use --bump-revision=0")
	case marked && !f.compacted:
		f.bump = 0
	}
	r := offline.Restore{Snapshot: args[0], Bump: f.bump, Unverified: f.unverified}
	if err := f.member(&r.Member); err != nil {
		return err
	}
	o, err := t.files()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	made, err := r.Run(ctx, o)
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("given up; nothing has been changed")
	case err != nil:
		return err
	}
	t.tell(&r, made)
	return nil
}

// member says who is restored.
func (f *restoreFlags) member(o *bootstrap.Options) error {
	initial, err := config.ParseInitialCluster(f.cluster)
	if err != nil {
		return fmt.Errorf("--initial-cluster=%s: %w", f.cluster, err)
	}
	peers, err := config.ParseURLs(f.peerURLs)
	if err != nil {
		return fmt.Errorf("--initial-advertise-peer-urls=%s: %w", f.peerURLs, err)
	}
	if f.dataDir == "" {
		f.dataDir = f.name + ".etcd"
	}
	*o = bootstrap.Options{
		DataDir: f.dataDir, WALDir: f.walDir, Name: f.name, Token: f.token,
		Cluster: daemon.Seeds(initial), Advertised: daemon.Texts(peers),
	}
	return nil
}

// tell says what was made, on the error output: etcdutl prints nothing else, and
// scripts may rely on it.
func (t *tool) tell(r *offline.Restore, made offline.Outcome) {
	fmt.Fprintf(t.errs, "Restored %s into %s: member %s (%s) of the new cluster %s, at revision %d.\n",
		r.Snapshot, r.Member.DataDir, made.ID, r.Member.Name, made.Cluster, made.Revision)
	if made.Revision != made.From {
		fmt.Fprintf(t.errs, "The snapshot is of revision %d; clients see %d on, and all before as compacted (--bump-revision=0 keeps it).\n", made.From, made.Revision)
	}
	if made.Alarms > 0 {
		fmt.Fprintf(t.errs, "The snapshot carries %d alarm(s) of the old cluster: once it runs, see 'kvctl alarm list', and 'kvctl alarm disarm'.\n", made.Alarms)
	}
	var others []string
	for _, s := range r.Member.Cluster {
		if s.Name != r.Member.Name {
			others = append(others, s.Name)
		}
	}
	if len(others) > 0 {
		slices.Sort(others)
		fmt.Fprintf(t.errs, "Restore the same file for the other members, too: %s.\n", strings.Join(others, ", "))
	}
}
