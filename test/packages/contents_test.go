package packages

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// files are what the packages hold: "mode owner:group path", with patterns where
// there are several of a kind. What dpkg unpacks before the group exists is given
// to it by postinst.
var files = []struct{ both, deb, rpm string }{
	{both: `-rwxr-xr-x root:root /usr/bin/(kvd|kvctl)`},
	{both: `-rwxr-xr-x root:root /usr/libexec/kvd-backup`},
	{both: `-rw-r--r-- root:root /usr/lib/systemd/system/kvd[a-z@-]*\.(service|socket|timer)`},
	{both: `-rw-r--r-- root:root /usr/lib/sysusers\.d/kvd\.conf`},
	{both: `-rw-r--r-- root:root /usr/lib/tmpfiles\.d/kvd\.conf`},
	{both: `-rw-r--r-- root:root /usr/lib/systemd/catalog/kvd\.catalog`},
	{deb: `drwxr-x--- root:root /etc/kvd`, rpm: `drwxr-x--- root:kvd /etc/kvd`},
	{deb: `-rw-r----- root:root /etc/kvd/[a-z]+\.(toml|env)`, rpm: `-rw-r----- root:kvd /etc/kvd/[a-z]+\.(toml|env)`},
	{both: `-rw-r--r-- root:root /usr/share/man/man8/kvd[a-z-]*\.8\.gz`},
	{both: `-rw-r--r-- root:root /usr/share/man/man1/kvctl[a-z-]*\.1\.gz`},
	{both: `-rw-r--r-- root:root /usr/share/man/man5/kvd\.toml\.5\.gz`},
	{both: `-rw-r--r-- root:root /usr/share/bash-completion/completions/(kvd|kvctl)`},
	{deb: `-rw-r--r-- root:root /usr/share/zsh/vendor-completions/_(kvd|kvctl)`, rpm: `-rw-r--r-- root:root /usr/share/zsh/site-functions/_(kvd|kvctl)`},
	{both: `-rw-r--r-- root:root /usr/share/fish/vendor_completions\.d/(kvd|kvctl)\.fish`},
	{both: `-rw-r--r-- root:root /usr/share/kvd/prometheus/kvd\.rules\.yml`},
	{both: `-rw-r--r-- root:root /usr/share/kvd/grafana/kvd\.json`},
	{deb: `-rw-r--r-- root:root /usr/share/doc/kvd/copyright`, rpm: `-rw-r--r-- root:root /usr/share/licenses/kvd/LICENSE`},
	{deb: `-rw-r--r-- root:root /usr/share/doc/kvd/changelog\.Debian\.gz`, rpm: `-rw-r--r-- root:root /usr/share/doc/kvd/CHANGELOG\.md`},
	{deb: `-rw-r--r-- root:root /usr/share/doc/kvd/changelog\.gz`},
	{deb: `-rw-r--r-- root:root /usr/share/doc/kvd/THIRD-PARTY\.gz`, rpm: `-rw-r--r-- root:root /usr/share/licenses/kvd/THIRD-PARTY\.gz`},
	{both: `-rw-r--r-- root:root /usr/share/doc/kvd/(README|docs/[a-z-]+)\.md`},
	{deb: `-rw-r--r-- root:root /usr/share/lintian/overrides/kvd`},
}

// architectures by Debian's name and by rpm's.
var architectures = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// output runs a program to its end.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.Bytes())
	}
	return string(out)
}

// debFiles are "mode owner:group path" of the files of a deb, without the
// directories that it shares with others.
func debFiles(t *testing.T, deb string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(output(t, "dpkg-deb", "-c", deb)) {
		f := strings.Fields(line)
		path := strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/")
		if f[0][0] == 'd' && path != "/etc/kvd" {
			if f[0] != "drwxr-xr-x" || f[1] != "root/root" {
				t.Errorf("%s: %s", deb, line)
			}
			continue
		}
		found = append(found, f[0]+" "+strings.Replace(f[1], "/", ":", 1)+" "+path)
	}
	return found
}

func rpmFiles(t *testing.T, rpm string) []string {
	t.Helper()
	out := output(t, "rpm", "-qp", "--qf", `[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]`, rpm)
	return strings.Split(strings.TrimSpace(out), "\n")
}

