package config

func clusterOptions() []*option {
	return []*option{
		{
			name: "initial-advertise-peer-urls", section: sectionCluster, standard: "http://localhost:2380",
			help: "This member's peer URLs as told to the other members.",
			bind: func(c *Config) value { return urls{&c.Advertise.Peer, "http://localhost:2380"} },
		},
		{
			name: "initial-cluster", section: sectionCluster, standard: "default=http://localhost:2380",
			values: "list of NAME=URL",
			help:   "The members of a new cluster. Not set: this member alone, by its name and advertised peer URLs.",
			bind:   func(c *Config) value { return members{&c.Cluster.Initial} },
		},
		{
			name: "initial-cluster-state", section: sectionCluster, standard: "new",
			help: "Whether this member begins a new cluster or joins an existing one. Of no effect once it has data.",
			bind: func(c *Config) value {
				return choice{&c.Cluster.State, []string{"new", "existing"}, "unexpected clusterState %q"}
			},
		},
		{
			name: "initial-cluster-token", section: sectionCluster, standard: "etcd-cluster",
			help: "Token that keeps new clusters with equal members apart.",
			bind: func(c *Config) value { return text{&c.Cluster.Token} },
		},
		{
			name: "advertise-client-urls", section: sectionCluster, standard: "http://localhost:2379",
			help: "This member's client URLs as told to clients. Required when listen-client-urls is set.",
			bind: func(c *Config) value { return urls{&c.Advertise.Client, "http://localhost:2379"} },
		},
		{
			name: "strict-reconfig-check", section: sectionCluster, standard: "true",
			help: "Refuse changes of the membership that would lose the quorum.",
			bind: func(c *Config) value { return boolean{&c.Cluster.StrictReconfig} },
		},
		{
			name: "pre-vote", section: sectionCluster, standard: "true",
			help: "Ask before an election, so that a member that was cut off does not disrupt the others.",
			bind: func(c *Config) value { return boolean{&c.Raft.PreVote} },
		},
		{
			name: "max-learners", section: sectionCluster, standard: "1", values: "number of members",
			help: "Number of learners that the cluster may have.",
			bind: func(c *Config) value { return number[int]{&c.Cluster.MaxLearners, 0} },
		},
		{
			name: "auto-compaction-mode", section: sectionCluster, standard: "periodic", values: "periodic or revision",
			help: "What auto-compaction-retention counts: time, or revisions.",
			bind: func(c *Config) value { return text{&c.Compaction.Mode} },
		},
		{
			name: "auto-compaction-retention", section: sectionCluster, standard: "0",
			values: "duration, or integer of hours or revisions",
			help:   "How much of the past is kept when compacting by itself (0 means never).",
			bind:   func(c *Config) value { return text{&c.Compaction.Retention} },
		},
		{
			name: "v2-deprecation", section: sectionCluster, standard: "write-only",
			values: "write-only, write-only-skip-check, write-only-drop-data or gone",
			help:   "Accepted and of no effect, as in etcd.",
			bind:   func(c *Config) value { return deprecation{&c.sink.v2Deprecation} },
		},
	}
}

func discoveryOptions() []*option {
	return []*option{
		{
			name: "discovery-token", section: sectionCluster,
			help: "Token of the cluster to discover.",
			bind: func(c *Config) value { return text{&c.Discovery.Token} },
		},
		{
			name: "discovery-endpoints", section: sectionCluster,
			help: "gRPC endpoints of the discovery service.",
			bind: func(c *Config) value { return set{&c.Discovery.Endpoints} },
		},
		{
			name: "discovery-dial-timeout", section: sectionCluster, standard: "2s",
			help: "Time that connecting to the discovery service may take.",
			bind: func(c *Config) value { return duration{&c.Discovery.DialTimeout} },
		},
		{
			name: "discovery-request-timeout", section: sectionCluster, standard: "5s",
			help: "Time that a request to the discovery service may take.",
			bind: func(c *Config) value { return duration{&c.Discovery.RequestTimeout} },
		},
		{
			name: "discovery-keepalive-time", section: sectionCluster, standard: "2s",
			help: "Time of silence after which the discovery service is pinged.",
			bind: func(c *Config) value { return duration{&c.Discovery.KeepAliveTime} },
		},
		{
			name: "discovery-keepalive-timeout", section: sectionCluster, standard: "6s",
			help: "Time that the pinged discovery service has to answer.",
			bind: func(c *Config) value { return duration{&c.Discovery.KeepAliveTimeout} },
		},
		{
			name: "discovery-insecure-transport", section: sectionCluster, standard: "true",
			help: "Connect to the discovery service without TLS.",
			bind: func(c *Config) value { return boolean{&c.Discovery.InsecureTransport} },
		},
		{
			name: "discovery-insecure-skip-tls-verify", section: sectionCluster, standard: "false",
			help: "Do not verify the certificate of the discovery service. For tests only.",
			bind: func(c *Config) value { return boolean{&c.Discovery.InsecureSkipVerify} },
		},
		{
			name: "discovery-cert", section: sectionCluster, traits: path,
			help: "Certificate shown to the discovery service.",
			bind: func(c *Config) value { return text{&c.Discovery.CertFile} },
		},
		{
			name: "discovery-key", section: sectionCluster, traits: path,
			help: "Key of that certificate.",
			bind: func(c *Config) value { return text{&c.Discovery.KeyFile} },
		},
		{
			name: "discovery-cacert", section: sectionCluster, traits: path,
			help: "Certificates of the authorities that the discovery service is verified by.",
			bind: func(c *Config) value { return text{&c.Discovery.CAFile} },
		},
		{
			name: "discovery-user", section: sectionCluster, values: "NAME or NAME:PASSWORD", traits: secret,
			help: "User at the discovery service.",
			bind: func(c *Config) value { return text{&c.Discovery.User} },
		},
		{
			name: "discovery-password", section: sectionCluster, traits: secret,
			help: "Password of that user, if not given with the name.",
			bind: func(c *Config) value { return text{&c.Discovery.Password} },
		},
		{
			name: "discovery-fallback", section: sectionCluster, standard: "proxy",
			help: "What to become when the cluster to discover is full: a proxy of it, or nothing (exit).",
			bind: func(c *Config) value { return choice{&c.Discovery.Fallback, []string{"exit", "proxy"}, ""} },
		},
		{
			name: "discovery-srv", section: sectionCluster, values: "DNS domain",
			help: "Domain whose SRV records name the members of a new cluster.",
			bind: func(c *Config) value { return text{&c.Discovery.SRVDomain} },
		},
		{
			name: "discovery-srv-name", section: sectionCluster,
			help: "Suffix of the service name that is asked for.",
			bind: func(c *Config) value { return text{&c.Discovery.SRVName} },
		},
	}
}
