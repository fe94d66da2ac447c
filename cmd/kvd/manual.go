package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kvd/internal/config"
)

// bindDaemonFlags declares the flags of the daemon on the root, for those who
// complete command lines: it is config that reads them.
func bindDaemonFlags(root *cobra.Command) {
	for _, f := range config.Flags() {
		if f.Boolean {
			root.Flags().Bool(f.Name, false, f.Help)
			continue
		}
		root.Flags().String(f.Name, "", f.Help)
		if len(f.Words) > 0 {
			_ = root.RegisterFlagCompletionFunc(f.Name, // fails only for an unknown flag
				func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
					return f.Words, cobra.ShellCompDirectiveNoFileComp
				})
		}
	}
}

// withWords completes a verb that reads its arguments by itself: first one of
// its words, then flags of the daemon.
func withWords(verb *cobra.Command, words ...string) *cobra.Command {
	verb.ValidArgsFunction = func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) == 0:
			return words, cobra.ShellCompDirectiveNoFileComp
		case !strings.HasPrefix(begun, "-"):
			return nil, cobra.ShellCompDirectiveDefault
		}
		var flags []string
		for _, f := range config.Flags() {
			if strings.HasPrefix("--"+f.Name, begun) {
				flags = append(flags, "--"+f.Name+"\t"+f.Help)
			}
		}
		return flags, cobra.ShellCompDirectiveNoFileComp
	}
	return verb
}

// genManCommand writes the man pages; "make package" calls it.
func (t *tool) genManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gen-man <directory>",
		Short:  "Writes the man pages",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		Run: t.does(func(cmd *cobra.Command, args []string) error {
			verbs := manualVerbs(cmd.Root(), "")
			for name, write := range map[string]func(io.Writer) error{
				"kvd.8":      func(w io.Writer) error { return config.DaemonPage(w, verbs) },
				"kvd.toml.5": config.FilePage,
			} {
				var page strings.Builder
				if err := write(&page); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(args[0], name), []byte(page.String()), 0o644); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// manualVerbs are the commands that do something, with what they take.
func manualVerbs(cmd *cobra.Command, above string) (all []config.Verb) {
	for _, sub := range cmd.Commands() {
		name := above + sub.Use
		switch {
		case sub.Hidden || sub.Name() == "completion" || sub.Name() == "help":
		case sub.HasSubCommands():
			all = append(all, manualVerbs(sub, above+sub.Name()+" ")...)
		case sub.ValidArgsFunction != nil && sub.DisableFlagParsing:
			words, _ := sub.ValidArgsFunction(sub, nil, "")
			all = append(all, config.Verb{Name: name + " " + strings.Join(words, "|") + " [flags]", Does: sub.Short + "."})
		default:
			all = append(all, config.Verb{Name: name, Does: sub.Short + "."})
		}
	}
	return all
}
