package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"

	"kvd/cmd/internal/manual"
)

// program is one run of kvctl: the world it was started in and the flags it
// was given. It is used for one command line and then thrown away.
type program struct {
	in       io.Reader
	out      io.Writer
	errs     io.Writer
	environ  []string
	terminal bool // errs is a person's: no JSON log lines, but hints
	grpcLog  func(grpclog.LoggerV2)

	globals globals
	outcome error // what the command returned; cobra never sees it
}

// run does what args (without the program's name) ask for and returns the
// process's exit code.
func (p *program) run(args []string) int {
	root := p.root()
	if len(args) > 0 && args[0] == "gen-man" { // not there otherwise: "g" is get
		root.AddCommand(manual.Command(func(err error) { p.outcome = fail(exitIO, err) }))
	}
	root.SetArgs(args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.errs)
	if cmd, err := root.ExecuteC(); err != nil {
		p.misused(cmd, err)
		return exitError
	}
	return p.report(p.outcome)
}

// misused tells that the command line itself could not be read.
func (p *program) misused(cmd *cobra.Command, err error) {
	fmt.Fprintln(p.errs, "Error:", err)
	if strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(p.errs, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return
	}
	fmt.Fprintln(p.errs, cmd.UsageString())
}

// does adapts a command that can fail to cobra, which would print the error
// and the usage in a way that etcdctl does not.
func (p *program) does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) { p.outcome = f(cmd, args) }
}

// The groups under which help lists the commands.
const (
	groupKV      = "kv"
	groupCluster = "cluster maintenance"
	groupLocks   = "concurrency"
	groupAuth    = "authentication"
	groupUtility = "utility"
)

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvctl",
		Short: "kvctl talks to a kvd cluster.",
		Long: `kvctl talks to a kvd cluster, or to any other that speaks the etcd v3 API.

Every global option has an environment variable: --command-timeout is
KVCTL_COMMAND_TIMEOUT, and etcdctl's ETCDCTL_COMMAND_TIMEOUT where that is not set.
`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	p.globals.bind(root)
	root.AddGroup(
		&cobra.Group{ID: groupKV, Title: "Key-value commands"},
		&cobra.Group{ID: groupCluster, Title: "Cluster maintenance commands"},
		&cobra.Group{ID: groupLocks, Title: "Concurrency commands"},
		&cobra.Group{ID: groupAuth, Title: "Authentication commands"},
		&cobra.Group{ID: groupUtility, Title: "Utility commands"},
	)
	root.AddCommand(
		p.getCommand(), p.putCommand(), p.delCommand(), p.txnCommand(),
		p.watchCommand(), p.leaseCommand(), p.compactionCommand(),
		p.endpointCommand(), p.memberCommand(), p.alarmCommand(),
		p.defragCommand(), p.moveLeaderCommand(), p.downgradeCommand(), p.snapshotCommand(),
		p.lockCommand(), p.electCommand(),
		p.authCommand(), p.userCommand(), p.roleCommand(),
		p.statusCommand(), p.doctorCommand(), p.topCommand(), p.mirrorCommand(), p.checkCommand(),
		p.versionCommand(), p.completionCommand(), p.optionsCommand(),
	)
	p.complete(root)
	root.SetHelpCommandGroupID(groupUtility)

	root.Flags().BoolP("help", "h", false, "help for kvctl")
	_ = root.Flags().MarkHidden("help") // fails only for an unknown flag
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		fmt.Fprintln(cmd.OutOrStdout(), `Use "kvctl options" for a list of global command-line options (applies to all commands).`)
	})
	return root
}

// oneOf completes a flag that takes one of a few words.
func oneOf(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveDefault
	}
}
