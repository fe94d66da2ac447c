// Package manual renders a tree of commands as man pages and as Markdown, from
// the texts that --help shows. It knows no command by name; the programs below
// cmd/ use it, and nothing else does.
package manual

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Section of the manual that commands are in.
const Section = "1"

// WriteAll writes a page for root and for each command below it into dir, as
// NAME.1, with dashes for the spaces of a command's path.
func WriteAll(dir string, root *cobra.Command) error {
	for _, cmd := range commands(root) {
		var page strings.Builder
		Roff(&page, cmd)
		if err := os.WriteFile(filepath.Join(dir, pageName(cmd)+"."+Section), []byte(page.String()), 0o644); err != nil {
			return fmt.Errorf("write the manual: %w", err)
		}
	}
	return nil
}

// Command is the hidden command that writes root's man pages to a directory.
func Command(fail func(error)) *cobra.Command {
	return &cobra.Command{
		Use:    "gen-man <directory>",
		Short:  "Writes the man pages",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		Run: func(cmd *cobra.Command, args []string) {
			if err := WriteAll(args[0], cmd.Root()); err != nil {
				fail(err)
			}
		},
	}
}

// commands are root and all below it that help shows, in order of their paths.
func commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, cmd := range sorted(root) {
		all = append(all, commands(cmd)...)
	}
	return all
}

func sorted(cmd *cobra.Command) (shown []*cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			shown = append(shown, sub)
		}
	}
	slices.SortFunc(shown, func(a, b *cobra.Command) int { return cmp.Compare(a.Name(), b.Name()) })
	return shown
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// description is what a command does, at length.
func description(cmd *cobra.Command) string {
	return strings.TrimSpace(cmp.Or(cmd.Long, cmd.Short+"."))
}

// flags are those that a command's page shows: its own, those of the commands
// above it that they do not hide, and for the root all that every command takes.
func flags(cmd *cobra.Command) (shown []*pflag.Flag) {
	keep := func(hidden bool) func(*pflag.Flag) {
		return func(f *pflag.Flag) {
			if f.Name != "help" && (hidden || !f.Hidden) {
				shown = append(shown, f)
			}
		}
	}
	if !cmd.HasParent() {
		cmd.PersistentFlags().VisitAll(keep(true))
		return shown
	}
	cmd.LocalFlags().VisitAll(keep(false))
	cmd.InheritedFlags().VisitAll(keep(false))
	return shown
}

// signature is a flag as it is typed: "-w, --write-out string".
func signature(f *pflag.Flag) string {
	kind, _ := pflag.UnquoteUsage(f)
	text := "--" + f.Name
	if f.Shorthand != "" {
		text = "-" + f.Shorthand + ", " + text
	}
	return strings.TrimSpace(text + " " + kind)
}

// meaning is a flag's usage with its default, where that says something.
func meaning(f *pflag.Flag) string {
	_, usage := pflag.UnquoteUsage(f)
	switch f.DefValue {
	case "", "0", "false", "[]":
		return usage
	}
	return fmt.Sprintf("%s (default %s)", usage, f.DefValue)
}

// A block is a paragraph, or lines that stand as they are.
type block struct {
	lines    []string
	verbatim bool
}

// blocks cuts a help text at its empty lines. Examples and tables, which begin
// with a prompt or have columns, are kept as they are.
func blocks(text string) (all []block) {
	for part := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		part = strings.Trim(part, "\n")
		if part == "" {
			continue
		}
		b := block{lines: strings.Split(part, "\n")}
		for _, line := range b.lines {
			if strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "  ") || strings.Contains(strings.TrimSpace(line), "   ") {
				b.verbatim = true
			}
		}
		if n := len(all); b.verbatim && n > 0 && all[n-1].verbatim {
			all[n-1].lines = append(append(all[n-1].lines, ""), b.lines...)
			continue
		}
		all = append(all, b)
	}
	return all
}

// Roff writes a command's man page.
func Roff(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, ".TH %s %s\n", quoted(strings.ToUpper(pageName(cmd))), Section)
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", plain(pageName(cmd)), plain(lowerFirst(strings.TrimSuffix(cmd.Short, "."))))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.nf\n\\fB%s\\fR\n.fi\n", plain(cmd.UseLine()))
	section(w, "DESCRIPTION", description(cmd))
	if shown := flags(cmd); len(shown) > 0 {
		fmt.Fprint(w, ".SH OPTIONS\n")
		for _, f := range shown {
			fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n%s\n", plain(signature(f)), plain(meaning(f)))
		}
	}
	if subs := sorted(cmd); len(subs) > 0 {
		fmt.Fprint(w, ".SH COMMANDS\n")
		for _, sub := range subs {
			fmt.Fprintf(w, ".TP\n\\fB%s\\fR(%s)\n%s\n", plain(pageName(sub)), Section, plain(sub.Short))
		}
	}
	if cmd.Example != "" {
		section(w, "EXAMPLES", dedent(cmd.Example))
	}
	if cmd.HasParent() {
		fmt.Fprintf(w, ".SH SEE ALSO\n\\fB%s\\fR(%s)", plain(pageName(cmd.Parent())), Section)
		if root := cmd.Root(); root != cmd.Parent() {
			fmt.Fprintf(w, ", \\fB%s\\fR(%s)", plain(pageName(root)), Section)
		}
		fmt.Fprintln(w)
	}
}

func section(w io.Writer, title, text string) {
	fmt.Fprintf(w, ".SH %s\n", title)
	for i, b := range blocks(text) {
		switch {
		case b.verbatim:
			fmt.Fprintf(w, ".PP\n.RS\n.nf\n%s\n.fi\n.RE\n", plainLines(b.lines))
		case i > 0:
			fmt.Fprintf(w, ".PP\n%s\n", plainLines(b.lines))
		default:
			fmt.Fprintf(w, "%s\n", plainLines(b.lines))
		}
	}
}

// dedent takes the two spaces off that cobra wants before examples, and shows
// the prompt that makes them verbatim.
func dedent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
		if lines[i] != "" && !strings.HasPrefix(lines[i], "$ ") && !strings.HasPrefix(lines[i], "#") && !strings.HasPrefix(line, "   ") {
			lines[i] = "$ " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

func plainLines(lines []string) string {
	safe := make([]string, len(lines))
	for i, line := range lines {
		safe[i] = plain(line)
	}
	return strings.Join(safe, "\n")
}

// plain is text that roff prints as it is.
func plain(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\`", "^", `\(ha`, "~", `\(ti`).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

func quoted(text string) string { return `"` + plain(text) + `"` }

func lowerFirst(text string) string {
	if len(text) > 1 && text[1] >= 'a' && text[1] <= 'z' {
		return strings.ToLower(text[:1]) + text[1:]
	}
	return text
}
