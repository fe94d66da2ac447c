package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"kvd/internal/bootstrap"
	"kvd/internal/offline"
)

func (t *tool) walCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "wal <subcommand>",
		Short: "Shows what is in a member's log",
	}
	t.bindFile(group)
	group.AddCommand(t.walDumpCommand())
	return group
}

func (t *tool) walDumpCommand() *cobra.Command {
	var d offline.Dump
	var at bootstrap.Options
	cmd := &cobra.Command{
		Use:   "dump [--data-dir {dir}] [options]",
		Short: "Prints the entries of a log, decoded",
		Long: `Prints the entries of the log of a member that does not run, one a line: term,
index, type and what the entry says. Entries that a later leader has replaced are
still there, above those that replaced them. With -w json each line is an object,
which also names the file and the offset.

Types are conf (a change of the members), norm (a command; empty where a leader
began its term) and the names of commands: put, txn, delete_range, lease_grant, …
Long keys and values are shortened, and passwords never shown.

At damage it stops with the place and the status 1, when it has printed what lies
before it.`,
		Example: `  kvd wal dump --data-dir /var/lib/kvd/default
  kvd wal dump --data-dir /var/lib/kvd/default --start-index 1000 --end-index 1100 --entry-type put,txn
  kvd wal dump --wal-dir /fast/wal --all -w json`,
		Args: cobra.NoArgs,
		Run:  t.does(func(*cobra.Command, []string) error { return t.walDump(&d, at) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&at.DataDir, "data-dir", "", "Path to the data directory of the member")
	flags.StringVar(&at.WALDir, "wal-dir", "", "Path to the WAL directory (use --data-dir if none given)")
	flags.Uint64Var(&d.First, "start-index", 0, "Index of the first entry to print")
	flags.Uint64Var(&d.Last, "end-index", 0, "Index of the last entry to print; 0: no end")
	flags.StringSliceVar(&d.Types, "entry-type", nil, "Print these types only: conf, norm, or commands such as put,txn")
	flags.BoolVar(&d.All, "all", false, "Print also records that are no entries: states, snapshots, checksums, whose log it is")
	flags.BoolVar(&d.Full, "full", false, "Print keys and values whole, however long")
	_ = cmd.MarkFlagDirname("data-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("wal-dir")
	return cmd
}

func (t *tool) walDump(d *offline.Dump, at bootstrap.Options) error {
	switch {
	case at.DataDir == "" && at.WALDir == "":
		return failf(exitBadArgs, "wal dump requires --data-dir or --wal-dir")
	case t.format != "simple" && t.format != "json":
		return failf(exitBadFeature, "%s not supported as output format; use simple or json", t.format)
	}
	d.Dir = at.Paths().Log
	out := bufio.NewWriter(t.out)
	write := dumpText
	if t.format == "json" {
		write = dumpJSON
	} else {
		fmt.Fprintf(out, "%4s\t%10s\t%s\t%s\n", "term", "index", "type", "data")
	}
	shown := 0
	err := d.Run(func(l offline.Line) error {
		shown++
		return write(out, &l)
	})
	if t.format == "simple" && err == nil {
		fmt.Fprintf(out, "\n%s\n", plural(shown, "record"))
	}
	if failed := out.Flush(); failed != nil {
		return &failure{code: exitIO, err: failed}
	}
	return err
}

func dumpText(out io.Writer, l *offline.Line) error {
	kind, text := l.Type, l.Text
	if l.Kind != "entry" {
		kind = l.Kind
	}
	if l.Fault != "" {
		text += " CANNOT BE DECODED: " + l.Fault
	}
	_, err := fmt.Fprintf(out, "%4d\t%10d\t%s\t%s\n", l.Term, l.Index, kind, text)
	return err
}

func dumpJSON(out io.Writer, l *offline.Line) error {
	line, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", line)
	return err
}
