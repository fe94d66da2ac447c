package config

func serviceOptions() []*option {
	return []*option{
		{
			name: "auth-token", section: sectionAuth, standard: "simple", values: "simple, or jwt and its options",
			help: "Kind of token that a user gets for a password.",
			bind: func(c *Config) value { return text{&c.Auth.Token} },
		},
		{
			name: "bcrypt-cost", section: sectionAuth, standard: "10", values: "4 to 31",
			help: "Cost of hashing a password.",
			bind: func(c *Config) value { return number[int]{&c.Auth.BcryptCost, 0} },
		},
		{
			name: "auth-token-ttl", section: sectionAuth, standard: "300",
			help: "Life of a token.",
			bind: func(c *Config) value { return seconds{&c.Auth.TokenTTL} },
		},
		{
			name: "enable-pprof", section: sectionMonitoring, standard: "false",
			help: "Serve profiles below /debug/pprof/ on the client URLs.",
			bind: func(c *Config) value { return boolean{&c.HTTP.Pprof} },
		},
		{
			name: "metrics", section: sectionMonitoring, standard: "basic", values: "basic or extensive",
			help: "Detail of the metrics; extensive adds histograms of gRPC calls.",
			bind: func(c *Config) value { return text{&c.HTTP.Metrics} },
		},
		{
			name: "listen-metrics-urls", section: sectionMonitoring,
			help: "URLs to listen on for metrics and health alone. https uses the certificate for clients.",
			bind: func(c *Config) value { return urls{&c.Listen.Metrics, ""} },
		},
	}
}

