package config

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// files answers for a file system.
type files map[string]string

func (f files) read(name string) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(data), nil
}

func noHost() (string, error) { return "", errors.New("no route in a test") }

// sources is what a configuration is made of, in a test.
type sources struct {
	args []string
	env  []string
	file string // DefaultFile
}

func (s sources) load() (*Config, error) {
	f := files{}
	if s.file != "" {
		f[DefaultFile] = s.file
	}
	return load(s.args, s.env, f.read, noHost, false)
}

func mustLoad(t *testing.T, s sources) *Config {
	t.Helper()
	c, err := s.load()
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	return c
}

func faultsOf(t *testing.T, s sources) Faults {
	t.Helper()
	_, err := s.load()
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("%+v: want faults, got %v", s, err)
	}
	return faults
}

func valueOf(t *testing.T, c *Config, name string) string {
	t.Helper()
	for _, o := range table() {
		if o.name == name {
			return o.bind(c).text()
		}
	}
	t.Fatalf("no option %s", name)
	return ""
}

func TestTheTableIsSound(t *testing.T) {
	seen := map[string]bool{}
	places := map[any]string{}
	c := new(Config)
	for _, o := range table() {
		if seen[o.name] || slices.Contains(legacyFlags(), o.name) {
			t.Errorf("%s twice", o.name)
		}
		seen[o.name] = true
		if o.help == "" || !strings.HasSuffix(o.help, ".") {
			t.Errorf("%s: help %q is no sentence", o.name, o.help)
		}
		if !slices.Contains(sections(), o.section) {
			t.Errorf("%s: section %q is not shown", o.name, o.section)
		}
		place := reflect.ValueOf(o.bind(c)).Field(0).Pointer()
		if other, taken := places[place]; taken {
			t.Errorf("%s and %s share their place", o.name, other)
		}
		places[place] = o.name
		if o.standard != "" {
			v := o.bind(c)
			if err := v.set(o.standard); err != nil {
				t.Errorf("%s: default %q: %v", o.name, o.standard, err)
				continue
			}
			again := o.bind(new(Config))
			if err := again.set(v.text()); err != nil || again.text() != v.text() {
				t.Errorf("%s: %q reads back as %q, %v", o.name, v.text(), again.text(), err)
			}
		}
	}
}

// etcdHelp reads the options and the defaults that etcd's help shows.
func etcdHelp(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open("testdata/etcd-help.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	shown := map[string]string{}
	inOptions := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		inOptions = inOptions || lines.Text() == "Member:"
		rest, ok := strings.CutPrefix(lines.Text(), "  --")
		if !ok || !inOptions {
			continue
		}
		name, standard, _ := strings.Cut(rest, " ")
		shown[name] = strings.Trim(standard, "'")
	}
	return shown
}

func TestEveryOptionOfEtcdHasItsDefault(t *testing.T) {
	shown := etcdHelp(t)
	if len(shown) < 110 {
		t.Fatalf("only %d options in the help", len(shown))
	}
	// Where the help does not show the default as one would write it, or kvd
	// means another on purpose.
	corrected := map[string]string{
		"data-dir": "default.etcd", "max-concurrent-streams": "4294967295", "backend-batch-interval": "0",
		"log-format": "auto", "memory-mlock": "false", "enable-grpc-gateway": "true",
		"bootstrap-defrag-threshold-megabytes": "0", "compaction-sleep-interval": "10ms",
		"downgrade-check-time": "5s", "snapshot-catchup-entries": "5000",
		"quota-backend-bytes": "2147483648", "backend-batch-limit": "10000", // what 0 means
		"corrupt-check-time": "10m",   // on
		"discovery-fallback": "proxy", // there is one again
	}
	gone := []string{"discovery", "discovery-proxy"} // in the help, and refused by etcd
	defaults := mustLoad(t, sources{})
	for name, standard := range shown {
		if slices.Contains(gone, name) {
			continue
		}
		if text, ok := corrected[name]; ok {
			standard = text
		}
		l := newLoader(nil)
		o := l.names[name]
		if o == nil {
			t.Errorf("%s: not an option", name)
			continue
		}
		want := o.bind(new(Config))
		if err := want.set(standard); err != nil {
			t.Errorf("%s: etcd's default %q: %v", name, standard, err)
			continue
		}
		if got := valueOf(t, defaults, name); got != want.text() {
			t.Errorf("%s is %q, etcd's is %q", name, got, want.text())
		}
		if _, err := (sources{args: []string{"--" + name + "=" + standard, "--advertise-client-urls=http://localhost:2379"}}).load(); err != nil {
			t.Errorf("--%s=%s: %v", name, standard, err)
		}
	}
	for _, name := range gone {
		if _, err := (sources{args: []string{"--" + name, "x"}}).load(); err == nil ||
			!strings.Contains(err.Error(), "flag provided but not defined: -"+name) {
			t.Errorf("--%s: %v", name, err)
		}
	}
}

