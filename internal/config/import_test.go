package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

const etcdFile = `# as etcd reads it
name: n1
data-dir: /var/lib/etcd
wal-dir:
Quota-Backend-Bytes: 4294967296
heartbeat-interval: 200
election-timeout: 2000
grpc-keepalive-min-time: 7000000000
listen-client-urls: https://10.0.0.1:2379
advertise-client-urls: https://10.0.0.1:2379
client-transport-security:
  cert-file: /c.crt
  key-file: /c.key
peer-transport-security: &peer
  cert-file: /p.crt
  key-file: /p.key
  allowed-cn: [a, "b"]
  strange: 1
log-outputs: [stderr, /var/log/etcd.log]
socket-options: {reuse-port: true}
discovery-config:
  token: t
  client: {endpoints: ["http://d:2379"], dial-timeout: 3000000000, auth: {username: u, password: "p\"\u0001"}}
experimental-compaction-batch-limit: 77
experimental-initial-corrupt-check: true
backend-batch-limit: 3
enable-v2: false
nama: typo
max-txn-ops: many
`

func imported(t *testing.T, text string) (*Imported, map[string]any) {
	t.Helper()
	made, err := ImportYAML("etcd.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if _, err := toml.Decode(made.Text, &values); err != nil {
		t.Fatalf("%v\n%s", err, made.Text)
	}
	return made, values
}

func TestImportTakesOverWhatEtcdReads(t *testing.T) {
	made, got := imported(t, etcdFile)
	want := map[string]any{
		"name": "n1", "data-dir": "/var/lib/etcd", "quota-backend-bytes": int64(4 << 30),
		"heartbeat-interval": int64(200), "election-timeout": int64(2000), "grpc-keepalive-min-time": "7s",
		"listen-client-urls": []any{"https://10.0.0.1:2379"}, "advertise-client-urls": []any{"https://10.0.0.1:2379"},
		"cert-file": "/c.crt", "key-file": "/c.key", "peer-cert-file": "/p.crt", "peer-key-file": "/p.key",
		"peer-cert-allowed-cn": []any{"a", "b"}, "log-outputs": []any{"stderr", "/var/log/etcd.log"},
		"socket-reuse-port": true, "discovery-token": "t", "discovery-endpoints": []any{"http://d:2379"},
		"discovery-dial-timeout": "3s", "discovery-user": "u", "discovery-password": "p\"\x01",
		"compaction-batch-limit": int64(77), "feature-gates": "InitialCorruptCheck=true", "backend-batch-limit": int64(3),
	}
	for name, v := range want {
		if fmt.Sprint(got[name]) != fmt.Sprint(v) {
			t.Errorf("%s = %v, want %v", name, got[name], v)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("and %v", got)
	}
	lost := strings.Join(made.Lost, "\n")
	for _, word := range []string{
		"etcd.yml:18 (peer-transport-security.strange): kvd has no such option",
		"(enable-v2): etcd 3.7 has no such option any more",
		"(nama): neither etcd 3.7 nor kvd has such an option (did you mean \"name\"?)",
		`(max-txn-ops): etcd would not start with it: invalid value "many"`,
	} {
		if !strings.Contains(lost, word) {
			t.Errorf("not said: %s\n%s", word, lost)
		}
	}
	for _, word := range []string{"backend-batch-limit has no effect", "Set by etcd.yml:12 (client-transport-security.cert-file)."} {
		if !strings.Contains(made.Text, word) {
			t.Errorf("not in the file: %s\n%s", word, made.Text)
		}
	}
	if !made.Secret {
		t.Error("the password is no secret")
	}
}

// Each option that etcd has goes in with its default and comes out as valid.
func TestImportedFilePassesTheCheck(t *testing.T) {
	var b strings.Builder
	n := 0
	for _, o := range table() {
		if o.is(own|outside) || o.standard == "" || o.name == "max-wals" {
			continue
		}
		n++
		fmt.Fprintf(&b, "%s: %q\n", o.name, o.standard)
	}
	made, got := imported(t, b.String())
	if len(made.Faults) > 0 || len(made.Lost) > 0 {
		t.Errorf("faults %v, lost %v", made.Faults, made.Lost)
	}
	if len(got) < n {
		t.Errorf("%d options of %d", len(got), n)
	}
}

func TestImportSaysWhatKvdCannotDo(t *testing.T) {
	made, _ := imported(t, "name: a\nlisten-client-urls: http://10.0.0.1:2379\n")
	if len(made.Faults) == 0 || !strings.Contains(made.Text, "advertise-client-urls") {
		t.Errorf("no fault: %v\n%s", made.Faults, made.Text)
	}
}

func TestImportOfTheEnvironment(t *testing.T) {
	made := ImportEnvironment("/etc/default/etcd", Assignments([]byte(`
# ETCD_NAME=no
ETCD_NAME="n1"
export ETCD_DATA_DIR='/data'
ETCD_LISTEN_PEER_URLS=http://127.0.0.1:1
ETCD_MAX_WALS=
ETCD_CONFIG_FILE=/x.yml
ETCDCTL_API=3
OTHER=1
ETCD_WHAT=x
`)))
	values := map[string]any{}
	if _, err := toml.Decode(made.Text, &values); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(values) != "map[data-dir:/data listen-peer-urls:[http://127.0.0.1:1] name:n1]" {
		t.Error(values)
	}
	if lost := strings.Join(made.Lost, "\n"); !strings.Contains(lost, "etcd reads /x.yml instead") || !strings.Contains(lost, "ETCD_WHAT") || len(made.Lost) != 2 {
		t.Error(lost)
	}
}

func TestWhatIsNoFileOfEtcdsIsRefused(t *testing.T) {
	for _, text := range []string{"", "# nothing", "- a\n- b", "a: [", "text", "\x00"} {
		if _, err := ImportYAML("x", []byte(text)); err == nil || !strings.Contains(err.Error(), "not a configuration file of etcd") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever the file holds, the result is a file that can be read.
func FuzzImport(f *testing.F) {
	f.Add([]byte(etcdFile))
	f.Add([]byte("name: \"a\\nb = 1\"\n\"x\\ny\": 3\npeer-transport-security: 4\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		made, err := ImportYAML("etcd.yml", data)
		if err != nil {
			return
		}
		values := map[string]any{}
		if _, err := toml.Decode(made.Text, &values); err != nil {
			t.Errorf("%v\n%s", err, made.Text)
		}
	})
}
