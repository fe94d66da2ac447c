package config

// The options of a proxy have the names that etcd 3.4 gave them.
func proxyOptions() []*option {
	return []*option{
		{
			name: "proxy", section: sectionProxy, standard: "off", traits: own,
			help: "Whether an empty data directory becomes a proxy's: off, on, or readonly, which refuses what writes.",
			bind: func(c *Config) value { return choice{&c.Proxy.Mode, []string{"off", "on", "readonly"}, ""} },
		},
		{
			name: "proxy-endpoints", section: sectionProxy, traits: own,
			help: "Client URLs that a proxy passes calls to. Not set: those that the members in initial-cluster or DNS tell.",
			bind: func(c *Config) value { return set{&c.Proxy.Endpoints} },
		},
		{
			name: "proxy-refresh-interval", section: sectionProxy, standard: "30s", traits: own,
			help: "How often a proxy looks who the members are.",
			bind: func(c *Config) value { return duration{&c.Proxy.Refresh} },
		},
		{
			name: "proxy-failure-wait", section: sectionProxy, standard: "5s", traits: own,
			help: "How long a proxy sets an endpoint aside that has failed.",
			bind: func(c *Config) value { return duration{&c.Proxy.FailureWait} },
		},
		{
			name: "proxy-dial-timeout", section: sectionProxy, standard: "1s", traits: own,
			help: "How long a call waits for an endpoint to be reached.",
			bind: func(c *Config) value { return duration{&c.Proxy.DialTimeout} },
		},
		{
			name: "proxy-namespace", section: sectionProxy, traits: own,
			help: "Prefix that a proxy puts before all keys at the members, and that its clients do not see.",
			bind: func(c *Config) value { return text{&c.Proxy.Namespace} },
		},
		{
			name: "proxy-leasing-prefix", section: sectionProxy, traits: own,
			help: "Prefix of the keys by which proxies own others, so that the owner answers reads of them without asking a member. All who write such keys must do so through proxies, or clients of etcd's leasing, with the same prefix.",
			bind: func(c *Config) value { return text{&c.Proxy.LeasingPrefix} },
		},
		{
			name: "proxy-leasing-ttl", section: sectionProxy, standard: "20s", traits: own,
			help: "How long a proxy that is gone owns its keys. For a third of it a proxy answers from them that hears nothing of the members.",
			bind: func(c *Config) value { return duration{&c.Proxy.LeasingTTL} },
		},
		{
			name: "proxy-serializable-ordering", section: sectionProxy, standard: "false", traits: own,
			help: "Whether a proxy answers no read from an older revision than one that it has answered from before.",
			bind: func(c *Config) value { return boolean{&c.Proxy.Ordering} },
		},
		{
			name: "proxy-cache-bytes", section: sectionProxy, standard: "0", traits: own,
			help: "How many bytes of answers to serializable ranges a proxy keeps, each as long as a watch tells of no change; 0 keeps none. Only callers without a token are answered so.",
			bind: func(c *Config) value { return size{to: &c.Proxy.CacheBytes} },
		},
		{
			name: "proxy-resolver-prefix", section: sectionProxy, traits: own,
			help: "Prefix of the keys at which proxies are registered with their advertise-client-urls. Clients are told these proxies as members.",
			bind: func(c *Config) value { return text{&c.Proxy.ResolverPrefix} },
		},
		{
			name: "proxy-resolver-ttl", section: sectionProxy, standard: "60s", traits: own,
			help: "How long a proxy that is gone stays registered.",
			bind: func(c *Config) value { return duration{&c.Proxy.ResolverTTL} },
		},
	}
}