func TestDefaultsAreTyped(t *testing.T) {
	c := mustLoad(t, sources{})
	if c.Raft.HeartbeatInterval != 100*time.Millisecond || c.Raft.ElectionTicks() != 10 {
		t.Errorf("raft %+v", c.Raft)
	}
	if c.Store.QuotaBytes != 2<<30 || c.Store.ValueCacheBytes != 64<<20 || c.Store.FlushInterval != 100*time.Millisecond {
		t.Errorf("store %+v", c.Store)
	}
	if len(c.Listen.Client) != 1 || c.Listen.Client[0].Host != "localhost:2379" {
		t.Errorf("listen %+v", c.Listen)
	}
	if u := c.Cluster.Initial.Members["default"]; len(u) != 1 || u[0].Host != "localhost:2380" {
		t.Errorf("cluster %+v", c.Cluster.Initial)
	}
	if !c.Gates.On(FastLeaseKeepAlive) || !c.Gates.On(InitialCorruptCheck) || !c.Gates.On(LeaseCheckpoint) || c.Gates.On(LeaseCheckpointPersist) {
		t.Error("gates")
	}
}

func TestALaterLayerBeatsAnEarlierOne(t *testing.T) {
	s := sources{
		file: "max-txn-ops = 1\nmax-learners = 1\nmax-wals = 1\nfeature-gates = \"PriorityRequest=true\"\n",
		env:  []string{"KVD_MAX_LEARNERS=2", "KVD_MAX_WALS=2", "KVD_MAX_SNAPSHOTS=", "KVD_FEATURE_GATES=SetMemberLocalAddr=true"},
		args: []string{"--max-wals", "3"},
	}
	c := mustLoad(t, s)
	for name, want := range map[string][2]string{
		"max-txn-ops":   {"1", DefaultFile + ":1:1"},
		"max-learners":  {"2", "environment KVD_MAX_LEARNERS"},
		"max-wals":      {"3", "flag --max-wals"},
		"max-snapshots": {"5", "default"},
		"data-dir":      {"default.etcd", "derived from name"},
		"feature-gates": {"SetMemberLocalAddr=true", "environment KVD_FEATURE_GATES"},
	} {
		if got := valueOf(t, c, name); got != want[0] || c.Origin(name).String() != want[1] {
			t.Errorf("%s is %q from %s, want %v", name, got, c.Origin(name), want)
		}
	}
	if c.File != DefaultFile {
		t.Errorf("file %q", c.File)
	}
}

