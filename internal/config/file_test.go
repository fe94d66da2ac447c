package config

import (
	"errors"
	"strings"
	"testing"
)

func TestTheFileTakesNaturalTypes(t *testing.T) {
	c := mustLoad(t, sources{file: `
# a comment with = and [brackets]
"name" = "m1"
listen-client-urls = ["http://127.0.0.1:2", "http://127.0.0.1:1"]
advertise_client_urls = "http://127.0.0.1:1,http://127.0.0.1:2"
heartbeat-interval = 50
election-timeout = "2s"
auth-token-ttl = "5m"
quota-backend-bytes = "4GiB"
max-request-bytes = 2_097_152
grpc-keepalive-interval = 0
auto-compaction-retention = 2
pre-vote = false
feature-gates = { InitialCorruptCheck = true, AllBeta = false }
host-whitelist = ["b", "a"]
log-rotation-config-json = '''
{"maxsize": 1}'''
initial-cluster = ["m1=http://127.0.0.1:1", "m1=http://127.0.0.1:2"]
initial-advertise-peer-urls = [
  "http://127.0.0.1:1", # one
  "http://127.0.0.1:2",
]
`})
	for name, want := range map[string]string{
		"name":                      "m1",
		"listen-client-urls":        "http://127.0.0.1:1,http://127.0.0.1:2",
		"advertise-client-urls":     "http://127.0.0.1:1,http://127.0.0.1:2",
		"heartbeat-interval":        "50",
		"election-timeout":          "2000",
		"auth-token-ttl":            "300",
		"quota-backend-bytes":       "4294967296",
		"max-request-bytes":         "2097152",
		"grpc-keepalive-interval":   "0s",
		"auto-compaction-retention": "2",
		"pre-vote":                  "false",
		"feature-gates":             "AllBeta=false,InitialCorruptCheck=true",
		"host-whitelist":            "a,b",
		"log-rotation-config-json":  `{"maxsize": 1}`,
		"initial-cluster":           "m1=http://127.0.0.1:1,m1=http://127.0.0.1:2",
	} {
		if got := valueOf(t, c, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"name": "3:1", "initial-advertise-peer-urls": "19:1", "initial-cluster": "18:1"} {
		if got := c.Origin(name).Place; got != DefaultFile+":"+want {
			t.Errorf("%s from %s, want line %s", name, got, want)
		}
	}
}

func TestFaultsOfTheFileNameTheirPlace(t *testing.T) {
	for _, c := range []struct{ file, text string }{
		{"\n\n  max-wals = \"x\"", ":3:3: max-wals: wrong type: a string; want number of files"},
		{"name = 123", ":1:1: name: wrong type: an integer; want string"},
		{"pre-vote = \"true\"", "wrong type: a string; want true or false"},
		{"max-wals = 1.5", "wrong type: a decimal number"},
		{"max-wals = 2020-01-01", "wrong type: a date or time"},
		{"max-wals = -1", `invalid value "-1": parse error; want number of files`},
		{"corrupt-check-time = 5", `wrong type: an integer; want duration such as "100ms"`},
		{"corrupt-check-time = \"5\"", `invalid value "5": parse error; want duration such as "100ms"`},
		{"host-whitelist = [1]", "wrong type: a list with something other than strings"},
		{"feature-gates = { A = 1 }", "wrong type: a table"},
		{"x = \"\"\"\na = 1\n\"\"\"\nlisten-clent-urls = []", `:4:1: listen-clent-urls: unknown option; did you mean "listen-client-urls"?`},
		{"data_dir = \"a\"\ndata-dir = \"b\"", ":2:1: data-dir: set a second time, after data_dir"},
		{"name = \"a\"\nname = \"b\"", ":2:"},
		{"[member]\nname = \"a\"", ":1:1: member: a table where an option should be; options are flat"},
		{"name.first = \"a\"", ":1:1: name: a table where an option should be"},
		{"name = a", "strings need quotes"},
		{"name = \"a", ":1:"},
		{"config-file = \"x\"", "not an option of the file"},
		{"version = true", "not an option of the file"},
		{"v = true", "unknown option"},
		{"name: m1\ndata-dir: /d", ":1:1: this is etcd's own kind of file"},
		{"---\nname: m1", ":1:1: this is etcd's own kind of file"},
		{"# etcd\n\n{\n\"name\": \"m1\"}", ":3:1: this is etcd's own kind of file"},
		{"heartbeat-interval = 300\nelection-timeout = 1000", ":2:1: election-timeout: --election-timeout[1000ms]"},
		{"listen-client-urls = \"http://127.0.0.1:1\"", ":1:1: listen-client-urls: --advertise-client-urls is required"},
	} {
		faults := faultsOf(t, sources{file: c.file})
		found := false
		for _, f := range faults {
			found = found || strings.Contains(f.Error(), c.text)
			if f.File != DefaultFile || !strings.HasPrefix(f.Source, DefaultFile+":") || f.Line == 0 || f.Column == 0 {
				t.Errorf("%q: no place in %+v", c.file, f)
			}
		}
		if !found {
			t.Errorf("%q:\n got %v\nwant %s", c.file, faults, c.text)
		}
	}
}

func TestANamedFileReplacesTheUsualOne(t *testing.T) {
	f := files{DefaultFile: "name = \"usual\"", "/a.toml": "name = \"a\"", "/b.toml": "name = \"b\""}
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{nil, nil, "usual"},
		{[]string{"--config-file=/a.toml"}, nil, "a"},
		{nil, []string{"KVD_CONFIG_FILE=/b.toml"}, "b"},
		{[]string{"--config-file", "/a.toml"}, []string{"KVD_CONFIG_FILE=/b.toml"}, "a"},
	} {
		got, err := load(c.args, c.env, f.read, noHost, false)
		if err != nil || got.Member.Name != c.want {
			t.Errorf("%v %v: %v, %v", c.args, c.env, got, err)
		}
	}
}

func TestAFileThatCannotBeReadIsAFault(t *testing.T) {
	denied := func(string) ([]byte, error) { return nil, errors.New("permission denied") }
	_, err := load(nil, nil, denied, noHost, false)
	if err == nil || !strings.Contains(err.Error(), DefaultFile) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%v", err)
	}
}

func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "name = \"a\"\n", "a = [\n1,\n[2]]\nb = '''\n'''\n[t]\nname=1", "\"a\\u0022b\" = 1\na.b.\"c\" = {d = 1}\n",
		"listen-client-urls = [\"http://127.0.0.1:1\"]\n", "name: a", "x = \"\"\"a\"\"\"\"\nname = 1", "'''=1", "=", "[", "\xff",
		"feature-gates = {AllAlpha = true}\nquota-backend-bytes = \"1e300TiB\"", "heartbeat-interval = 0", "\"\" = 1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		_, err := (sources{file: file}).load()
		if err == nil {
			return
		}
		var faults Faults
		if !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("%q: %v", file, err)
		}
		lines := strings.Count(file, "\n") + 1
		for _, fault := range faults {
			if fault.File != DefaultFile || fault.Problem == "" || fault.Line < 0 || fault.Line > lines {
				t.Errorf("%q: %+v", file, fault)
			}
		}
	})
}

// FuzzScan looks for files on which the scanner does not end.
func FuzzScan(f *testing.F) {
	f.Add([]byte("a = 1"))
	f.Add([]byte("[[a\"]\n'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range scanKeys(data) {
			if k.line < 1 || k.column < 1 {
				t.Errorf("%q: %+v", data, k)
			}
		}
	})
}
