package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kvd/internal/config"
)

// pages writes the man pages and returns them by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if code := run([]string{"gen-man", dir}, os.Stdout, os.Stderr); code != 0 {
		t.Fatalf("status %d", code)
	}
	all := map[string]string{}
	for _, name := range []string{"kvd.8", "kvd.toml.5"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		all[name] = string(b)
	}
	return all
}

func TestTheManualHasEveryOptionAndVerb(t *testing.T) {
	all := pages(t)
	for _, f := range config.Flags() {
		if name := `\fB\-\-` + strings.ReplaceAll(f.Name, "-", `\-`); !strings.Contains(all["kvd.8"], name) {
			t.Errorf("kvd(8) lacks --%s", f.Name)
		}
	}
	contains(t, all["kvd.8"], `kvd snapshot status <filename>`, `kvd config check|explain`, `kvd member rejoin`, `\-\-config\-file VALUE`, ".TP\n\\fB78\\fR\n")
	contains(t, all["kvd.toml.5"], `\fBlisten\-client\-urls = ["http://localhost:2379"]\fR`, "; reloadable.", ".SH \"SECURITY\"")
	if strings.Contains(all["kvd.toml.5"], `\fBconfig\-file`) {
		t.Error("kvd.toml(5) has an option that cannot be in the file")
	}
	if strings.Contains(all["kvd.8"], "gen\\-man") {
		t.Error("kvd(8) shows a hidden command")
	}
}

func TestManRendersTheManualWithoutAWarning(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("there is no groff here")
	}
	for name, page := range pages(t) {
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tascii", "-ww", "-z")
		cmd.Stdin = strings.NewReader(page)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestCommandLinesAreCompleted(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--listen-c"}, []string{"--listen-client-urls", "--listen-client-http-urls"}},
		{[]string{"--initial-cluster-state", ""}, []string{"new", "existing"}},
		{[]string{"conf"}, []string{"config"}},
		{[]string{"config", ""}, []string{"check", "explain"}},
		{[]string{"config", "check", "--data"}, []string{"--data-dir"}},
		{[]string{"member", ""}, []string{"rejoin"}},
	} {
		status, said := outcome(t, nil, append([]string{"__complete"}, c.args...)...)
		if status != 0 {
			t.Errorf("%q: status %d", c.args, status)
		}
		contains(t, said, c.want...)
	}
	for shell, part := range map[string]string{"bash": "__start_kvd", "zsh": "#compdef kvd", "fish": "complete -c kvd"} {
		status, said := outcome(t, nil, "completion", shell)
		if status != 0 || !strings.Contains(said, part) {
			t.Errorf("%s: status %d, no %q", shell, status, part)
		}
	}
}
