package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kvd/internal/credential"
)

// The bounds of options that kvd or etcd refuses to go beyond.
const (
	electionPerHeartbeat = 5
	mostElection         = 50 * time.Second
	mostSamplingRate     = 1_000_000
	leastFlush           = time.Millisecond
	mostFlush            = time.Minute
)

// rule is what must hold of a few options. Its texts are etcd's where etcd
// has the rule, since scripts look for them.
type rule struct {
	options []string // the first that was set is to blame; none checked if one is bad
	broken  func(c *Config) (problem, suggestion string)
}

// rule checks all rules whose options are known.
func (l *loader) rule() {
	for _, part := range [][]rule{logRules(), urlRules(), clusterRules(), raftRules(), tlsRules(), otherRules(), spaceRules(), proxyRules()} {
		for _, r := range part {
			if slices.ContainsFunc(r.options, func(name string) bool { return l.bad[name] }) {
				continue
			}
			problem, suggestion := r.broken(l.config)
			if problem == "" {
				continue
			}
			name := r.options[0]
			for _, option := range r.options {
				if _, given := l.places[option]; given {
					name = option
					break
				}
			}
			l.faults = append(l.faults, l.blame(name).fault(name, problem, suggestion))
		}
	}
}

func logRules() []rule {
	return []rule{
		{[]string{"logger"}, func(c *Config) (string, string) {
			switch c.Log.Logger {
			case "zap":
				return "", ""
			case "capnslog":
				return "--logger=capnslog is removed in v3.5", "leave it out"
			}
			return fmt.Sprintf("unknown logger option %q", c.Log.Logger), "leave it out"
		}},
		{[]string{"log-format"}, func(c *Config) (string, string) {
			known := []string{"auto", "json", "text", "journal", "console"}
			if slices.Contains(known, c.Log.Format) {
				return "", ""
			}
			return fmt.Sprintf("unknown log format: %s, supported values json, console, text, journal, auto", c.Log.Format),
				strings.TrimPrefix(meant(c.Log.Format, known), "; ")
		}},
		{[]string{"log-outputs"}, func(c *Config) (string, string) {
			if len(c.Log.Outputs) < 2 {
				return "", ""
			}
			if slices.Contains(c.Log.Outputs, "default") {
				return `multi logoutput for "default" is not supported yet`, "write stderr instead of default"
			}
			if slices.Contains(c.Log.Outputs, "systemd/journal") {
				return fmt.Sprintf("running with systemd/journal but other '--log-outputs' values (%q) are configured",
					c.Log.Outputs), "name systemd/journal alone"
			}
			return "", ""
		}},
		{[]string{"enable-log-rotation", "log-outputs", "log-rotation-config-json"}, brokenRotation},
	}
}

func brokenRotation(c *Config) (string, string) {
	if !c.Log.Rotation {
		return "", ""
	}
	files := 0
	for _, output := range c.Log.Outputs {
		if !slices.Contains([]string{"default", "stderr", "stdout", "systemd/journal"}, output) {
			files++
		}
	}
	if files != 1 {
		return "--log-outputs requires a single file path when --log-rotate-config-json is defined", ""
	}
	rotation, err := c.Log.RotationPlan()
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil && min(rotation.MaxSize, rotation.MaxAge, rotation.MaxBackups) < 0:
		return "invalid log rotation config: a negative number", "want 0 or more"
	case err == nil:
		return "", ""
	case errors.As(err, &wrongType):
		return fmt.Sprintf("invalid log rotation config: %v", err), ""
	}
	return fmt.Sprintf("improperly formatted log rotation config: %v", err), ""
}

func clusterRules() []rule {
	return []rule{
		{[]string{"initial-cluster", "discovery-endpoints", "discovery-srv"}, func(c *Config) (string, string) {
			n := 0
			for _, given := range []bool{
				len(c.Cluster.Initial.Members) > 0, c.Discovery.SRVDomain != "", len(c.Discovery.Endpoints) > 0,
			} {
				if given {
					n++
				}
			}
			if n > 1 {
				return `multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", ` +
					`"discovery-endpoints" or "discovery-srv"`, ""
			}
			return "", ""
		}},
		{[]string{"discovery-token", "discovery-endpoints"}, func(c *Config) (string, string) {
			if (c.Discovery.Token != "") != (len(c.Discovery.Endpoints) > 0) {
				return "both --discovery-token and --discovery-endpoints must be set", ""
			}
			return "", ""
		}},
		{[]string{"discovery-endpoints"}, func(c *Config) (string, string) {
			if slices.ContainsFunc(c.Discovery.Endpoints, func(s string) bool { return strings.TrimSpace(s) == "" }) {
				return "--discovery-endpoints must not contain empty endpoints", ""
			}
			return "", ""
		}},
		{[]string{"discovery-cert", "discovery-key"}, func(c *Config) (string, string) {
			if (c.Discovery.CertFile != "") != (c.Discovery.KeyFile != "") {
				return fmt.Sprintf("KeyFile and CertFile must both be present[key: %v, cert: %v]", c.Discovery.KeyFile, c.Discovery.CertFile), ""
			}
			return "", ""
		}},
	}
}

