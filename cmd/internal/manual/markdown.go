package manual

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Markdown writes a chapter about root and all commands below it: a table of
// them, then what each does and takes. depth is the level of its headings.
func Markdown(w io.Writer, root *cobra.Command, depth int) {
	heading := func(more int, text string) {
		fmt.Fprintf(w, "\n%s %s\n", strings.Repeat("#", depth+more), text)
	}
	heading(0, root.Name())
	fmt.Fprintf(w, "\n%s\n\n| command | does |\n| --- | --- |\n", prose(description(root)))
	all := commands(root)[1:]
	for _, cmd := range all {
		if !cmd.HasSubCommands() {
			fmt.Fprintf(w, "| [`%s`](#%s) | %s |\n", strings.TrimPrefix(cmd.CommandPath(), root.Name()+" "), pageName(cmd), cell(cmd.Short))
		}
	}
	if shown := flags(root); len(shown) > 0 {
		heading(1, "Options of all commands")
		options(w, root)
	}
	for _, cmd := range all {
		heading(1, cmd.CommandPath())
		if !cmd.HasSubCommands() {
			fmt.Fprintf(w, "\n```\n%s\n```\n", cmd.UseLine())
		}
		fmt.Fprintf(w, "\n%s\n", prose(description(cmd)))
		if cmd.Example != "" {
			fmt.Fprintf(w, "\n```\n%s\n```\n", dedent(cmd.Example))
		}
		if !cmd.HasSubCommands() && len(flags(cmd)) > 0 {
			options(w, cmd)
		}
	}
}

func options(w io.Writer, cmd *cobra.Command) {
	fmt.Fprint(w, "\n| option | means |\n| --- | --- |\n")
	for _, f := range flags(cmd) {
		fmt.Fprintf(w, "| `%s` | %s |\n", signature(f), cell(meaning(f)))
	}
}

// prose is a help text as Markdown.
func prose(text string) string {
	var out []string
	for _, b := range blocks(text) {
		lines := strings.Join(b.lines, "\n")
		if b.verbatim {
			lines = "```\n" + lines + "\n```"
		} else {
			lines = escape(lines)
		}
		out = append(out, lines)
	}
	return strings.Join(out, "\n\n")
}

// escape keeps <key> and _ from being taken for markup.
func escape(text string) string {
	return strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`).Replace(text)
}

// cell is text within a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(escape(text))
}

// ErrNoPlace is that a page lacks the marks between which a part of it stands.
var ErrNoPlace = errors.New("the page has no place for this part")

// Fill is the page with text between the marks of a part:
//
//	<!-- begin NAME -->
//	<!-- end NAME -->
//
// So several programs can each write their part of one page.
func Fill(page, name, text string) (string, error) {
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	before, rest, found := strings.Cut(page, begin)
	_, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		return "", fmt.Errorf("%s: %w", name, ErrNoPlace)
	}
	return before + begin + text + end + after, nil
}