func TestFlagsAreReadAsEtcdReadsThem(t *testing.T) {
	for _, c := range []struct {
		args []string
		name string
		want string
	}{
		{[]string{"--name", "a"}, "name", "a"},
		{[]string{"--name=a"}, "name", "a"},
		{[]string{"-name", "a"}, "name", "a"},
		{[]string{"-name=a"}, "name", "a"},
		{[]string{"--name", "-a"}, "name", "-a"},
		{[]string{"--initial-cluster-token=a=b"}, "initial-cluster-token", "a=b"},
		{[]string{"--name", "a", "--name", "b"}, "name", "b"},
		{[]string{"--pre-vote=false"}, "pre-vote", "false"},
		{[]string{"--enable-pprof"}, "enable-pprof", "true"},
		{[]string{"--enable-pprof=T"}, "enable-pprof", "true"},
		{[]string{"--max-wals", "0x10"}, "max-wals", "16"},
		{[]string{"--heartbeat-interval", "50"}, "heartbeat-interval", "50"},
		{[]string{"--heartbeat-interval", "50ms"}, "heartbeat-interval", "50"},
		{[]string{"--grpc-keepalive-timeout", "90s"}, "grpc-keepalive-timeout", "1m30s"},
		{[]string{"--quota-backend-bytes", "-1"}, "quota-backend-bytes", "-1"},
		{[]string{"--quota-backend-bytes=4GiB"}, "quota-backend-bytes", "4294967296"},
		{[]string{"--listen-metrics-urls", "http://127.0.0.1:2,http://127.0.0.1:1,http://127.0.0.1:2"}, "listen-metrics-urls", "http://127.0.0.1:1,http://127.0.0.1:2"},
		{[]string{"--host-whitelist", "b,a,b"}, "host-whitelist", "a,b"},
		{[]string{"--cors", "http://b.com:80,http://a.com:80"}, "cors", "http://a.com:80,http://b.com:80"},
		{[]string{"--cors", "*"}, "cors", "*"},
		{[]string{"--peer-cert-allowed-cn", "b,a"}, "peer-cert-allowed-cn", "b,a"},
		{[]string{"--feature-gates", "AllAlpha=false", "--feature-gates", "InitialCorruptCheck=true"}, "feature-gates", "AllAlpha=false,InitialCorruptCheck=true"},
		{[]string{"--v", "--snapshot=x", "-vv", "--name=a"}, "name", "a"},
		{[]string{"--v2-deprecation", "gone"}, "v2-deprecation", "write-only"},
		{[]string{"--log-level", "WARN"}, "log-level", "warn"},
		{[]string{"--log-format", "console"}, "log-format", "text"},
		{[]string{"--watch-progress-notify-interval", "0"}, "watch-progress-notify-interval", "10m"},
		{[]string{"--watch-progress-notify-interval", "1ms"}, "watch-progress-notify-interval", "100ms"},
		{[]string{"--raft-read-timeout", "1s"}, "raft-read-timeout", "5s"},
		{[]string{"--warning-unary-request-duration", "0s"}, "warning-unary-request-duration", "300ms"},
		{[]string{"--bcrypt-cost", "99"}, "bcrypt-cost", "10"},
		{[]string{"--backend-bbolt-freelist-type", "list"}, "backend-bbolt-freelist-type", "map"},
		{[]string{"--backend-batch-interval", "20ms"}, "flush-interval", "20ms"},
		{[]string{"--cipher-suites", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"}, "cipher-suites", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
		{[]string{"--name", "a", "--initial-advertise-peer-urls", "http://127.0.0.1:2,http://127.0.0.1:1"}, "initial-cluster", "a=http://127.0.0.1:1,a=http://127.0.0.1:2"},
		{[]string{"--name", "a"}, "data-dir", "a.etcd"},
		{[]string{"--listen-peer-urls", ""}, "listen-peer-urls", "http://localhost:2380"},
	} {
		if got := valueOf(t, mustLoad(t, sources{args: c.args}), c.name); got != c.want {
			t.Errorf("%v: %s is %q, want %q", c.args, c.name, got, c.want)
		}
	}
}

func TestHelpAndVersionAreAnswered(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"--name", "a", "-help"}, {"--nonsense", "-h"}} {
		if _, err := (sources{args: args}).load(); !errors.Is(err, ErrHelp) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := (sources{args: []string{"--version"}}).load(); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	if _, err := (sources{args: []string{"--version=false"}}).load(); err != nil {
		t.Error(err)
	}
}

func TestDefaultsFollowTheMachine(t *testing.T) {
	host := func() (string, error) { return "10.1.2.3", nil }
	args := []string{
		"--listen-peer-urls=http://0.0.0.0:1", "--listen-client-urls=http://0.0.0.0:2",
		"--advertise-client-urls=http://localhost:2379", "--name=a",
	}
	c, err := load(args, nil, files{}.read, host, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"initial-advertise-peer-urls": "http://10.1.2.3:1",
		"advertise-client-urls":       "http://10.1.2.3:2",
		"initial-cluster":             "a=http://10.1.2.3:1",
	} {
		if got := valueOf(t, c, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if c, err = load(args, nil, files{}.read, noHost, false); err != nil {
		t.Fatal(err)
	}
	if got := valueOf(t, c, "initial-advertise-peer-urls"); got != "http://localhost:2380" {
		t.Errorf("without a route: %s", got)
	}
}

func TestTheStateDirectoryOfTheUnitIsTheDefault(t *testing.T) {
	c := mustLoad(t, sources{env: []string{"STATE_DIRECTORY=/var/lib/kvd"}})
	if c.Member.DataDir != "/var/lib/kvd" || c.Origin("data-dir").String() != "derived from STATE_DIRECTORY" {
		t.Errorf("%s from %s", c.Member.DataDir, c.Origin("data-dir"))
	}
	c = mustLoad(t, sources{env: []string{"STATE_DIRECTORY=/var/lib/kvd"}, args: []string{"--data-dir=/d"}})
	if c.Member.DataDir != "/d" {
		t.Errorf("%s", c.Member.DataDir)
	}
}

func TestCredentialsBecomePaths(t *testing.T) {
	s := sources{args: []string{"--key-file=credential:key"}, env: []string{"CREDENTIALS_DIRECTORY=/run/c"}}
	if c := mustLoad(t, s); c.ClientTLS.KeyFile != "/run/c/key" {
		t.Errorf("%s", c.ClientTLS.KeyFile)
	}
	s.env = nil
	faults := faultsOf(t, s)
	if len(faults) != 1 || faults[0].Source != "flag --key-file" || !strings.Contains(faults[0].Problem, "LoadCredential=") {
		t.Errorf("%v", faults)
	}
}

func TestKeysOfTokensMayBeCredentials(t *testing.T) {
	const jwt = "jwt,pub-key=%s/pub,priv-key=%s/key,sign-method=RS256"
	s := sources{args: []string{"--auth-token=jwt,pub-key=credential:pub,priv-key=credential:key,sign-method=RS256"}, env: []string{"CREDENTIALS_DIRECTORY=/run/c"}}
	if c := mustLoad(t, s); c.Auth.Token != strings.ReplaceAll(jwt, "%s", "/run/c") {
		t.Error(c.Auth.Token)
	}
	s.env = nil
	if faults := faultsOf(t, s); len(faults) != 1 || !strings.Contains(faults[0].Problem, "LoadCredential=") {
		t.Errorf("%v", faults)
	}
}

// aside looks at a configuration as an administrator does.
func aside(t *testing.T, path, text string) (*Config, error) {
	t.Helper()
	return load([]string{"--config-file=" + path}, nil, files{path: text}.read, noHost, true)
}

func TestWhoIsNotTheServiceSeesItsDataDirectory(t *testing.T) {
	for path, want := range map[string]string{
		"/etc/kvd/kvd.toml":   "/var/lib/kvd, derived from kvd.service",
		"/etc/kvd/other.toml": "/var/lib/kvd/other, derived from kvd@other.service",
		"/srv/kvd.toml":       "n1.etcd, derived from name",
	} {
		c, err := aside(t, path, `name = "n1"`)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Member.DataDir + ", " + c.Origin("data-dir").String(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	c, err := aside(t, "/etc/kvd/kvd.toml", `data-dir = "/srv/data"`)
	if err != nil || c.Member.DataDir != "/srv/data" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWhoIsNotTheServiceIsNotAskedForItsCredentials(t *testing.T) {
	c, err := aside(t, "/etc/kvd/kvd.toml", `
cert-file = "credential:crt"
key-file = "credential:key"
auth-token = "jwt,priv-key=credential:jwt,sign-method=HS256"
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientTLS.KeyFile != "credential:key" || c.Auth.Token != "jwt,priv-key=credential:jwt,sign-method=HS256" {
		t.Errorf("%s, %s", c.ClientTLS.KeyFile, c.Auth.Token)
	}
	if all := strings.Join(c.Warnings, "\n"); strings.Count(all, "for the service alone") != 3 || !strings.Contains(all, "key-file is credential:key, which is there") {
		t.Errorf("warnings: %s", all)
	}
	if _, err := aside(t, "/etc/kvd/kvd.toml", `cert-file = "credential:../crt"`); err == nil || !strings.Contains(err.Error(), "one path component") {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestRetentionIsReadAsItsModeSays(t *testing.T) {
	for _, c := range []struct {
		mode, text string
		window     time.Duration
		revisions  int64
	}{
		{"periodic", "0", 0, 0},
		{"periodic", "3", 3 * time.Hour, 0},
		{"periodic", "5m", 5 * time.Minute, 0},
		{"revision", "1000", 0, 1000},
	} {
		got := mustLoad(t, sources{args: []string{"--auto-compaction-mode", c.mode, "--auto-compaction-retention", c.text}}).Compaction
		if got.Window != c.window || got.Revisions != c.revisions {
			t.Errorf("%s %s: %v, %d", c.mode, c.text, got.Window, got.Revisions)
		}
	}
}

func TestForeignVariablesAreOnlyWarnedOf(t *testing.T) {
	c := mustLoad(t, sources{env: []string{
		"ETCD_NAME=x", "ETCD_UNSUPPORTED_ARCH=arm", "KVD_SERVICE_HOST=10.0.0.1", "KVD_PORT_2379_TCP=tcp://10.0.0.1:2379", "PATH=/bin",
	}})
	if c.Member.Name != "default" {
		t.Error("an ETCD_ variable was read")
	}
	warnings := strings.Join(c.Warnings, "\n")
	for _, want := range []string{
		"ETCD_NAME is not read; kvd's name for it is KVD_NAME", "ETCD_UNSUPPORTED_ARCH is not read",
		"KVD_SERVICE_HOST", "KVD_PORT_2379_TCP",
	} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning %q in\n%s", want, warnings)
		}
	}
}

// TestInsecureCipherSuitesAreWarnedOf: they are taken, as by etcd, but for its
// advisory GHSA-5x4g-q5rc-36jp.
func TestInsecureCipherSuitesAreWarnedOf(t *testing.T) {
	const good, bad = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"
	c := mustLoad(t, sources{args: []string{"--cipher-suites=" + good + "," + bad}})
	warnings := strings.Join(c.Warnings, "\n")
	if !strings.Contains(warnings, "cipher-suites: "+bad+" is not secure") || strings.Contains(warnings, good) {
		t.Errorf("warned of %q", c.Warnings)
	}
	if c := mustLoad(t, sources{}); len(c.TLS.CipherSuites) != 0 {
		t.Errorf("without the option, Go's own are not in force: %v", c.TLS.CipherSuites)
	}
}

func TestWhatEtcdCanDoThisVersionCan(t *testing.T) {
	for _, args := range []string{
		"--feature-gates=AllAlpha=true",
		"--initial-cluster=default=http://127.0.0.1:1,b=http://127.0.0.1:2",
		"--initial-cluster-state=existing",
		"--discovery-endpoints=a:1 --discovery-token=t",
		"--discovery-srv=example.com --discovery-srv-name=x",
		"--force-new-cluster",
		"--enable-distributed-tracing",
		"--auth-token=jwt,pub-key=a,sign-method=RS256",
	} {
		if _, err := (sources{args: strings.Fields(args)}).load(); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestDiscoveryTakesTheInitialClustersPlace: its default would be a second way
// to find the others.
func TestDiscoveryTakesTheInitialClustersPlace(t *testing.T) {
	for _, args := range []string{
		"--discovery-srv=example.com", "--discovery-srv-name=x", "--discovery-endpoints=a:1,b:2 --discovery-token=t",
		"--name=n1 --discovery-srv=example.com", "--name=n1 --discovery-endpoints=a:1 --discovery-token=t",
	} {
		c := mustLoad(t, sources{args: strings.Fields(args)})
		if len(c.Cluster.Initial.Members) != 0 {
			t.Errorf("%s: %v", args, c.Cluster.Initial)
		}
	}
}

func TestOneMemberOfKubeadmIsPossible(t *testing.T) {
	c := mustLoad(t, sources{args: strings.Fields(`
		--advertise-client-urls=https://10.0.0.5:2379 --cert-file=/etc/kubernetes/pki/etcd/server.crt
		--client-cert-auth=true --data-dir=/var/lib/etcd --feature-gates=InitialCorruptCheck=true
		--initial-advertise-peer-urls=https://10.0.0.5:2380 --initial-cluster=cp=https://10.0.0.5:2380
		--key-file=/etc/kubernetes/pki/etcd/server.key
		--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.5:2379
		--listen-metrics-urls=http://127.0.0.1:2381 --listen-peer-urls=https://10.0.0.5:2380 --name=cp
		--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt --peer-client-cert-auth=true
		--peer-key-file=/etc/kubernetes/pki/etcd/peer.key
		--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --snapshot-count=10000
		--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --watch-progress-notify-interval=5s`)})
	if len(c.Listen.Client) != 2 || c.ClientTLS.TrustedCAFile == "" || !c.PeerTLS.ClientCertAuth {
		t.Errorf("%+v %+v", c.Listen, c.ClientTLS)
	}
}
