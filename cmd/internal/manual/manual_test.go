package manual

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "tool", Short: "A tool that works."}
	root.PersistentFlags().String("level", "low", "how `high`")
	_ = root.PersistentFlags().MarkHidden("level")
	root.CompletionOptions.DisableDefaultCmd = true
	group := &cobra.Command{Use: "file <subcommand>", Short: "Works on files"}
	group.PersistentFlags().Bool("all", false, "take all")
	save := &cobra.Command{
		Use: "save [options] <file>", Short: "Saves a file", Run: run,
		Long:    "Saves a file, so that\n.it is there_later.\n\n$ tool file save -- it's\n\nname   size\na      b\\c\n\nAn end.\n",
		Example: "  tool file save x\n  tool file save y",
	}
	save.Flags().IntP("times", "t", 3, "how often")
	group.AddCommand(save)
	root.AddCommand(group, &cobra.Command{Use: "secret", Hidden: true, Run: run}, Command(func(error) {}))
	return root
}

func TestPagesHaveWhatHelpHas(t *testing.T) {
	dir := t.TempDir()
	root := tree()
	root.SetArgs([]string{"gen-man", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	if want := []string{"tool-file-save.1", "tool-file.1", "tool.1"}; !slices.Equal(files, want) {
		t.Errorf("pages %q, not %q", files, want)
	}
	page, err := os.ReadFile(filepath.Join(dir, "tool-file-save.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`.TH "TOOL\-FILE\-SAVE" 1`, `tool\-file\-save \- saves a file`, "\n\\&.it is there_later.\n",
		".nf\n$ tool file save \\-\\- it\\(aqs\n\nname   size\na      b\\ec\n.fi", "\n.PP\nAn end.\n",
		"\\fB\\-t, \\-\\-times int\\fR\nhow often (default 3)", "\\fB\\-\\-all\\fR\ntake all",
		"$ tool file save x\n$ tool file save y", `\fBtool\-file\fR(1), \fBtool\fR(1)`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(string(page), "level") {
		t.Errorf("the page of a command repeats what the root's has:\n%s", page)
	}
}

func TestManRendersThePagesWithoutAWarning(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("there is no groff here")
	}
	var page strings.Builder
	Roff(&page, tree().Commands()[0].Commands()[0])
	cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tascii", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page.String())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

func TestMarkdownHasEveryCommandAndOption(t *testing.T) {
	var text strings.Builder
	Markdown(&text, tree(), 2)
	for _, want := range []string{
		"\n## tool\n", "| [`file save`](#tool-file-save) | Saves a file |", "### tool file save\n",
		"| `--level high` | how high (default low) |", "| `-t, --times int` | how often (default 3) |", "| `--all` | take all |",
		"it is there\\_later.", "```\n$ tool file save -- it's\n\nname   size\na      b\\c\n```",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "secret") {
		t.Error("a hidden command is shown")
	}
}

func TestAPartIsFilledAndTheRestIsKept(t *testing.T) {
	page := "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
	got, err := Fill(page, "x", "new\n")
	if want := strings.Replace(page, "old", "new", 1); err != nil || got != want {
		t.Errorf("%q (%v), not %q", got, err, want)
	}
	if _, err := Fill(page, "z", "new"); !errors.Is(err, ErrNoPlace) {
		t.Errorf("a part without a place: %v", err)
	}
}
