package config

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -run ^TestGeneratedFilesAreCurrent$ -update .

var update = flag.Bool("update", false, "write the generated files")

func TestGeneratedFilesAreCurrent(t *testing.T) {
	var sample, reference, help strings.Builder
	for _, err := range []error{Sample(&sample), Reference(&reference), Usage(&help)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"../../etc/kvd.toml":          sample.String(),
		"../../docs/configuration.md": reference.String(),
		"testdata/help.txt":           help.String(),
	} {
		if *update {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if data, err := os.ReadFile(name); err != nil || string(data) != text {
			t.Errorf("%s is not current (%v); run go generate ./internal/config", name, err)
		}
	}
}

func TestTheSampleHoldsEveryOptionWithItsDefault(t *testing.T) {
	var b strings.Builder
	if err := Sample(&b); err != nil {
		t.Fatal(err)
	}
	as := mustLoad(t, sources{file: b.String()})
	if reload, restart := Changes(mustLoad(t, sources{}), as); len(reload)+len(restart) > 0 {
		t.Errorf("the sample changes %v %v", reload, restart)
	}
	written := regexp.MustCompile(`(?m)^# ([a-z][a-z0-9-]*) = `).ReplaceAllString(b.String(), "$1 = ")
	c, err := sources{file: written}.load()
	if err != nil {
		t.Fatalf("with every option written out:\n%v", err)
	}
	reload, restart := Changes(mustLoad(t, sources{}), c)
	if len(reload)+len(restart) > 0 {
		t.Errorf("written out, the sample changes %v %v", reload, restart)
	}
	for _, o := range table() {
		if !o.is(outside) && !c.Given(o.name) {
			t.Errorf("%s is not in the sample", o.name)
		}
	}
}

func TestCheckAnswersForTheDaemon(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{nil, 0, "the configuration is valid (" + DefaultFile + ")\n"},
		{[]string{"--max-wals=x"}, ExitStatus, "fault: flag --max-wals: "},
		{[]string{"--initial-cluster-state=existing"}, 0, "the configuration is valid"},
		{[]string{"--max-snapshots=1"}, 0, "warning: max-snapshots is deprecated"},
		{[]string{"--help"}, 0, "Usage:"},
	} {
		text, status := Check(c.args, nil, files{DefaultFile: "name = \"a\""}.read)
		if status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%v: %d\n%s", c.args, status, text)
		}
	}
	text, status := Check([]string{"--json"}, nil, files{DefaultFile: "name = 1\nx = 1"}.read)
	var verdict struct {
		Valid  bool
		Faults []struct {
			File    string
			Line    int
			Key     string
			Problem string
		}
	}
	if err := json.Unmarshal([]byte(text), &verdict); err != nil {
		t.Fatal(err)
	}
	if status != ExitStatus || verdict.Valid || len(verdict.Faults) != 2 || verdict.Faults[1].Line != 2 || verdict.Faults[1].Key != "x" {
		t.Errorf("%d %s", status, text)
	}
}

func TestExplainShowsValueAndOrigin(t *testing.T) {
	f := files{DefaultFile: "\nname = \"a\""}
	text, status := Explain([]string{"--max-wals", "7"}, []string{"KVD_MAX_LEARNERS=3"}, f.read)
	if status != 0 {
		t.Fatal(text)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		rows[fields[0]] = fields[1:]
	}
	for name, want := range map[string][]string{
		"name":         {"a", DefaultFile + ":2:1"},
		"max-wals":     {"7", "flag", "--max-wals"},
		"max-learners": {"3", "environment", "KVD_MAX_LEARNERS"},
		"max-txn-ops":  {"128", "default"},
		"data-dir":     {"/var/lib/kvd", "derived", "from", "kvd.service"},
	} {
		if !slices.Equal(rows[name], want) {
			t.Errorf("%s: %v, want %v", name, rows[name], want)
		}
	}
	text, _ = Explain([]string{"--json"}, nil, f.read)
	var answer struct {
		Options []struct{ Key, Value, Origin string }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Options) < 110 {
		t.Errorf("%d options, %v", len(answer.Options), err)
	}
	if _, status := Explain([]string{"--nonsense"}, nil, f.read); status != ExitStatus {
		t.Errorf("status %d", status)
	}
}

func TestChangesTellWhatAReloadTakesOver(t *testing.T) {
	running := mustLoad(t, sources{})
	read := mustLoad(t, sources{args: []string{"--log-level=debug", "--max-txn-ops=5"}})
	reload, restart := Changes(running, read)
	if !slices.Equal(reload, []string{"log-level"}) || !slices.Equal(restart, []string{"max-txn-ops"}) {
		t.Errorf("%v %v", reload, restart)
	}
}

func TestMisspellingsAreRecognized(t *testing.T) {
	known := newLoader(nil).known
	for word, want := range map[string]string{
		"listen_client_urls2": "listen-client-urls", "Data-Dir": "data-dir", "anme": "name",
		"hearbeat-interval": "heartbeat-interval", "zzz": "", "x": "",
	} {
		if got := meant(word, known); (want == "" && got != "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", word, got)
		}
	}
}
