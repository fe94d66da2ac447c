package config

import (
	"strings"
	"testing"
)

// broken are configurations with one fault each: where it is found, and the
// words that must be in it.
var broken = []struct {
	args   string // split at spaces
	source string
	text   string
}{
	// The command line itself.
	{"--max-wals abc", "flag --max-wals", `invalid value "abc" for flag -max-wals: parse error`},
	{"--max-wals -1", "flag --max-wals", "parse error"},
	{"--max-wals 99999999999999999999", "flag --max-wals", "value out of range"},
	{"--max-concurrent-streams 4294967296", "flag --max-concurrent-streams", "value out of range"},
	{"--pre-vote=x", "flag --pre-vote", `invalid boolean value "x" for -pre-vote: parse error`},
	{"--pre-vote true", "command line", `"true" is not a valid flag; a boolean flag takes its value as --flag=true`},
	{"extra", "command line", `"extra" is not a valid flag`},
	{"-- extra", "command line", `"extra" is not a valid flag`},
	{"-", "command line", `"-" is not a valid flag`},
	{"---x", "command line", "bad flag syntax: ---x"},
	{"--=x", "command line", "bad flag syntax: --=x"},
	{"--name", "flag --name", "flag needs an argument: -name"},
	{
		"-listen-client-url http://127.0.0.1:1", "flag --listen-client-url",
		`flag provided but not defined: -listen-client-url; did you mean "listen-client-urls"?`,
	},
	{"--experimental-max-learners=2", "flag --experimental-max-learners", "it is no longer experimental; write max-learners"},
	{"--experimental-leasing-prefix=l/", "flag --experimental-leasing-prefix", "that is how etcd's grpc-proxy calls it; write proxy-leasing-prefix"},
	{"--proxy on --proxy-leasing-prefix=l/ --proxy-leasing-ttl=1500ms", "flag --proxy-leasing-ttl", "1.5s cannot be the time of a lease"},
	{"--proxy readonly --proxy-leasing-prefix=l/", "flag --proxy-leasing-prefix", "a read-only proxy writes nothing"},
	{"--enable-v2", "flag --enable-v2", "gone"},
	{"--grpc-keepalive-timeout 5", "flag --grpc-keepalive-timeout", `parse error; want duration such as "100ms"`},
	{"--heartbeat-interval 100us", "flag --heartbeat-interval", "whole milliseconds"},
	{"--heartbeat-interval -1", "flag --heartbeat-interval", "parse error"},
	{"--quota-backend-bytes 4Gib", "flag --quota-backend-bytes", "parse error"},
	{"--quota-backend-bytes 9999999TiB", "flag --quota-backend-bytes", "value out of range"},
	{"--max-request-bytes -1", "flag --max-request-bytes", "parse error"},
	{"--initial-cluster-state x", "flag --initial-cluster-state", `invalid value "x" for flag -initial-cluster-state: invalid value`},
	{"--initial-cluster-state x", "flag --initial-cluster-state", `unexpected clusterState "x"`},
	{"--discovery-fallback x", "flag --discovery-fallback", "invalid value"},
	{"--v2-deprecation not-yet", "flag --v2-deprecation", `invalid value "not-yet"`},
	{"--log-level loud", "flag --log-level", `unrecognized level: "loud"`},
	{"--feature-gates Nope=true", "flag --feature-gates", "unrecognized feature gate: Nope"},
	{"--feature-gates InitialCorruptChek=true", "flag --feature-gates", `did you mean "InitialCorruptCheck"?`},
	{"--feature-gates AllAlpha", "flag --feature-gates", "missing bool value for AllAlpha"},
	{"--feature-gates AllAlpha=si", "flag --feature-gates", "invalid value of AllAlpha=si"},
	{"--tls-min-version TLS1.1", "flag --tls-min-version", `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`},
	{"--cipher-suites FOO", "flag --cipher-suites", `unexpected TLS cipher suite "FOO"`},
	{"--config-file /absent.toml", "flag --config-file", "cannot read /absent.toml"},
	// URLs.
	{"--listen-metrics-urls localhost:1", "flag --listen-metrics-urls", "URL scheme must be http, https, unix, or unixs: localhost:1"},
	{"--listen-metrics-urls http://localhost", "flag --listen-metrics-urls", `URL address does not have the form "host:port"`},
	{"--listen-metrics-urls http://localhost:1/x", "flag --listen-metrics-urls", "URL must not contain a path"},
	{"--cors http://a.com", "flag --cors", "host:port"},
	{"--initial-cluster a=b", "flag --initial-cluster", "error setting up initial cluster: URL scheme must be"},
	{"--listen-peer-urls http://kvd.example:1", "flag --listen-peer-urls", "expected IP in URL for binding (http://kvd.example:1)"},
	{"--listen-client-urls http://kvd.example:1 --advertise-client-urls http://a:1", "flag --listen-client-urls", "expected IP in URL for binding"},
	{"--listen-client-http-urls http://:1", "flag --listen-client-http-urls", "expected IP in URL for binding"},
	{"--listen-metrics-urls http://kvd.example:1", "flag --listen-metrics-urls", "expected IP in URL for binding"},
	{
		"--initial-advertise-peer-urls http://:1", "flag --initial-advertise-peer-urls",
		`--initial-advertise-peer-urls "http://:1" must be "host:port" (unexpected empty host (http://:1))`,
	},
	{
		"--advertise-client-urls http://:1", "flag --advertise-client-urls",
		`--advertise-client-urls "http://:1" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (http://:1))`,
	},
	{
		"--listen-client-urls http://127.0.0.1:1", "flag --listen-client-urls",
		"--advertise-client-urls is required when --listen-client-urls is set explicitly",
	},
	{
		"--listen-client-http-urls http://localhost:2379", "flag --listen-client-http-urls",
		"cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
	},
	{"--listen-metrics-urls http://localhost:2379", "flag --listen-metrics-urls", "both name http://localhost:2379"},
	{"--listen-peer-urls http://localhost:2379", "flag --listen-peer-urls", "both name http://localhost:2379"},
	// The cluster.
	{
		"--initial-cluster a=http://a:1 --discovery-srv x", "flag --initial-cluster",
		`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`,
	},
	{
		"--initial-cluster a=http://a:1 --discovery-endpoints a:1 --discovery-token t", "flag --initial-cluster",
		"multiple discovery or bootstrap flags are set.",
	},
	{"--discovery-srv x --discovery-endpoints a:1 --discovery-token t", "flag --discovery-endpoints", "multiple discovery or bootstrap flags are set."},
	{"--discovery-endpoints a:1", "flag --discovery-endpoints", "both --discovery-token and --discovery-endpoints must be set"},
	{
		"--discovery-endpoints a:1 --discovery-token t --discovery-cert c", "flag --discovery-cert",
		"KeyFile and CertFile must both be present[key: , cert: c]",
	},
	{
		"--discovery-endpoints a:1 --discovery-token t --discovery-key k", "flag --discovery-key",
		"KeyFile and CertFile must both be present[key: k, cert: ]",
	},
	{"--discovery-token t", "flag --discovery-token", "both --discovery-token and --discovery-endpoints must be set"},
	{"--discovery-endpoints a:1,, --discovery-token t", "flag --discovery-endpoints", "--discovery-endpoints must not contain empty endpoints"},
	// Raft.
	{"--heartbeat-interval 0", "flag --heartbeat-interval", "--heartbeat-interval must be >0 (set to 0ms)"},
	{"--election-timeout 0", "flag --election-timeout", "--election-timeout must be >0 (set to 0ms)"},
	{
		"--heartbeat-interval 300", "flag --heartbeat-interval",
		"--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
	},
	{"--election-timeout 60000", "flag --election-timeout", "--election-timeout[60000ms] is too long, and should be set less than 50000ms"},
	// The log.
	{"--logger capnslog", "flag --logger", "--logger=capnslog is removed in v3.5"},
	{"--logger x", "flag --logger", `unknown logger option "x"`},
	{"--log-format jsn", "flag --log-format", `unknown log format: jsn, supported values json, console`},
	{"--log-outputs default,stdout", "flag --log-outputs", `multi logoutput for "default" is not supported yet`},
	{"--log-outputs systemd/journal,stdout", "flag --log-outputs", "running with systemd/journal but other '--log-outputs' values"},
	{"--enable-log-rotation", "flag --enable-log-rotation", "--log-outputs requires a single file path when --log-rotate-config-json is defined"},
	{"--enable-log-rotation --log-outputs a,b", "flag --enable-log-rotation", "requires a single file path"},
	{"--enable-log-rotation --log-outputs a --log-rotation-config-json {", "flag --enable-log-rotation", "improperly formatted log rotation config"},
	{`--enable-log-rotation --log-outputs a --log-rotation-config-json {"maxsize":-1}`, "flag --enable-log-rotation", "a negative number"},
	{`--enable-log-rotation --log-outputs a --log-rotation-config-json {"maxsize":"a"}`, "flag --enable-log-rotation", "invalid log rotation config"},
	// TLS.
	{
		"--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1", "flag --listen-client-urls",
		"TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
	},
	{"--listen-client-http-urls https://127.0.0.1:1 --cert-file a", "flag --cert-file", "KeyFile and CertFile must both be present[key: , cert: a]"},
	{
		"--listen-peer-urls https://127.0.0.1:1", "flag --listen-peer-urls",
		"cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
	},
	{
		"--listen-metrics-urls https://127.0.0.1:1", "flag --listen-metrics-urls",
		"client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
	},
	{"--cert-file a --key-file b --client-cert-file a", "flag --client-cert-file", "ClientKeyFile and ClientCertFile must both be present or both absent"},
	{"--peer-cert-file a --peer-key-file b --peer-client-key-file a", "flag --peer-client-key-file", "ClientKeyFile and ClientCertFile must both be present or both absent"},
	{"--peer-cert-file a --peer-key-file b --peer-cert-allowed-cn a --peer-cert-allowed-hostname b", "flag --peer-cert-allowed-cn", "AllowedCNs and AllowedHostnames are mutually exclusive"},
	{"--auto-tls --self-signed-cert-validity 0", "flag --self-signed-cert-validity", "selfSignedCertValidity is invalid"},
	{"--tls-min-version TLS1.3 --tls-max-version TLS1.2", "flag --tls-max-version", "min version (TLS1.3) is greater than max version (TLS1.2)"},
	{
		"--tls-min-version TLS1.3 --cipher-suites TLS_AES_128_GCM_SHA256", "flag --cipher-suites",
		"cipher suites cannot be configured when only TLS1.3 is enabled",
	},
	// The rest.
	{"--auto-compaction-mode=", "flag --auto-compaction-mode", "undefined auto-compaction-mode"},
	{"--auto-compaction-mode x", "flag --auto-compaction-mode", `unknown auto-compaction-mode "x"`},
	{"--auto-compaction-retention x", "flag --auto-compaction-retention", `error parsing CompactionRetention: time: invalid duration "x"`},
	{"--auto-compaction-retention -1h", "flag --auto-compaction-retention", "-1h is out of range; want 0 or more"},
	{"--auto-compaction-retention 9999999999", "flag --auto-compaction-retention", "value out of range"},
	{
		"--enable-distributed-tracing --distributed-tracing-sampling-rate -1", "flag --distributed-tracing-sampling-rate",
		"distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
	},
	{"--enable-distributed-tracing --distributed-tracing-sampling-rate 1000001", "flag --distributed-tracing-sampling-rate", "must be less than 1000000"},
	{
		"--feature-gates LeaseCheckpoint=false,LeaseCheckpointPersist=true", "flag --feature-gates",
		"enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
	},
	{"--compact-hash-check-time 0", "flag --compact-hash-check-time", "--compact-hash-check-time must be >0 (set to 0s)"},
	{"--auth-token x", "flag --auth-token", "auth: invalid auth options"},
	{"--corrupt-check-time -5s", "flag --corrupt-check-time", "-5s is out of range; want 0 or more"},
	{"--downgrade-check-time -5s", "flag --downgrade-check-time", "out of range"},
	{"--compaction-sleep-interval -5s", "flag --compaction-sleep-interval", "out of range"},
	{"--compaction-batch-limit -1", "flag --compaction-batch-limit", "out of range"},
	{"--max-learners -1", "flag --max-learners", "out of range"},
	{"--flush-interval 0s", "flag --flush-interval", "want 1ms to 1m"},
	{"--flush-interval 20ms --backend-batch-interval 30ms", "flag --flush-interval", "contradicts backend-batch-interval 30ms"},
}