func TestThePackagesHoldWhatTheyPromiseAndNothingElse(t *testing.T) {
	t.Parallel()
	for debian, rpm := range architectures {
		for kind, found := range map[string][]string{
			"deb": debFiles(t, one(t, "kvd_*_"+debian+".deb")),
			"rpm": rpmFiles(t, one(t, "kvd-*."+rpm+".rpm")),
		} {
			expected := map[string]int{}
			for _, f := range files {
				want := f.both
				if kind == "deb" && want == "" {
					want = f.deb
				} else if want == "" {
					want = f.rpm
				}
				if want != "" {
					expected[want] = 0
				}
			}
			for _, line := range found {
				known := false
				for want := range expected {
					if regexp.MustCompile("^" + want + "$").MatchString(line) {
						expected[want]++
						known = true
					}
				}
				if !known {
					t.Errorf("%s for %s: unexpected: %s", kind, debian, line)
				}
			}
			for want, n := range expected {
				if least := 1 + strings.Count(want, "(kvd|kvctl)"); n < least {
					t.Errorf("%s for %s: %d files are %s", kind, debian, n, want)
				}
			}
			units, err := filepath.Glob("../../systemd/kvd*.*")
			if err != nil || len(units) < 7 {
				t.Fatalf("units: %q, %v", units, err)
			}
			for _, unit := range units {
				if !slices.Contains(found, "-rw-r--r-- root:root /usr/lib/systemd/system/"+filepath.Base(unit)) {
					t.Errorf("%s for %s: no %s", kind, debian, filepath.Base(unit))
				}
			}
		}
	}
}

// TestConfigurationIsTheAdministrators: what is packed is the sample, of which
// internal/config shows that it has every option, commented out.
func TestConfigurationIsTheAdministrators(t *testing.T) {
	t.Parallel()
	deb, rpm := unpack(t, runtime.GOARCH)
	for _, root := range []string{deb, rpm} {
		output(t, "cmp", "../../etc/kvd.toml", filepath.Join(root, "etc/kvd/kvd.toml"))
	}
	if got := output(t, "dpkg-deb", "-I", one(t, "kvd_*_amd64.deb"), "conffiles"); got != "/etc/kvd/backup.env\n/etc/kvd/kvd.toml\n" {
		t.Errorf("conffiles: %q", got)
	}
	out := output(t, "rpm", "-qp", "--qf", `[%{FILEFLAGS:fflags} %{FILENAMES}\n]`, one(t, "kvd-*.x86_64.rpm"))
	has(t, out, "cn /etc/kvd/kvd.toml", "cn /etc/kvd/backup.env")
	if n := len(regexp.MustCompile(`(?m)^[a-z]*c`).FindAllString(out, -1)); n != 2 {
		t.Errorf("%d files are configuration:\n%s", n, out)
	}
}

// unpack unpacks both packages of an architecture.
func unpack(t *testing.T, debian string) (deb, rpm string) {
	t.Helper()
	deb, rpm = t.TempDir(), t.TempDir()
	output(t, "dpkg-deb", "-x", one(t, "kvd_*_"+debian+".deb"), deb)
	output(t, "sh", "-c", `rpm2cpio "$0" | (cd "$1" && cpio -id --quiet --no-absolute-filenames)`, one(t, "kvd-*."+architectures[debian]+".rpm"), rpm)
	return deb, rpm
}

func TestTheProgramsAreStaticPositionIndependentAndKnowTheirVersion(t *testing.T) {
	t.Parallel()
	version := strings.TrimSpace(output(t, "cat", "../../VERSION"))
	for debian := range architectures {
		deb, rpm := unpack(t, debian)
		for _, name := range []string{"kvd", "kvctl"} {
			path := filepath.Join(deb, "usr/bin", name)
			program, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if same, err := os.ReadFile(filepath.Join(rpm, "usr/bin", name)); err != nil || !bytes.Equal(program, same) {
				t.Errorf("%s of the rpm for %s is another one (%v)", name, debian, err)
			}
			info, err := buildinfo.Read(bytes.NewReader(program))
			if err != nil {
				t.Fatal(err)
			}
			settings := ""
			for _, s := range info.Settings {
				settings += s.Key + "=" + s.Value + "\n"
			}
			has(t, settings, "-buildmode=pie", "-trimpath=true", "CGO_ENABLED=0", "GOARCH="+debian)
			if file, err := elf.NewFile(bytes.NewReader(program)); err != nil || file.Type != elf.ET_DYN {
				t.Errorf("%s for %s is no position-independent program: %v", name, debian, err)
			} else if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
				t.Errorf("%s for %s wants libraries: %q, %v", name, debian, libraries, err)
			}
			if !bytes.Contains(program, []byte(version)) {
				t.Errorf("%s for %s does not know version %s", name, debian, version)
			}
			if debian != runtime.GOARCH {
				continue
			}
			said := output(t, path, "version")
			if !strings.Contains(said, version) || !regexp.MustCompile(`\b([0-9a-f]{12}|unknown)\b`).MatchString(said) {
				t.Errorf("%s version says\n%s", name, said)
			}
		}
	}
}

