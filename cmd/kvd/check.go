package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"kvd/internal/bootstrap"
	"kvd/internal/offline"
)

func (t *tool) checkCommand() *cobra.Command {
	var at bootstrap.Options
	cmd := &cobra.Command{
		Use:   "check [<filename>] [--data-dir {dir}]",
		Short: "Verifies the files of a member, or a snapshot",
		Long: `Verifies the log and the database of a member that does not run, or a snapshot,
and says what is wrong and what to do. It changes nothing.

Of the log every record is read: checksums, that no segment and no entry is
missing, that each entry can be decoded. Of the database every page and every row:
that no revision is missing since the last compaction, that each change of a key
goes on from the one before, that the index of the keys agrees with the rows, that
leases, users, roles, alarms and members can be read. Then whether the log goes on
where the database ends.

The status is 0 if a member could start from it and would serve what was written,
and 1 if not. Warnings and notes do not change it. Values carry no checksum in a
database, so a bit that was flipped inside one is not seen here: compare what
"kvctl endpoint hashkv" or "kvd hashkv" say of several members.`,
		Example: `  kvd check --data-dir /var/lib/kvd/default
  kvd check -w json /var/backups/kvd.db`,
		Run: t.does(func(_ *cobra.Command, args []string) error { return t.check(&at, args) }),
	}
	t.bindFile(cmd)
	cmd.Flags().StringVar(&at.DataDir, "data-dir", "", "Path to the data directory of a member that does not run")
	cmd.Flags().StringVar(&at.WALDir, "wal-dir", "", "Path to its WAL directory (use --data-dir if none given)")
	_ = cmd.MarkFlagDirname("data-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("wal-dir")
	return cmd
}

func (t *tool) check(at *bootstrap.Options, args []string) error {
	switch {
	case len(args) > 1, len(args) == 1 && (at.DataDir != "" || at.WALDir != ""), len(args) == 0 && at.DataDir == "":
		return failf(exitBadArgs, "check requires either --data-dir or one argument, the name of a file")
	case t.format != "simple" && t.format != "json":
		return failf(exitBadFeature, "%s not supported as output format; use simple or json", t.format)
	}
	o, err := t.files()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var report *offline.Report
	if len(args) == 1 {
		report, err = offline.CheckFile(ctx, args[0], o)
	} else {
		report, err = offline.CheckMember(ctx, *at, o)
	}
	if err != nil {
		return err
	}
	text := reportText(report)
	if t.format == "json" {
		line, err := json.Marshal(report)
		if err != nil {
			return err
		}
		text = string(line) + "\n"
	}
	if err := t.write(text); err != nil {
		return err
	}
	if !report.Sound() {
		return &failure{code: exitError}
	}
	return nil
}

func reportText(r *offline.Report) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if r.Member != "" {
		line("member:   %s of cluster %s", r.Member, r.Cluster)
		if r.Last < r.First {
			line("log:      %s, begins behind entry %d", r.Log, r.Last)
		} else {
			line("log:      %s, entries %d to %d, committed up to %d", r.Log, r.First, r.Last, r.Commit)
		}
	}
	if r.Size > 0 {
		version := r.Version
		if version == "" {
			version = "3.5 or older"
		}
		line("database: %s, %s, layout of %s, at entry %d", r.Database, humanize.Bytes(uint64(r.Size)), version, r.Applied)
	}
	if r.Revision > 0 {
		line("keys:     %d in %d rows, revision %d, %s; %s, %s", r.Keys, r.Rows, r.Revision, compactedText(r.Compacted), plural(r.Leases, "lease"), plural(r.Members, "member"))
	}
	counts := map[offline.Weight]int{}
	for _, f := range r.Findings {
		counts[f.Weight]++
		line("%s: %s: %s", f.Weight, f.Where, f.Problem)
		if f.Remedy != "" {
			line("  to do: %s", f.Remedy)
		}
	}
	switch {
	case !r.Sound():
		line("NOT SOUND: %s", plural(counts[offline.Fault], "error"))
	case counts[offline.Doubt] > 0:
		line("sound, with %s", plural(counts[offline.Doubt], "warning"))
	default:
		line("sound")
	}
	return b.String()
}

func compactedText(rev int64) string {
	if rev < 0 {
		return "never compacted"
	}
	return fmt.Sprintf("compacted at %d", rev)
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