func TestEachBrokenRuleIsOneFault(t *testing.T) {
	for _, c := range broken {
		faults := faultsOf(t, sources{args: strings.Split(c.args, " ")})
		if len(faults) != 1 {
			t.Errorf("%s: %d faults\n%v", c.args, len(faults), faults)
			continue
		}
		if faults[0].Source != c.source || !strings.Contains(faults[0].Error(), c.text) {
			t.Errorf("%s:\n got %v\nwant %s: %s", c.args, faults[0], c.source, c.text)
		}
	}
}

func TestFaultsNameTheVariable(t *testing.T) {
	for variable, text := range map[string]string{
		"KVD_MAX_WALS=abc":          `environment KVD_MAX_WALS: max-wals: invalid value "abc" for KVD_MAX_WALS: parse error; want number of files`,
		"KVD_MAX_WAL=1":             `environment KVD_MAX_WAL: unknown option; did you mean "KVD_MAX_WALS"?`,
		"KVD_NOTHING_LIKE_IT=1":     "environment KVD_NOTHING_LIKE_IT: unknown option",
		"KVD_HEARTBEAT_INTERVAL=1s": "environment KVD_HEARTBEAT_INTERVAL: heartbeat-interval: --election-timeout[1000ms] should be at least as 5 times",
		"KVD_CONFIG_FILE=/absent":   "environment KVD_CONFIG_FILE: config-file: cannot read /absent",
	} {
		faults := faultsOf(t, sources{env: []string{variable}})
		if len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), text) {
			t.Errorf("%s:\n got %v\nwant %s", variable, faults, text)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	const password = "hunter2"
	s := sources{args: []string{"--discovery-password", password, "--discovery-user", "a:" + password}}
	text, _ := Explain(s.args, nil, files{}.read)
	if strings.Contains(text, password) || !strings.Contains(text, "(hidden)") {
		t.Errorf("shown in\n%s", text)
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	faults := faultsOf(t, sources{
		file: "max-wals = \"many\"\nheartbeat-interval = 300\nlisten-client-url = \"http://localhost:1\"\npre-vote = 1\n",
		env:  []string{"KVD_MAX_TXN_OPS=x", "KVD_MAX_TXN_OP=1"},
		args: []string{"--nonsense", "--metrics", "basic", "--auto-compaction-mode=x", "--tls-min-version", "TLS1.0"},
	})
	var sources []string
	for _, f := range faults {
		sources = append(sources, f.Source)
	}
	want := DefaultFile + ":1:1 " + DefaultFile + ":2:1 " + DefaultFile + ":3:1 " + DefaultFile + ":4:1 " +
		"flag --nonsense environment KVD_MAX_TXN_OP environment KVD_MAX_TXN_OPS flag --tls-min-version flag --auto-compaction-mode"
	if got := strings.Join(sources, " "); got != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, faults)
	}
}