// TestManPagesAndCompletionsAreOfThisVersion asks the programs that are packed,
// and the shells that are there.
func TestManPagesAndCompletionsAreOfThisVersion(t *testing.T) {
	t.Parallel()
	deb, _ := unpack(t, runtime.GOARCH)
	for _, page := range []string{"man8/kvd.8", "man1/kvctl.1", "man5/kvd.toml.5"} {
		path := filepath.Join(deb, "usr/share/man", page+".gz")
		source := output(t, "gzip", "-dc", path)
		title := strings.TrimSuffix(filepath.Base(page), filepath.Ext(page))
		if !regexp.MustCompile(`(?m)^\.TH "?(?i:` + regexp.QuoteMeta(title) + `)"? "?` + page[3:4]).MatchString(source) {
			t.Errorf("%s: no title in %.200s", page, source)
		}
		if !strings.Contains(source, ".SH NAME") && !strings.Contains(source, `.SH "NAME"`) {
			t.Errorf("%s: no NAME in %.200s", page, source)
		}
	}
	completes := func(words ...string) string {
		program := words[0]
		script := fmt.Sprintf(`
			_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
			_init_completion() { _get_comp_words_by_ref; }
			compopt() { :; }
			PATH=%s/usr/bin:$PATH
			source %s/usr/share/bash-completion/completions/%s
			COMP_WORDS=(%s) COMP_LINE=%q COMP_CWORD=%d COMP_TYPE=9
			COMP_POINT=${#COMP_LINE}
			$(complete -p %s | sed 's/.*-F \([^ ]*\).*/\1/')
			printf '%%s\n' "${COMPREPLY[@]}"`,
			deb, deb, program, strings.Join(words, " "), strings.Join(words, " "), len(words)-1, program)
		return output(t, "bash", "-c", script)
	}
	has(t, completes("kvctl", "endp"), `endpoint\s*`)
	has(t, completes("kvd", "sna"), `snapshot\s*`)
	for shell, path := range map[string]string{"zsh": "zsh/vendor-completions/_", "fish": "fish/vendor_completions.d/"} {
		for _, name := range []string{"kvd", "kvctl"} {
			if shell == "fish" {
				name += ".fish"
			}
			file := filepath.Join(deb, "usr/share", path+name)
			if _, err := exec.LookPath(shell); err == nil {
				output(t, shell, "-n", file)
			} else if text := output(t, "cat", file); !strings.Contains(text, strings.TrimSuffix(name, ".fish")) {
				t.Errorf("%s is not about %s", file, name)
			}
		}
	}
}

func TestRulesAndDashboardCanBeRead(t *testing.T) {
	t.Parallel()
	deb, _ := unpack(t, runtime.GOARCH)
	if !json.Valid([]byte(output(t, "cat", filepath.Join(deb, "usr/share/kvd/grafana/kvd.json")))) {
		t.Error("the dashboard is no JSON")
	}
	rules := output(t, "cat", filepath.Join(deb, "usr/share/kvd/prometheus/kvd.rules.yml"))
	if !strings.Contains(rules, "groups:") || strings.Count(rules, "- alert:") < 5 {
		t.Errorf("the rules are %.300s", rules)
	}
	changes := output(t, "gzip", "-dc", filepath.Join(deb, "usr/share/doc/kvd/changelog.Debian.gz"))
	control := output(t, "dpkg-deb", "-f", one(t, "kvd_*_"+runtime.GOARCH+".deb"), "Version")
	if !strings.HasPrefix(changes, "kvd ("+strings.TrimSpace(control)+") ") {
		t.Errorf("version %sbut the changelog begins %.100s", control, changes)
	}
}
