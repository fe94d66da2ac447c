package config

func memberOptions() []*option {
	return []*option{
		{
			name: "name", section: sectionMember, standard: "default",
			help: "Human-readable name for this member.",
			bind: func(c *Config) value { return text{&c.Member.Name} },
		},
		{
			name: "data-dir", section: sectionMember, values: "path",
			help: "Path to the data directory. Not set: the unit's state directory under systemd, else NAME.etcd.",
			bind: func(c *Config) value { return text{&c.Member.DataDir} },
		},
		{
			name: "wal-dir", section: sectionMember, values: "path",
			help: "Path to a directory for the log alone. Not set: below the data directory.",
			bind: func(c *Config) value { return text{&c.Member.WALDir} },
		},
		{
			name: "snapshot-count", section: sectionMember, standard: "10000", values: "number of entries",
			help: "Number of committed entries after which the log gets a snapshot (0 means the default).",
			bind: func(c *Config) value { return number[uint64]{&c.Raft.SnapshotCount, 64} },
		},
		{
			name: "snapshot-catchup-entries", section: sectionMember, standard: "5000", values: "number of entries",
			help: "Number of entries kept behind a snapshot for slow followers.",
			bind: func(c *Config) value { return number[uint64]{&c.Raft.SnapshotCatchupEntries, 64} },
		},
		{
			name: "heartbeat-interval", section: sectionMember, standard: "100",
			help: "Time of a heartbeat interval.",
			bind: func(c *Config) value { return millis{&c.Raft.HeartbeatInterval} },
		},
		{
			name: "election-timeout", section: sectionMember, standard: "1000",
			help: "Time without a leader after which an election begins; at least 5 heartbeat intervals, at most 50 s.",
			bind: func(c *Config) value { return millis{&c.Raft.ElectionTimeout} },
		},
		{
			name: "initial-election-tick-advance", section: sectionMember, standard: "true",
			help: "Do not wait a whole election timeout at a start when the other members turn out to be up.",
			bind: func(c *Config) value { return boolean{&c.Raft.InitialTickAdvance} },
		},
		{
			name: "listen-peer-urls", section: sectionMember, standard: "http://localhost:2380",
			help: "URLs to listen on for other members.",
			bind: func(c *Config) value { return urls{&c.Listen.Peer, "http://localhost:2380"} },
		},
		{
			name: "listen-client-urls", section: sectionMember, standard: "http://localhost:2379",
			help: "URLs to listen on for clients: gRPC, and HTTP as long as listen-client-http-urls is not set.",
			bind: func(c *Config) value { return urls{&c.Listen.Client, "http://localhost:2379"} },
		},
		{
			name: "listen-client-http-urls", section: sectionMember,
			help: "URLs to listen on for HTTP alone; listen-client-urls then serves gRPC alone.",
			bind: func(c *Config) value { return urls{&c.Listen.ClientHTTP, ""} },
		},
		{
			name: "max-snapshots", section: sectionMember, standard: "5", values: "number of files",
			help: "Number of snapshot files to keep (0 is unlimited). Deprecated by etcd.",
			bind: func(c *Config) value { return number[uint]{&c.Raft.MaxSnapshots, 0} },
		},
		{
			name: "max-wals", section: sectionMember, standard: "5", values: "number of files",
			help: "Number of log files to keep (0 is unlimited).",
			bind: func(c *Config) value { return number[uint]{&c.Raft.MaxWALs, 0} },
		},
		{
			name: "memory-mlock", section: sectionMember, standard: "false",
			help: "Lock the pages of the store in memory.",
			bind: func(c *Config) value { return boolean{&c.Member.MemoryLock} },
		},
		{
			name: "quota-backend-bytes", section: sectionMember, standard: "0",
			help: "Bytes in use in the store beyond which an alarm is raised and writes are refused (0 means 2 GiB, negative no quota). etcd counts free pages, too.",
			bind: func(c *Config) value { return size{&c.Store.QuotaBytes, true} },
		},
		{
			name: "backend-bbolt-freelist-type", section: sectionMember, standard: "map", values: "array or map",
			help: "Kind of free list of the store.",
			bind: func(c *Config) value { return text{&c.Store.FreelistType} },
		},
		{
			name: "backend-batch-interval", section: sectionMember, standard: "0",
			help: "etcd's name for flush-interval (0 leaves it to that option).",
			bind: func(c *Config) value { return duration{&c.sink.batchInterval} },
		},
		{
			name: "backend-batch-limit", section: sectionMember, standard: "0", values: "number of rows",
			help: "Accepted and of no effect: rows are written by flush-interval and by memory.",
			bind: func(c *Config) value { return number[int]{&c.Store.BatchLimit, 0} },
		},
		{
			name: "max-txn-ops", section: sectionMember, standard: "128", values: "number of operations",
			help: "Number of operations permitted in a transaction.",
			bind: func(c *Config) value { return number[uint]{&c.Limits.TxnOps, 0} },
		},
		{
			name: "max-request-bytes", section: sectionMember, standard: "1572864",
			help: "Size of a client request that is accepted.",
			bind: func(c *Config) value { return size{&c.Limits.RequestBytes, false} },
		},
		{
			name: "max-concurrent-streams", section: sectionMember, standard: "4294967295", values: "number of streams",
			help: "Number of streams that each client connection may have open.",
			bind: func(c *Config) value { return number[uint32]{&c.Limits.ConcurrentStreams, 32} },
		},
		{
			name: "grpc-keepalive-min-time", section: sectionMember, standard: "5s",
			help: "Least time between two pings of a client; one that pings more often is disconnected.",
			bind: func(c *Config) value { return duration{&c.GRPC.KeepAliveMinTime} },
		},
		{
			name: "grpc-keepalive-interval", section: sectionMember, standard: "2h",
			help: "Time of silence after which a client is pinged (0 means never).",
			bind: func(c *Config) value { return duration{&c.GRPC.KeepAliveInterval} },
		},
		{
			name: "grpc-keepalive-timeout", section: sectionMember, standard: "20s",
			help: "Time that a pinged client has to answer (0 means for ever).",
			bind: func(c *Config) value { return duration{&c.GRPC.KeepAliveTimeout} },
		},
		{
			name: "socket-reuse-port", section: sectionMember, standard: "false",
			help: "Set SO_REUSEPORT on listeners: several processes may share an address.",
			bind: func(c *Config) value { return boolean{&c.Listen.ReusePort} },
		},
		{
			name: "socket-reuse-address", section: sectionMember, standard: "false",
			help: "Set SO_REUSEADDR on listeners: an address in TIME_WAIT may be bound.",
			bind: func(c *Config) value { return boolean{&c.Listen.ReuseAddress} },
		},
		{
			name: "enable-grpc-gateway", section: sectionMember, standard: "true",
			help: "Serve the JSON gateway below /v3/.",
			bind: func(c *Config) value { return boolean{&c.HTTP.Gateway} },
		},
		{
			name: "raft-read-timeout", section: sectionMember, standard: "5s",
			help: "Read timeout of connections between members; at least 5s.",
			bind: func(c *Config) value { return duration{&c.Raft.ReadTimeout} },
		},
		{
			name: "raft-write-timeout", section: sectionMember, standard: "5s",
			help: "Write timeout of connections between members; at least 5s.",
			bind: func(c *Config) value { return duration{&c.Raft.WriteTimeout} },
		},
		{
			name: "feature-gates", section: sectionMember, values: "list of GATE=true or GATE=false",
			help: "Switches of features that are not final: " + gateNames() + ". Unlike in etcd, CompactHashCheck, InitialCorruptCheck and LeaseCheckpoint are on unless switched off.",
			bind: func(c *Config) value { return gates{&c.Gates} },
		},
	}
}