func raftRules() []rule {
	return []rule{
		{[]string{"heartbeat-interval"}, func(c *Config) (string, string) {
			if c.Raft.HeartbeatInterval == 0 {
				return "--heartbeat-interval must be >0 (set to 0ms)", ""
			}
			return "", ""
		}},
		{[]string{"election-timeout"}, func(c *Config) (string, string) {
			if c.Raft.ElectionTimeout == 0 {
				return "--election-timeout must be >0 (set to 0ms)", ""
			}
			if c.Raft.ElectionTimeout > mostElection {
				return fmt.Sprintf("--election-timeout[%vms] is too long, and should be set less than %vms",
					c.Raft.ElectionTimeout.Milliseconds(), mostElection.Milliseconds()), ""
			}
			return "", ""
		}},
		{[]string{"election-timeout", "heartbeat-interval"}, func(c *Config) (string, string) {
			if c.Raft.ElectionTimeout > 0 && c.Raft.HeartbeatInterval > c.Raft.ElectionTimeout/electionPerHeartbeat {
				return fmt.Sprintf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]",
					c.Raft.ElectionTimeout.Milliseconds(), c.Raft.HeartbeatInterval.Milliseconds()), ""
			}
			return "", ""
		}},
	}
}

func otherRules() []rule {
	return []rule{
		{[]string{"auto-compaction-mode"}, func(c *Config) (string, string) {
			switch c.Compaction.Mode {
			case "periodic", "revision":
				return "", ""
			case "":
				return "undefined auto-compaction-mode", "want periodic or revision"
			}
			return fmt.Sprintf("unknown auto-compaction-mode %q", c.Compaction.Mode), "want periodic or revision"
		}},
		{[]string{"auto-compaction-retention"}, func(c *Config) (string, string) { // etcd would turn without rest
			if c.Compaction.Window < 0 || c.Compaction.Revisions < 0 {
				return fmt.Sprintf("%s is out of range", c.Compaction.Retention), "want 0 or more"
			}
			return "", ""
		}},
		{[]string{"distributed-tracing-sampling-rate", "enable-distributed-tracing"}, func(c *Config) (string, string) {
			const wrong = "distributed tracing configurition is not valid: (tracing sampling rate must be %s)" // etcd's spelling
			switch rate := c.Tracing.SamplingRate; {
			case c.Tracing.Enabled && rate < 0:
				return fmt.Sprintf(wrong, "positive"), ""
			case c.Tracing.Enabled && rate > mostSamplingRate:
				return fmt.Sprintf(wrong, fmt.Sprint("less than ", mostSamplingRate)), ""
			}
			return "", ""
		}},
		{[]string{"feature-gates"}, func(c *Config) (string, string) {
			if c.Gates.On(LeaseCheckpointPersist) && !c.Gates.On(LeaseCheckpoint) {
				return "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint", ""
			}
			return "", ""
		}},
		{[]string{"compact-hash-check-time"}, func(c *Config) (string, string) {
			if c.Checks.CompactHashInterval <= 0 {
				return fmt.Sprintf("--compact-hash-check-time must be >0 (set to %v)", c.Checks.CompactHashInterval), ""
			}
			return "", ""
		}},
		{[]string{"auth-token"}, func(c *Config) (string, string) {
			if _, err := credential.ParseSpec(c.Auth.Token); err != nil { // none at all is a kind, too
				return err.Error(), "want simple, or jwt with its options: jwt,sign-method=RS256,pub-key=…,priv-key=…,ttl=5m"
			}
			return "", ""
		}},
		{[]string{"corrupt-check-time"}, notNegative(func(c *Config) time.Duration { return c.Checks.CorruptInterval })},
		{[]string{"downgrade-check-time"}, notNegative(func(c *Config) time.Duration { return c.Checks.DowngradeInterval })},
		{[]string{"compaction-sleep-interval"}, notNegative(func(c *Config) time.Duration { return c.Compaction.SleepInterval })},
		{[]string{"compaction-batch-limit"}, notNegative(func(c *Config) int { return c.Compaction.BatchLimit })},
		{[]string{"max-learners"}, notNegative(func(c *Config) int { return c.Cluster.MaxLearners })},
		{[]string{"flush-interval"}, func(c *Config) (string, string) {
			if c.Store.FlushInterval < leastFlush || c.Store.FlushInterval > mostFlush {
				return fmt.Sprintf("%v is out of range", c.Store.FlushInterval),
					fmt.Sprintf("want %v to %v", leastFlush, durationText(mostFlush))
			}
			return "", ""
		}},
		{[]string{"flush-interval", "backend-batch-interval"}, func(c *Config) (string, string) {
			if old := c.sink.batchInterval; c.Given("flush-interval") && old != 0 && old != c.Store.FlushInterval {
				return fmt.Sprintf("%v contradicts backend-batch-interval %v, which means the same",
					c.Store.FlushInterval, old), "set one of them"
			}
			return "", ""
		}},
	}
}

// notNegative refuses values below zero, on which etcd would fail later.
func notNegative[T int | time.Duration](value func(*Config) T) func(*Config) (string, string) {
	return func(c *Config) (string, string) {
		if value(c) < 0 {
			return fmt.Sprintf("%v is out of range", value(c)), "want 0 or more"
		}
		return "", ""
	}
}
