package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// root is the tree of all verbs. Without a verb kvd is the daemon, whose flags
// are config's.
func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvd",
		Short: "kvd runs a member of a key-value cluster, and works on the files of one that does not run.",
		Long: `kvd runs a member of a key-value cluster. Its options come from a file, from the
environment and from flags; see "kvd help".

The verbs below work on files: of a member that does not run, or snapshots. What
asks a cluster is a command of kvctl.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		t.snapshotCommand(), t.checkCommand(), t.defragCommand(), t.hashKVCommand(), t.migrateCommand(), t.walCommand(), t.importConfigCommand(), t.gatewayCommand(), t.genManCommand(),
		withWords(t.outside("config", "Checks the configuration, and explains where each value comes from", configUsage, runConfig), "check", "explain"),
		withWords(t.outside("member", "Replaces a member whose data is lost", memberUsage, runMemberHere), "rejoin"),
		t.outside("version", "Prints the version", "", runVersion),
		t.outside("help", "Prints the options of the daemon", "", runHelp),
	)
	root.CompletionOptions.HiddenDefaultCmd = true
	bindDaemonFlags(root)
	return root
}

// outside is a verb that reads its arguments by itself.
func (t *tool) outside(name, short, long string, run verb) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			if code := run(args, t.out, t.errs); code != 0 {
				t.outcome = &failure{code: code}
			}
		},
	}
}

// verbFirst puts the flags that all verbs on files have behind the verb: etcdutl
// takes them in front of it, too, and its manual has them there.
func verbFirst(args []string) []string {
	at := 0
	for at < len(args) {
		name, _, given := strings.Cut(args[at], "=")
		switch {
		case name == "--write-out" || name == "--timeout" || name == "-w":
			if at++; !given {
				at++
			}
		case strings.HasPrefix(name, "-w") && len(name) > len("-w"):
			at++
		default:
			return slices.Concat(args[at:], args[:at])
		}
	}
	return args
}

// isVerb reports whether kvd is asked for something else than being the daemon.
func (t *tool) isVerb(args []string) bool {
	if len(args) == 0 {
		return false
	}
	for _, c := range t.root().Commands() {
		if c.Name() == args[0] {
			return true
		}
	}
	return args[0] == "completion" || args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd
}
