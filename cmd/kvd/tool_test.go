package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// verbs runs kvd and returns what it says.
func verbs(args ...string) (out, errs string, status int) {
	var o, e bytes.Buffer
	status = run(args, &o, &e)
	return o.String(), e.String(), status
}

func TestVerbsThatAreMisusedSayHow(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args   string
		status int
		word   string
	}{
		{"check", exitBadArgs, "check requires either --data-dir or one argument"},
		{"check x --data-dir y", exitBadArgs, "check requires either"},
		{"check x -w table", exitBadFeature, "table not supported as output format; use simple or json"},
		{"check --data-dir " + dir, exitError, "there is no member in it"},
		{"wal dump", exitBadArgs, "wal dump requires --data-dir or --wal-dir"},
		{"wal dump --wal-dir " + dir, exitError, "no log"},
		{"wal dump --wal-dir " + dir + " -w fields", exitBadFeature, "use simple or json"},
		{"wal dump --data-dir " + dir + " extra", exitError, "unknown command"},
		{"snapshot status x --timeout=-1s", exitBadArgs, "--timeout must not be negative"},
		{"hashkv", exitError, "accepts 1 arg(s), received 0"},
		{"import-config", exitBadArgs, "import-config requires one source"},
		{"import-config x --environment", exitBadArgs, "requires one source"},
		{"import-config " + filepath.Join(dir, "none"), exitError, "no such file"},
		{"import-config --environment-file " + filepath.Join(dir, "none"), exitError, "no such file"},
		{"snapshot nothing", 0, ""}, // cobra shows the help, as etcdutl does
	} {
		out, errs, status := verbs(strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(errs, c.word) {
			t.Errorf("%s: status %d\n%s%s", c.args, status, out, errs)
		}
	}
}

func TestImportConfigKeepsAFileThatIsThere(t *testing.T) {
	dir := t.TempDir()
	in, to := filepath.Join(dir, "etcd.yml"), filepath.Join(dir, "kvd.toml")
	must(t, os.WriteFile(in, []byte("name: a\ndiscovery-config: {client: {auth: {password: p}}}\nlisten-client-urls: http://10.0.0.1:1\n"), 0o600))
	_, errs, status := verbs("import-config", in, "-o", to)
	if status != 78 || !strings.Contains(errs, "kvd would not start with it") || !strings.Contains(errs, "It holds a password") {
		t.Errorf("a file that kvd refuses: status %d, %s", status, errs)
	}
	info, err := os.Stat(to)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("a password for everybody to read: %v", info.Mode())
	}
	must(t, os.WriteFile(to, []byte("mine"), 0o600))
	if _, errs, status := verbs("import-config", in, "-o", to); status != exitError || !strings.Contains(errs, "--force") {
		t.Errorf("status %d, %s", status, errs)
	}
	if b, _ := os.ReadFile(to); string(b) != "mine" {
		t.Errorf("it was replaced by %q", b)
	}
	verbs("import-config", in, "-o", to, "--force")
	if b, _ := os.ReadFile(to); !strings.Contains(string(b), `name = "a"`) {
		t.Errorf("it was not replaced: %q", b)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestFlagsMayStandBeforeTheVerb(t *testing.T) {
	for _, c := range [][2]string{
		{"--write-out=table snapshot status f", "snapshot status f --write-out=table"},
		{"-w json --timeout 5s hashkv f", "hashkv f -w json --timeout 5s"},
		{"-wjson check f", "check f -wjson"},
		{"--name n1 --data-dir d", "--name n1 --data-dir d"},
		{"-w", "-w"},
		{"", ""},
	} {
		if got := strings.Join(verbFirst(strings.Fields(c[0])), " "); got != c[1] {
			t.Errorf("%q becomes %q", c[0], got)
		}
	}
}

// full is an output that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestAnAnswerThatCannotBeWrittenIsNoSuccess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yml")
	must(t, os.WriteFile(file, []byte("name: a\n"), 0o600))
	var errs bytes.Buffer
	if status := run([]string{"import-config", file}, full{}, &errs); status != exitIO || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("status %d, %s", status, errs.String())
	}
}

func TestCompletionKnowsTheVerbs(t *testing.T) {
	out, _, _ := verbs("__complete", "snapshot", "")
	for _, word := range []string{"restore", "status"} {
		if !strings.Contains(out, word) {
			t.Errorf("completion of snapshot has no %s:\n%s", word, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, errs, status := verbs("completion", shell); status != 0 || len(out) < 1000 {
			t.Errorf("%s: status %d, %d bytes, %s", shell, status, len(out), errs)
		}
	}
}