func observeOptions() []*option {
	return []*option{
		{
			name: "logger", section: sectionLog, standard: "zap", values: "zap",
			help: "Accepted for etcd's sake; the only value is zap.",
			bind: func(c *Config) value { return text{&c.Log.Logger} },
		},
		{
			name: "log-outputs", section: sectionLog, standard: "default",
			values: "list of default, stderr, stdout, systemd/journal and paths",
			help:   "Where the log goes; default is standard error.",
			bind:   func(c *Config) value { return set{&c.Log.Outputs} },
		},
		{
			name: "log-level", section: sectionLog, standard: "info", traits: reloadable,
			help: "Level below which nothing is logged.",
			bind: func(c *Config) value { return level{&c.Log.Level} },
		},
		{
			name: "log-format", section: sectionLog, standard: "auto", values: "auto, json, text or journal", traits: own,
			help: "How the log is written; auto means journal under systemd, else text. " +
				"etcd's console means text.",
			bind: func(c *Config) value { return text{&c.Log.Format} },
		},
		{
			name: "enable-log-rotation", section: sectionLog, standard: "false",
			help: "Rotate the one file that log-outputs names.",
			bind: func(c *Config) value { return boolean{&c.Log.Rotation} },
		},
		{
			name: "log-rotation-config-json", section: sectionLog, values: "JSON object",
			standard: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`,
			help:     "How: maxsize in MB, maxage in days (0: no limit), maxbackups (0: no limit), localtime, compress.",
			bind:     func(c *Config) value { return text{&c.Log.RotationJSON} },
		},
		{
			name: "warning-unary-request-duration", section: sectionLog, standard: "300ms",
			help: "Time after which a request is logged as slow (0 means the default).",
			bind: func(c *Config) value { return duration{&c.Limits.WarnUnary} },
		},
		{
			name: "enable-distributed-tracing", section: sectionTracing, standard: "false",
			help: "Send spans of requests to a collector.",
			bind: func(c *Config) value { return boolean{&c.Tracing.Enabled} },
		},
		{
			name: "distributed-tracing-address", section: sectionTracing, standard: "localhost:4317",
			help: "Address of the collector.",
			bind: func(c *Config) value { return text{&c.Tracing.Address} },
		},
		{
			name: "distributed-tracing-service-name", section: sectionTracing, standard: "etcd",
			help: "Name of the service in the spans, the same on all members.",
			bind: func(c *Config) value { return text{&c.Tracing.ServiceName} },
		},
		{
			name: "distributed-tracing-instance-id", section: sectionTracing,
			help: "Name of this member in the spans.",
			bind: func(c *Config) value { return text{&c.Tracing.InstanceID} },
		},
		{
			name: "distributed-tracing-sampling-rate", section: sectionTracing, standard: "0", values: "0 to 1000000",
			help: "How many of a million requests are traced.",
			bind: func(c *Config) value { return number[int]{&c.Tracing.SamplingRate, 0} },
		},
	}
}

func featureOptions() []*option {
	return []*option{
		{
			name: "corrupt-check-time", section: sectionFeatures, standard: "10m",
			help: "Time between two checks that all members hold the same data (0 means never; etcd's default is 0). After a check the leader rests at least 20 times as long as it took.",
			bind: func(c *Config) value { return duration{&c.Checks.CorruptInterval} },
		},
		{
			name: "compact-hash-check-time", section: sectionFeatures, standard: "1m",
			help: "Time between two checks of the hashes that members computed at a compaction, unless gate CompactHashCheck is off.",
			bind: func(c *Config) value { return duration{&c.Checks.CompactHashInterval} },
		},
		{
			name: "compaction-batch-limit", section: sectionFeatures, standard: "1000", values: "number of revisions",
			help: "Number of revisions that a compaction removes at once (0 means the default).",
			bind: func(c *Config) value { return number[int]{&c.Compaction.BatchLimit, 0} },
		},
		{
			name: "compaction-sleep-interval", section: sectionFeatures, standard: "10ms",
			help: "Least time between two such batches; each also waits until what the one before changed is on disk (0 means the default).",
			bind: func(c *Config) value { return duration{&c.Compaction.SleepInterval} },
		},
		{
			name: "watch-progress-notify-interval", section: sectionFeatures, standard: "10m",
			help: "Time after which an idle watcher that asked for it is told the revision (0 means the default; at least 100ms).",
			bind: func(c *Config) value { return duration{&c.Watch.ProgressInterval} },
		},
		{
			name: "warning-apply-duration", section: sectionFeatures, standard: "100ms",
			help: "Time after which an apply is logged as slow.",
			bind: func(c *Config) value { return duration{&c.Store.WarnApply} },
		},
		{
			name: "bootstrap-defrag-threshold-megabytes", section: sectionFeatures, standard: "0", values: "number of MiB",
			help: "Defragment the store at start if that frees at least this much (0 means never).",
			bind: func(c *Config) value { return number[uint]{&c.Store.DefragAtStartMiB, 0} },
		},
		{
			name: "downgrade-check-time", section: sectionFeatures, standard: "5s",
			help: "Time between two looks at whether a downgrade is under way.",
			bind: func(c *Config) value { return duration{&c.Checks.DowngradeInterval} },
		},
	}
}

func ownOptions() []*option {
	return []*option{
		{
			name: "config-file", section: sectionOwn, values: "path", traits: own | outside,
			help: "File of options in TOML. Not set: " + DefaultFile + " if it exists. Unlike etcd's, it is merged with flags and variables.",
			bind: func(c *Config) value { return text{&c.sink.configFile} },
		},
		{
			name: "allow-insecure-listen", section: sectionOwn, standard: "false", traits: own,
			help: "Listen for clients and members in plain text beyond this machine. Not set: it is warned about, and refused when authentication is on.",
			bind: func(c *Config) value { return boolean{&c.Listen.AllowPlain} },
		},
		{
			name: "value-cache-bytes", section: sectionOwn, standard: "64MiB", traits: own,
			help: "Memory for the values of the latest revisions (0 means none).",
			bind: func(c *Config) value { return size{&c.Store.ValueCacheBytes, false} },
		},
		{
			name: "flush-interval", section: sectionOwn, standard: "100ms", traits: own,
			help: "Time that rows may wait before they are written to the store. Nothing acknowledged depends on it: the log has it.",
			bind: func(c *Config) value { return duration{&c.Store.FlushInterval} },
		},
		{
			name: "max-inflight-requests", section: sectionOwn, standard: "16384", values: "1 to 1000000", traits: own,
			help: "Number of requests that run at once, of all clients together; more are refused (ResourceExhausted). Big ranges may take a quarter, writes and small ranges seven eighths; the rest is for revokes, members, alarms and health.",
			bind: func(c *Config) value { return number[uint]{&c.Limits.Inflight, 0} },
		},
		{
			name: "audit-log", section: sectionOwn, standard: "none", values: "none, writes or all", traits: own,
			help: "Which calls are written to the log with who made them, on which keys, and what came of it: none, what changes something or was denied, or reads too. Values never are.",
			bind: func(c *Config) value { return text{&c.Log.Audit} },
		},
		{
			name: "range-memory-bytes", section: sectionOwn, standard: "1GiB", traits: own,
			help: "Memory for the answers to ranges, of all clients together, until they are sent (0 means no limit). A range that does not fit is refused (ResourceExhausted).",
			bind: func(c *Config) value { return size{&c.Limits.RangeBytes, false} },
		},
		{
			name: "watch-stall-timeout", section: sectionOwn, standard: "5m", traits: own,
			help: "Time after which a watch stream is ended whose client does not read (0 means never). Clients watch again from where they were.",
			bind: func(c *Config) value { return duration{&c.Watch.StallTimeout} },
		},
		{
			name: "auto-disarm-nospace", section: sectionOwn, standard: "true", traits: own,
			help: "Lower this member's NOSPACE alarm when less than nine tenths of the quota are in use. false: somebody has to, as with etcd.",
			bind: func(c *Config) value { return boolean{&c.Store.AutoDisarm} },
		},
		{
			name: "auto-defrag-free-percent", section: sectionOwn, standard: "50", values: "0 to 100", traits: own,
			help: "Defragment the database when so much of its file is free (0 means never). Members do it one after the other, the leader last, and serve meanwhile.",
			bind: func(c *Config) value { return number[uint]{&c.Store.DefragFreePercent, 0} },
		},
		{
			name: "auto-defrag-free-bytes", section: sectionOwn, standard: "256MiB", traits: own,
			help: "And at least so much is free.",
			bind: func(c *Config) value { return size{&c.Store.DefragFreeBytes, false} },
		},
		{
			name: "auto-defrag-interval", section: sectionOwn, standard: "1m", traits: own,
			help: "Time between two looks at whether to defragment; the same on all members. A member that has defragmented rests for half an hour at least.",
			bind: func(c *Config) value { return duration{&c.Store.DefragInterval} },
		},
		{
			name: "version", section: sectionOwn, standard: "false", traits: outside,
			help: "Print the version and exit.",
			bind: func(c *Config) value { return boolean{&c.sink.version} },
		},
	}
}

func unsafeOptions() []*option {
	return []*option{
		{
			name: "force-new-cluster", section: sectionUnsafe, standard: "false",
			help: "Make a new cluster of this member alone out of its data.",
			bind: func(c *Config) value { return boolean{&c.Unsafe.ForceNewCluster} },
		},
		{
			name: "unsafe-no-fsync", section: sectionUnsafe, standard: "false",
			help: "Do not wait for the disk. A crash of the machine loses acknowledged writes.",
			bind: func(c *Config) value { return boolean{&c.Unsafe.NoFsync} },
		},
	}
}
